"""What a training config asks for, checked before any work starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.executors.config import ExecutorConfig
from prompter.checkpoint import Checkpoint
from prompter.errors import UserError, did_you_mean
from prompter.families import carries_state, has_experts, lora_targets
from prompter.quantised import check_nf4
from prompter.sampling.weights import check_takes_weights
from recipes.config import TrainConfig
from recipes.training.advantages import SHAPES
from recipes.training.imitation import check_objective
from recipes.training.order import window_prompts
from recipes.training.ranks.checks import sharding
from recipes.training.selection import SELECTIONS
from recipes.training.trackers import parted

_VISION = re.compile(
    r"(?:^|\.)(?:visual|vision|image|audio|projector|multi_modal_projector|connector|merger)"
)
"""Names of towers in families whose language model is not called `language_model`."""


def executor_configs(config: TrainConfig) -> list[ExecutorConfig]:
    """The segmenters a config names, one or several, as a list."""
    return config.executor if isinstance(config.executor, list) else [config.executor]


def grpo_arguments(config: TrainConfig, max_completion_length: int) -> Any:
    """TRL's `GRPOConfig` from the config's `trainer:` section, with what is set elsewhere put in.

    Raises:
        UserError: if TRL refuses a value.
    """
    from trl import GRPOConfig

    given = dict(config.trainer)
    _, given["report_to"] = parted(given.get("report_to"))  # our trackers follow the run's own log
    if config.group.keep is not None:
        given["num_generations"] = config.group.keep  # TRL sees those that are trained on
    given.setdefault("max_completion_length", max_completion_length)
    given.setdefault("logging_steps", 1)
    # Ranks differ in how often the model is called in a step, so that nothing may be sent at each call; a
    # step's rows all have an image, so that no parameter goes unused.
    given.setdefault("ddp_broadcast_buffers", False)
    given.setdefault("ddp_find_unused_parameters", False)
    given.setdefault("ddp_timeout", int(config.ranks.timeout_seconds))
    # One adapter file a checkpoint; the full state is needed to resume, so never `save_only_model`.
    output = str(Path(config.run_dir) / "checkpoints")
    try:
        return GRPOConfig(output_dir=output, seed=config.seed, disable_tqdm=True, **given)
    except (ValueError, TypeError) as error:
        raise UserError(f"TRL refuses the section trainer: {' '.join(str(error).split())}") from None


def check_adapted_modules(config: TrainConfig, policy: Checkpoint) -> int:
    """Refuse adapters on nothing, and, where vLLM samples, on what vLLM does not adapt.

    vLLM loads adapters of a vision-language model's language model alone; it drops the rest of an adapter
    with a warning and samples on (its `LoRAModelManager`), so that another policy is sampled than trained.
    The model is built without weights, to have its modules' names.

    Returns:
        How many modules get adapters; 0 with `lora: null`.

    Raises:
        UserError: naming the key, and the module or the name.
    """
    lora = config.policy.lora
    if lora is None:
        return 0
    import torch

    modules = dict(_empty_model(policy).named_modules())
    usual = lora_targets(policy.family)
    given = lora.target_modules or usual
    matched = matching_modules(given, modules)
    for name in given if isinstance(given, list) else ():
        if not matching_modules([name], modules):
            ends = {one.rpartition(".")[2] for one in modules}
            raise UserError(
                f"policy.lora.target_modules names {name!r}, in which no module of {policy.source} "
                f"ends.{did_you_mean(name, [end for end in ends if end and not end.isdigit()])}"
            )
    if not matched:
        raise UserError(
            f"policy.lora.target_modules {given!r} matches no module of {policy.source}; a pattern has to "
            f"match a whole name, such as {(matching_modules(usual, modules) or list(modules))[-1]!r}"
        )
    named = any("language_model" in name.split(".") for name in modules)
    outside = [
        name
        for name in matched
        if not isinstance(modules[name], torch.nn.Linear)
        or ("language_model" not in name.split(".") if named else _VISION.search(name))
    ]
    backend = config.sampler.backend
    if outside and backend != "hf" and not merges(config):
        raise UserError(
            f"policy.lora.target_modules reaches {outside[0]!r} ({len(outside)} of {len(matched)} modules "
            f"are no linear layers of the language model): sampler.backend {backend!r} samples with vLLM, "
            "which drops such adapters, so another policy would be sampled than is trained. Leave "
            f"target_modules out, keep to a pattern such as {usual!r}, or take sampler.backend hf, or "
            "sampler.sync merged"
        )
    return len(matched)


def merges(config: TrainConfig) -> bool:
    """Whether the engines are given weights with the adapters merged into them."""
    sampler = config.sampler
    return config.policy.lora is not None and sampler.backend != "hf" and sampler.sync == "merged"


def check_weights_follow(config: TrainConfig, policy: Checkpoint) -> None:
    """Refuse to train where the sampler's engines could not be given all weights, and are to be.

    vLLM can exchange the weights of dense attention models while it runs. For layers that carry a state
    from token to token and for mixtures of experts, its own list of open faults has wrong results.

    Raises:
        UserError: naming the key to change.
    """
    merged = merges(config)
    if config.sampler.backend == "hf" or (config.policy.lora is not None and not merged):
        return
    check_takes_weights(config.sampler)
    if merged:
        for key in ("trainer.fsdp", "trainer.deepspeed", "policy.quantise"):
            section, _, name = key.partition(".")
            given = config.trainer.get(name) if section == "trainer" else config.policy.quantise
            if given:
                raise UserError(
                    f"sampler.sync merged and {key} {given} are given: adapters are merged into whole, "
                    "unquantised weights alone. Leave one of them out"
                )
    from transformers import AutoConfig

    model = AutoConfig.from_pretrained(policy.source)
    recurrent = carries_state(model)
    if recurrent or has_experts(model):
        kind = "layers that carry a state from token to token" if recurrent else "a mixture of experts"
        given = "sampler.sync is merged" if merged else "policy.lora is null"
        instead = "take sampler.sync adapters" if merged else "give policy.lora"
        raise UserError(
            f"{given}, but {policy.source} has {kind}, whose weights vLLM is not known to exchange rightly "
            f"while it runs, and sampler.backend {config.sampler.backend!r} samples with vLLM: {instead}, or "
            "take sampler.backend hf"
        )


def check_quantised(config: TrainConfig, policy: Checkpoint) -> None:
    """Refuse a quantised base where it cannot be made or trained.

    Raises:
        UserError: naming the key to change.
    """
    if config.policy.quantise is None:
        return
    if (key := sharding(config)) is not None:
        raise UserError(
            f"policy.quantise {config.policy.quantise} and trainer.{key} are given: weights of 4 bits "
            "are not cut into shards here. Leave one of them out"
        )
    from transformers import AutoConfig

    check_nf4(AutoConfig.from_pretrained(policy.source), policy.source)


def _empty_model(policy: Checkpoint) -> Any:
    """A policy's model without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(policy.source))


def matching_modules(given: str | list[str], modules: Mapping[str, Any]) -> list[str]:
    """Names of the modules that PEFT adapts for a value of `target_modules`."""
    import torch
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    if isinstance(given, str) and given.lower() == "all-linear":
        return [
            name
            for name, module in modules.items()
            if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] != "lm_head"
        ]
    try:
        wanted = LoraConfig(target_modules=given)
        return [name for name in modules if name and check_target_module_exists(wanted, name)]
    except re.error as error:
        raise UserError(
            f"policy.lora.target_modules {given!r} is not a regular expression: {error}"
        ) from None


def training_device(arguments: Any) -> str:
    """Where one rank alone trains by TRL's `GRPOConfig`: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu"


def window_steps(arguments: Any) -> int:
    """Optimiser steps of one window of rollouts, at least 1, by TRL's `GRPOConfig`."""
    updates = arguments.steps_per_generation * arguments.num_iterations
    return max(1, int(updates) // int(arguments.gradient_accumulation_steps))


def check_overlap(config: TrainConfig) -> None:
    """Refuse sampling ahead where the sampler shares the trainer's weights or process, and odd selections.

    Raises:
        UserError: naming the key to change.
    """
    if config.overlap.staleness and config.sampler.backend != "ray":
        raise UserError(
            f"overlap.staleness is {config.overlap.staleness}, but sampler.backend "
            f"{config.sampler.backend!r} samples in the trainer's process, which cannot train meanwhile: "
            "take sampler.backend ray, or overlap.staleness 0"
        )
    SELECTIONS.resolve(config.group.select)
    if config.group.shape is not None:
        SHAPES.resolve(config.group.shape)
    check_objective(config)
    sampled, keep = config.trainer["num_generations"], config.group.keep
    if keep is not None and keep > sampled:
        raise UserError(
            f"group.keep is {keep}, but only {sampled} completions a prompt are sampled "
            "(trainer.num_generations)"
        )


def check_average(config: TrainConfig) -> None:
    """Refuse to average weights that are divided among ranks.

    Raises:
        UserError: naming the keys.
    """
    key = sharding(config)
    if config.average.decay is not None and key is not None:
        raise UserError(
            f"average.decay and trainer.{key} are given: weights that are divided among ranks are not "
            "averaged here. Leave one of them out"
        )


def check_sizes(config: TrainConfig, arguments: Any, samples: int) -> None:
    """Refuse what TRL would accept and then do something else with.

    Args:
        config: the run.
        arguments: TRL's `GRPOConfig` made from it.
        samples: size of the training set.

    Raises:
        UserError: saying which key to change.
    """
    names = [one.name for one in executor_configs(config)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"executor {name!r} is named twice: rewards are told apart by executor name")
    if arguments.max_steps <= 0:
        raise UserError("trainer.max_steps must be given: a run's length is counted in optimiser steps")
    prompts = window_prompts(arguments)
    if samples < prompts:
        raise UserError(
            f"dataset {config.dataset.name} gives {samples} samples, but a step asks {prompts} prompts: "
            "lower trainer.per_device_train_batch_size"
        )
    window = window_steps(arguments)
    updates = arguments.steps_per_generation * arguments.num_iterations
    if updates % arguments.gradient_accumulation_steps:
        raise UserError(
            f"a window has {updates} updates (trainer.steps_per_generation times num_iterations), "
            f"which trainer.gradient_accumulation_steps {arguments.gradient_accumulation_steps} does not "
            "divide: an optimiser step would begin in one window and end in another"
        )
    if arguments.save_steps % window:
        raise UserError(
            f"trainer.save_steps must be a multiple of {window}, the optimiser steps of one window of "
            f"rollouts, but is {arguments.save_steps}: a run resumed inside a window would train on "
            "other rollouts"
        )
