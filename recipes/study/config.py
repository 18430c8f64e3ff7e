"""A study: one base config, arms that change a few keys of it, and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from prompter.errors import UserError, did_you_mean
from prompter.runs.config import StrictModel, load_config_model
from prompter.runs.config_keys import yaml_value
from recipes.config import TrainConfig, load_config
from recipes.planning.trainer import planned_completions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class StudyQuestions(StrictModel):
    """What the arms of a study are asked before and after, where their configs do not say it."""

    benchmark: str = "synthetic-aerial:test"
    """Benchmark and split, as `prompter eval` takes them."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The set's own options."""

    limit: int | None = Field(default=None, ge=1)
    """Only the first so many questions."""


class ArmsConfig(StrictModel):
    """Arms, each trained with every seed, and the one that the others are compared with."""

    arms: Mapping[str, Any]
    """What is compared, by name. Names become folders."""

    reference: str | None = None
    """The arm that the others are compared with; null is the first."""

    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    """Every arm is trained once with each."""

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice")
        return seeds

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        for name in self.arms:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an arm: letters, digits and . _ + - make a folder")
        if self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"there is no arm {self.reference!r}.{did_you_mean(self.reference, self.arms)}")
        return self

    @property
    def compared_with(self) -> str:
        """Name of the reference arm."""
        return self.reference or next(iter(self.arms))


class StudyConfig(ArmsConfig):
    """What `prompter study` reads."""

    trains: Literal["grpo", "seg-token"] = "grpo"
    """What trains the arms: `prompter train`, or `prompter seg-token`, whose `base` is a file. A study with
    `trains: systems` has other keys: see `recipes.systems.config`."""

    questions: StudyQuestions = StudyQuestions()
    """With `trains: seg-token`, what is asked before and after; a GRPO config has its own `eval`."""

    base: str
    """Config that all arms start from: a file, or the name of a recipe."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of the base that all arms have otherwise, such as `trainer.max_steps`."""

    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    """By its name what an arm changes: dotted keys and their values, {} for nothing. Names become folders."""

    completions: Literal["equal", "any"] = "equal"
    """Whether arms have to sample equally many completions: `equal` refuses a study in which they do not,
    `any` does not. The table says how many each sampled."""

    @field_validator("arms")
    @classmethod
    def _check_changes(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in arms.items():
            for key in ("run_dir", "seed"):
                if key in changes:
                    raise ValueError(f"arm {name!r} sets {key!r}, which the study gives to each run")
        return arms


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed.

    Args:
        arm, seed: which.
        config: resolved; its `run_dir` is `folder`.
        folder: of the run.
        completions: it will sample.
    """

    arm: str
    seed: int
    config: TrainConfig
    folder: Path
    completions: int


def load_study(path: Path | str) -> StudyConfig:
    """Read a study.

    Raises:
        UserError: if the file cannot be read, a key is unknown, or a value is not what its key takes.
    """
    return load_config_model(StudyConfig, path)


def planned_runs(
    study: StudyConfig, out: Path, overrides: Sequence[str] = (), only: Sequence[str] | None = None
) -> list[PlannedRun]:
    """Every arm with every seed, seeds outermost: after each seed all arms can be compared.

    Args:
        study: what to compare.
        out: a run's folder is `out/ARM/seed-N`.
        overrides: "dotted.key=value" texts, stronger than the study's `set`, weaker than an arm.
        only: arms that are to be trained, whose completions have to be equal; None is all.

    Raises:
        UserError: naming the arm whose config is wrong, or the arms to be trained that sample another number
            of completions than the reference.
    """
    runs = []
    for seed in study.seeds:
        for arm, changes in study.arms.items():
            folder = out / arm / f"seed-{seed}"
            given = [*texts(study.set), *overrides, *texts(changes)]
            try:
                config = load_config(study.base, [*given, f"run_dir={folder}", f"seed={seed}"])
            except UserError as error:
                raise UserError(f"arm {arm!r}: {error}") from None
            completions = planned_completions(config)
            if completions is None:
                raise UserError(f"arm {arm!r}: trainer.max_steps is not given, so its length is unknown")
            runs.append(PlannedRun(arm, seed, config, folder, completions))
    if study.completions == "equal":
        chosen = {run.arm: run.completions for run in runs if only is None or run.arm in only}
        _check_equal(chosen, study.compared_with if study.compared_with in chosen else next(iter(chosen)))
    return runs


def texts(changes: Mapping[str, Any]) -> list[str]:
    """Dotted keys and values as "dotted.key=value" texts."""
    return [f"{key}={yaml_value(value)}" for key, value in changes.items()]


def _check_equal(completions: Mapping[str, int], reference: str) -> None:
    other = {arm: count for arm, count in completions.items() if count != completions[reference]}
    if other:
        told = ", ".join(f"{arm} {count:,}" for arm, count in other.items())
        raise UserError(
            f"the arms sample different numbers of completions: {reference} {completions[reference]:,}, but "
            f"{told}. Change their trainer.max_steps (windows) or batch, or write completions: any into the "
            "study"
        )
