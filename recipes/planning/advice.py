"""What to turn where a run does not fit: every proposal is planned again, and named only if it helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from prompter.errors import UserError
from recipes.config import TrainConfig
from recipes.planning.plan import Plan, estimate
from recipes.planning.trainer import on_cpu, rank_count, setting
from recipes.training.checks import executor_configs

Changes = dict[str, Any]
"""Dotted key of the config -> its new value; several that belong together make one proposal."""


@dataclass(frozen=True)
class Advice:
    """Something to turn.

    Args:
        changes: dotted keys and values.
        why: what it costs or changes, in a few words.
        plan: the run planned with it.
    """

    changes: Changes
    why: str
    plan: Plan

    @property
    def flags(self) -> str:
        """The changes as flags of `prompter train`."""
        return " ".join(f"--{key} {_flag(value)}" for key, value in self.changes.items())


def with_changes(config: TrainConfig, changes: Changes) -> TrainConfig:
    """The config with dotted keys set.

    Raises:
        pydantic.ValidationError: if a value is refused.
    """
    data = config.model_dump(mode="json")
    for key, value in changes.items():
        *path, last = key.split(".")
        place = data
        for name in path:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value
    return TrainConfig.model_validate(data)


def advise(plan: Plan, **limits: Any) -> list[Advice]:
    """What makes a run fit that does not.

    Each knob is tried alone, from its mildest value on; the first that fits is named. Where none is enough
    alone, they are combined in their order until it fits.

    Args:
        plan: of the run, made with `limits`.
        limits: as `estimate` was given them: `memory_gib`, `host_gib`, `gpus`, `image_wh`.

    Returns:
        Advice whose plans fit, the mildest first; empty if the run fits, or if nothing helps.
    """
    if plan.fits is not False:
        return []
    found = []
    for why, proposals in _knobs(plan.config):
        advice = _first_fitting(plan.config, {}, proposals(plan.config), why, limits)
        if advice is not None:
            found.append(advice)
    return found or _combined(plan, limits)


def _combined(plan: Plan, limits: Changes) -> list[Advice]:
    """Knobs one on top of the other, each as far as it still helps, until the run fits."""
    changes: Changes = {}
    best = plan
    told: list[str] = []
    for why, proposals in _knobs(plan.config):
        current = with_changes(plan.config, changes) if changes else plan.config
        advice = _first_fitting(plan.config, changes, proposals(current), why, limits)
        if advice is not None:
            return [Advice(advice.changes, "; ".join([*told, why]), advice.plan)]
        helped = False
        for proposal in proposals(current):
            tried = _plan(plan.config, {**changes, **proposal}, limits)
            if tried is not None and _excess(tried) < _excess(best) * 0.999:
                best, helped = tried, True
                step = proposal
        if helped:
            changes, told = {**changes, **step}, [*told, why]
    return []


def _first_fitting(
    config: TrainConfig, base: Changes, proposals: Iterator[Changes], why: str, limits: Changes
) -> Advice | None:
    for proposal in proposals:
        changes = {**base, **proposal}
        tried = _plan(config, changes, limits)
        if tried is not None and tried.fits:
            return Advice(changes, why, tried)
    return None


def _plan(config: TrainConfig, changes: Changes, limits: Changes) -> Plan | None:
    """The plan with changes; None where a value is refused."""
    try:
        return estimate(with_changes(config, changes), **limits)
    except (ValidationError, UserError):
        return None


def _excess(plan: Plan) -> float:
    """Bytes above the limits, a problem counting as much as anything."""
    over = sum(max(0.0, device.peak - device.limit) for device in plan.devices if device.limit is not None)
    return over + 1e12 * len(plan.problems)


def _knobs(config: TrainConfig) -> list[tuple[str, Callable[[TrainConfig], Iterator[Changes]]]]:
    """What can be turned, the mildest first: what it costs, and its values."""
    return [
        ("slower steps, the same result", _checkpointing),
        ("the same step in smaller parts", _smaller_parts),
        ("embeddings are computed again more often", _cache),
        ("fewer completions sampled at once", _sampled_at_once),
        ("a smaller share for the engine's keys and values", _engine_share),
        ("shorter contexts for the engine", _context),
        ("the model divided among the ranks", _sharding),
        ("the optimiser's state in 8 bits", _optimiser),
        ("adapters in place of all weights", _adapters),
        ("weights in bfloat16: steps below its precision are lost", _half),
        ("smaller images: less is seen", _image),
    ]


def _checkpointing(config: TrainConfig) -> Iterator[Changes]:
    if not setting(config, "gradient_checkpointing"):
        yield {"trainer.gradient_checkpointing": True}


def _smaller_parts(config: TrainConfig) -> Iterator[Changes]:
    rows = int(setting(config, "per_device_train_batch_size"))
    parts = int(setting(config, "gradient_accumulation_steps"))
    steps = config.trainer.get("steps_per_generation")
    for divisor in range(2, rows + 1):
        if rows % divisor == 0:
            changes = {
                "trainer.per_device_train_batch_size": rows // divisor,
                "trainer.gradient_accumulation_steps": parts * divisor,
            }
            if steps:
                changes["trainer.steps_per_generation"] = int(steps) * divisor
            yield changes


def _cache(config: TrainConfig) -> Iterator[Changes]:
    several = isinstance(config.executor, list)
    held = [one.cache_memory_mb for one in executor_configs(config)]
    for megabytes in (1024.0, 512.0, 256.0, 128.0):
        if any(value > megabytes for value in held):
            yield {
                f"executor.{number}.cache_memory_mb" if several else "executor.cache_memory_mb": megabytes
                for number, value in enumerate(held)
                if value > megabytes
            }


def _sampled_at_once(config: TrainConfig) -> Iterator[Changes]:
    key = "batch_size" if config.sampler.backend == "hf" else "max_num_seqs"
    value = int(getattr(config.sampler, key))
    while value > 1:
        value //= 2
        yield {f"sampler.{key}": value}


def _engine_share(config: TrainConfig) -> Iterator[Changes]:
    if config.sampler.backend == "hf":
        return
    if on_cpu(config) or config.sampler.num_gpus == 0:
        value = config.sampler.kv_cache_gib
        while value > 0.25:
            value /= 2
            yield {"sampler.kv_cache_gib": value}
        return
    given = round(100 * config.sampler.gpu_memory_utilization)
    # More where it is too small for the weights, less where it leaves the others too little.
    for distance in range(1, 96):
        for share in (given - distance, given + distance):
            if 5 <= share <= 95:
                yield {"sampler.gpu_memory_utilization": share / 100}


def _context(config: TrainConfig) -> Iterator[Changes]:
    if config.sampler.backend != "hf":
        for tokens in (8192, 4096, 3072, 2048):
            if config.sampler.max_model_len is None or tokens < config.sampler.max_model_len:
                yield {"sampler.max_model_len": tokens}


def _sharding(config: TrainConfig) -> Iterator[Changes]:
    if on_cpu(config) or not hasattr(config, "ranks") or setting(config, "deepspeed"):
        return
    for count in (2, 4, 8, 16):
        if count >= rank_count(config):
            yield {"ranks.count": count, "trainer.fsdp": True, "trainer.fsdp_config": {"version": 2}}


def _optimiser(config: TrainConfig) -> Iterator[Changes]:
    if not on_cpu(config) and "8bit" not in str(setting(config, "optim")):
        yield {"trainer.optim": "adamw_bnb_8bit"}


def _adapters(config: TrainConfig) -> Iterator[Changes]:
    if config.policy.lora is None:
        yield {"policy.lora": {"r": 64, "alpha": 128}}
        yield {"policy.lora": {"r": 64, "alpha": 128}, "policy.dtype": "bfloat16"}
    else:
        rank = config.policy.lora.r
        while rank > 8:
            rank //= 2
            yield {"policy.lora.r": rank, "policy.lora.alpha": 2 * rank}


def _half(config: TrainConfig) -> Iterator[Changes]:
    if config.policy.dtype != "bfloat16":
        yield {"policy.dtype": "bfloat16"}


def _image(config: TrainConfig) -> Iterator[Changes]:
    given = config.policy.settings.resolved().image.side
    if given is not None:
        for side in (1008, 840, 672, 560, 448, 336, 224):
            if side < given:
                yield {"policy.settings.image": {"side": side}}
        return
    for pixels in (786432, 524288, 262144):
        limits = config.policy.settings.resolved().image
        if pixels < limits.max_pixels:
            low = min(limits.min_pixels, pixels)
            yield {"policy.settings.image": {"min_pixels": low, "max_pixels": pixels}}


def _flag(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        inner = ", ".join(f"{key}: {_flag(one)}" for key, one in value.items())
        return f'"{{{inner}}}"'
    return str(value)
