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
from recipes.planning.trainer import group_size, planned_completions, rank_count, setting, window_prompts
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

    `seconds` by phase; phases follow each other, unless windows are sampled ahead: `total` may then be less
    than their sum. `gpu_hours` is None where the run uses no GPU.
    """

    seconds: dict[str, float]
    total: float
    gpu_hours: float | None
    missing: list[str]
    completions: int | None
    """Completions of the whole run, where its length is known."""


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
    windows = _windows(run.read_metrics("train"))
    if not windows:
        raise UserError(f"{folder} has no step with seconds and completions in its metrics")
    windows = windows[1:] or windows
    records = [window[0] for window in windows]
    completions = sum(record["completions"] for record in records)
    tokens = _mean([record["completion_tokens"] for record in records if record.get("completion_tokens")])
    seconds = {
        phase: sum(record["seconds"].get(phase, 0.0) for window in windows for record in window)
        for phase in ("sample", "segment", "old_logprobs", "optimise", "sync")
    }
    learnt = completions * _learnt(config, tokens, prompt_tokens)
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


def _windows(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Steps with their seconds, by window: the first step of each tells its completions."""
    windows: list[list[dict[str, Any]]] = []
    for record in records:
        if not record.get("seconds"):
            continue
        if record.get("completions"):
            windows.append([record])
        elif windows:
            windows[-1].append(record)
    return windows


def plan_time(config: TrainConfig, prompt: int, rates: Rates, gpus: int) -> TimePlan:
    """Seconds by phase for 1,000 completions of a run.

    Args:
        prompt: tokens of a prompt.
        gpus: that the run uses.
    """
    longest = int(config.trainer.get("max_completion_length") or config.policy.settings.max_new_tokens)
    tokens = rates.completion_tokens or longest / 2
    engines = config.sampler.actors if config.sampler.backend == "ray" else 1
    sampled = window_prompts(config) * int(config.trainer["num_generations"])
    seconds: dict[str, float] = {}
    missing = []
    for phase, rate, work, workers in (
        ("sample", rates.sample_tokens_per_second, 1000 * tokens, engines),
        (
            "train",
            rates.train_tokens_per_second,
            1000 * _learnt(config, tokens, prompt),
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
        seconds["sync"] = 1000 / sampled * rates.sync_seconds
    total = sum(seconds.values())
    if config.overlap.staleness:
        learning = seconds.get("train", 0.0)
        total = max(learning, total - learning - seconds.get("sync", 0.0)) + seconds.get("sync", 0.0)
    return TimePlan(
        seconds=seconds,
        total=total,
        gpu_hours=total * gpus / 3600 if gpus else None,
        missing=missing,
        completions=planned_completions(config),
    )


def _learnt(config: TrainConfig, completion: float, prompt: float) -> float:
    """Tokens that are learned from for one completion that is sampled, a group's prompt counted once."""
    sampled = int(config.trainer["num_generations"])
    share = group_size(config) / sampled
    return (completion * share + prompt / sampled) * int(setting(config, "num_iterations"))


def _segmenters(config: TrainConfig) -> int:
    return max(1, min(one.actors if one.backend == "ray" else 1 for one in executor_configs(config)))


def _mean(values: Sequence[Any]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
