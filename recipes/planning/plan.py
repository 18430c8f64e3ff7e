"""`estimate`: what a run takes of every device, as `prompter plan` and `--dry-run` say it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from prompter.policy import Policy
from recipes.config import TrainConfig
from recipes.planning.layers import Training
from recipes.planning.model import ModelShape, PromptTokens, open_shape, prompt_tokens
from recipes.planning.parts import GIB, Device, Item, Part, Request, group_alike, lay_out
from recipes.planning.rates import Rates, TimePlan, plan_time
from recipes.planning.services import (
    PROCESS_BASE,
    RAY_BASE,
    engine_items,
    engine_on_cpu,
    engine_shortage,
    in_process_items,
    segmenter_items,
)
from recipes.planning.trainer import (
    model_items,
    on_cpu,
    rank_count,
    setting,
    step_items,
    trained_dtype,
    window_prompts,
)
from recipes.training.checks import executor_configs


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Args:
        config: the run.
        shape: its model.
        tokens: of a prompt.
        completion: tokens of the longest completion.
        devices: GPUs and machines with what is on them.
        time: seconds and GPU-hours, where rates are known.
        problems: sentences about what cannot work, besides what a device has too little of.
        notes: sentences about where figures are from.
    """

    config: TrainConfig
    shape: ModelShape
    tokens: PromptTokens
    completion: int
    devices: tuple[Device, ...]
    time: TimePlan | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def gpus(self) -> int:
        """GPUs that the run uses."""
        return sum(device.count for device in self.devices if device.name.startswith("GPU"))

    @property
    def fits(self) -> bool | None:
        """Whether every device's memory is enough; None where no memory was given."""
        known = [device.fits for device in self.devices if device.fits is not None]
        if self.problems:
            return False
        return all(known) if known else None

    @property
    def peak(self) -> float:
        """Bytes of the device that takes most."""
        return max(device.peak for device in self.devices)


def estimate(
    config: TrainConfig,
    *,
    memory_gib: float | None = None,
    host_gib: float | None = None,
    gpus: int | None = None,
    image_wh: tuple[int, int] | None = None,
    rates: Rates | None = None,
) -> Plan:
    """Estimate what a run takes. Loads no weights and opens no dataset.

    Args:
        config: the run.
        memory_gib: GiB of one GPU (of the machine, where the run uses no GPU); None does not compare.
        host_gib: GiB of the machine's memory beside GPUs; None does not compare.
        gpus: how many GPUs there are; None takes as many as the run asks for.
        image_wh: size of the data's images (width, height) in pixels, where the policy keeps their ratio.
        rates: how fast the parts work, for time and GPU-hours.

    Raises:
        UserError: if the model's shape cannot be had, or settings do not go with it.
    """
    shape = open_shape(config.policy.model)
    tokens, policy = prompt_tokens(config, shape, image_wh)
    completion = int(config.trainer.get("max_completion_length") or policy.settings.max_new_tokens)
    memory = None if memory_gib is None else memory_gib * GIB
    host = None if host_gib is None else host_gib * GIB
    all_on_host = on_cpu(config)
    trainer, others, on_host = _processes(
        config, shape, policy, tokens, completion, None if all_on_host else memory
    )
    if all_on_host:
        cards: list[list[Part]] = []
        on_host = [trainer, *on_host]
    else:
        ranks = [Request(trainer, 1.0)] * rank_count(config)
        reserved = getattr(getattr(config, "ranks", None), "num_gpus", 0)
        if reserved:
            ranks = [Request(trainer, float(reserved))] * rank_count(config)
            cards = lay_out([*ranks, *others], None, gpus)
        elif rank_count(config) > 1:
            cards = lay_out([*ranks, *others], None, gpus)
        else:
            cards = lay_out(others, trainer, gpus)
    devices = group_alike(cards, memory)
    if on_host:
        limit = memory if all_on_host and host is None else host
        names = [part.name for part in on_host]
        unique = {part.name: part for part in on_host}
        parts = [(part, names.count(name)) for name, part in unique.items()]
        if any(part.name != "trainer" for part in on_host) and _uses_ray(config):
            parts.append((Part("Ray", (Item("its processes", RAY_BASE, "measured"),)), 1))
        devices.append(Device("this machine", 1, tuple(parts), limit))
    problems = []
    if gpus is not None and len(cards) > gpus:
        problems.append(f"the shares of GPUs add up to {len(cards)} GPUs, but there are {gpus}")
    uses_engine = config.sampler.backend != "hf"
    if memory is not None and uses_engine and not engine_on_cpu(config) and not all_on_host:
        short = engine_shortage(config, shape, policy, tokens, completion, memory)
        if short > 0:
            problems.append(
                f"an engine's share, {config.sampler.gpu_memory_utilization:g} of {memory / GIB:g} GiB, is "
                f"{short / GIB:.1f} GiB too small for the weights and one sequence of full length"
            )
    plan = Plan(
        config, shape, tokens, completion, tuple(devices), None, tuple(problems), _notes(shape, tokens)
    )
    if rates is None:
        return plan
    return replace(plan, time=plan_time(config, tokens.total, rates, plan.gpus))


def _processes(
    config: TrainConfig,
    shape: ModelShape,
    policy: Policy,
    tokens: PromptTokens,
    completion: int,
    memory: float | None,
) -> tuple[Part, list[Request], list[Part]]:
    """The trainer, what reserves GPUs, and what runs on the host."""
    cpu = on_cpu(config)
    base = Item("the process", PROCESS_BASE["host" if cpu else "gpu"], "measured" if cpu else "assumed")
    items = [base, *model_items(config, shape)]
    requests: list[Request] = []
    on_host: list[Part] = []
    if config.sampler.backend == "hf":
        lora = config.policy.lora
        training = Training(trained_dtype(config, shape), None, None if lora is None else lora.r)
        items += in_process_items(config, shape, tokens, completion, training)
    images = _images(config)
    for number, executor in enumerate(executor_configs(config), start=1):
        name = "segmenter" if number == 1 else f"segmenter {number}"
        held = segmenter_items(executor, images)
        if executor.backend == "local":
            items += held
            continue
        where = "gpu" if executor.num_gpus and not cpu else "host"
        part = Part(name, (Item("the process", PROCESS_BASE[where], "as above"), *held))
        if where == "gpu":
            requests += [Request(part, executor.num_gpus)] * executor.actors
        else:
            on_host += [part] * executor.actors
    items += step_items(config, shape, tokens, completion)
    if config.sampler.backend != "hf":
        held = engine_items(config, shape, policy, tokens, completion, memory)
        if engine_on_cpu(config):
            held = [Item("the process", PROCESS_BASE["host"], "as above"), *held]
        part = Part("engine", tuple(held))
        if config.sampler.backend == "vllm":
            items += [replace(item, name=f"engine: {item.name}") for item in held]
        elif engine_on_cpu(config):
            on_host += [part] * config.sampler.actors
        else:
            span = config.sampler.tensor_parallel_size
            share = float(span) if span > 1 else config.sampler.num_gpus
            requests += [Request(part, share)] * config.sampler.actors
    return Part("trainer", tuple(items)), requests, on_host


def _uses_ray(config: TrainConfig) -> bool:
    return config.sampler.backend == "ray" or any(one.backend == "ray" for one in executor_configs(config))


def _images(config: TrainConfig) -> int | None:
    """Distinct images that a segmenter sees at most; None where the sizes of the sets bound it."""
    if config.eval.samples is None:
        return None
    windows = int(config.trainer.get("max_steps", 0)) / max(1, int(setting(config, "num_iterations")))
    asked = int(windows * window_prompts(config))
    return config.eval.samples + (
        asked if config.dataset.samples is None else min(asked, config.dataset.samples)
    )


def _notes(shape: ModelShape, tokens: PromptTokens) -> tuple[str, ...]:
    notes = []
    if shape.from_table is not None:
        notes.append(
            f"{shape.source} is not on this machine: its shape is from the table of known models "
            f"({shape.from_table})"
        )
    if not tokens.counted:
        notes.append(f"{tokens.text} tokens of text in a prompt are estimated, as its tokenizer is not here")
    return tuple(notes)
