"""How long a run takes, from rates that were measured in a run or are given.

A rate is work per second of one worker, so that it holds for another group size, completion length or
number of workers; it does not hold for another model, image size or machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from prompter.errors import UserError
from prompter.runs.config import StrictModel, describe_validation_error
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.planning.trainer import rank_count, setting
from recipes.training.checks import executor_configs


class Rates(StrictModel):
    """Rates of one worker each; what is left out is not part of the time."""

    completion_tokens: float | None = Field(default=None, gt=0)
    """Mean tokens of a completion; null is half of the longest."""

    sample_tokens_per_second: float | None = Field(default=None, gt=0)
    """Completion tokens that one engine samples in a second, its batch full."""

    train_tokens_per_second: float | None = Field(default=None, gt=0)
    """Tokens (prompt of a group once, and completions) that one rank learns from in a second: all passes of
    the model together, without gradients, forward and backward."""

    segment_seconds: float | None = Field(default=None, ge=0)
    """Seconds of one segmenter per completion, encoding included."""

    sync_seconds: float | None = Field(default=None, ge=0)
    """Seconds until the engines have new weights, once a window."""


class TimePlan(StrictModel):
    """Time for 1,000 completions.

    `seconds` by phase; phases follow each other. `gpu_hours` is None where the run uses no GPU.
    """

    seconds: dict[str, float]
    gpu_hours: float | None
    missing: list[str]
    completions: int | None
    """Completions of the whole run, where its length is known."""

    @property
    def total(self) -> float:
        """Seconds for 1,000 completions."""
        return sum(self.seconds.values())


def read_rates(path: Path) -> Rates:
    """Read a YAML file of rates.

    Raises:
        UserError: if it cannot be read, or a key is unknown.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Rates.model_validate({} if given is None else given)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"the rates {path} cannot be read: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        raise UserError(f"the rates {path}: {describe_validation_error(error)}") from None


def rates_of_run(folder: Path | str, prompt_tokens: int) -> Rates:
    """Rates that a training run had, from its metrics; the first window, which warms up, is left out if
    there are others.

    Args:
        folder: of the run.
        prompt_tokens: of a prompt of that run.

    Raises:
        UserError: if it is no run folder, or has no window with its seconds.
    """
    run = RunFolder(folder)
    config = TrainConfig.model_validate(run.read_config())
    records = [record for record in run.read_metrics() if record.get("seconds") and record.get("completions")]
    if not records:
        raise UserError(f"{folder} has no step with seconds and completions in its metrics")
    records = records[1:] or records
    completions = sum(record["completions"] for record in records)
    tokens = _mean([record["completion_tokens"] for record in records if record.get("completion_tokens")])
    seconds = {
        phase: sum(record["seconds"].get(phase, 0.0) for record in records)
        for phase in ("sample", "segment", "old_logprobs", "optimise", "sync")
    }
    group = int(config.trainer["num_generations"])
    learnt = completions * (tokens + prompt_tokens / group) * int(setting(config, "num_iterations"))
    trained = seconds["old_logprobs"] + seconds["optimise"]
    engines = 1 if config.sampler.backend != "ray" else config.sampler.actors
    segmenters = _segmenters(config)
    return Rates(
        completion_tokens=tokens or None,
        sample_tokens_per_second=completions * tokens / seconds["sample"] / engines
        if seconds["sample"]
        else None,
        train_tokens_per_second=learnt / trained / rank_count(config) if trained else None,
        segment_seconds=seconds["segment"] * segmenters / completions,
        sync_seconds=seconds["sync"] / len(records),
    )


def plan_time(config: TrainConfig, prompt: int, rates: Rates, gpus: int) -> TimePlan:
    """Seconds by phase for 1,000 completions of a run.

    Args:
        prompt: tokens of a prompt.
        gpus: that the run uses.
    """
    group = int(config.trainer["num_generations"])
    longest = int(config.trainer.get("max_completion_length") or config.policy.settings.max_new_tokens)
    tokens = rates.completion_tokens or longest / 2
    iterations = int(setting(config, "num_iterations"))
    engines = config.sampler.actors if config.sampler.backend == "ray" else 1
    rows = int(setting(config, "per_device_train_batch_size")) * rank_count(config)
    window = rows * int(
        setting(config, "steps_per_generation") or setting(config, "gradient_accumulation_steps")
    )
    seconds: dict[str, float] = {}
    missing = []
    for phase, rate, work, workers in (
        ("sample", rates.sample_tokens_per_second, 1000 * tokens, engines),
        (
            "train",
            rates.train_tokens_per_second,
            1000 * (tokens + prompt / group) * iterations,
            rank_count(config),
        ),
    ):
        if rate is None:
            missing.append(f"{phase}_tokens_per_second")
        else:
            seconds[phase] = work / rate / workers
    if rates.segment_seconds is None:
        missing.append("segment_seconds")
    else:
        seconds["segment"] = 1000 * rates.segment_seconds / _segmenters(config)
    if rates.sync_seconds is None:
        missing.append("sync_seconds")
    else:
        seconds["sync"] = 1000 / window * rates.sync_seconds
    steps = int(config.trainer.get("max_steps", 0))
    total = sum(seconds.values())
    updates = max(1, window // (rows * int(setting(config, "gradient_accumulation_steps"))) * iterations)
    return TimePlan(
        seconds=seconds,
        gpu_hours=total * gpus / 3600 if gpus else None,
        missing=missing,
        completions=window * steps // updates if steps > 0 else None,
    )


def _segmenters(config: TrainConfig) -> int:
    return max(1, min(one.actors if one.backend == "ray" else 1 for one in executor_configs(config)))


def _mean(values: Sequence[Any]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
