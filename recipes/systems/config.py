"""A study whose arms are systems: which command trains each, from which config, with what of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from envs.datasets import split_name
from envs.executors.config import ExecutorConfig
from eval.systems import BASE
from prompter.errors import did_you_mean
from prompter.runs.config import StrictModel, load_config_model
from prompter.runs.values import load_yaml
from recipes.study.config import ArmsConfig, StudyQuestions


class SystemsData(StrictModel):
    """The training set of all systems."""

    name: str
    """A name that `prompter data ls` lists, or one of your own as "module:callable"."""

    split: str = "train"
    """One of the set's splits."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The set's own options."""


class SystemArm(StrictModel):
    """One system."""

    command: Literal["train", "cold-start", "seg-token", "elisa"]
    """Which command trains it."""

    base: str
    """Its config: a file, or for `train` the name of a recipe."""

    after: str | None = None
    """An arm above it, of `train` or `cold-start`: it starts from what that arm trained with the same seed,
    in place of the study's checkpoint."""

    answers: str | None = None
    """For `cold-start`, an arm of `train` above it: it imitates the best answers that this arm's run drew
    with the same seed, as mask IoU says (`recipes.cold_start.answers`). Null is the set's labels."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of that config that it has otherwise. What all systems share is not among them."""

    equal: Literal["time", "questions"] = "time"
    """What it has as much of as the reference: `time` is for you to choose steps for; with `questions` the
    study is refused unless it is asked as many, repeats counted."""


class SystemsConfig(ArmsConfig):
    """What `prompter study` reads with `trains: systems`."""

    trains: Literal["systems"]
    """Says that the arms are systems."""

    policy: str
    """The checkpoint that all of them start from, those with `after` through another arm."""

    taught: str
    """What that checkpoint was taught before, as a sentence or two: it stands on the page, because it may
    favour one of the systems."""

    dataset: SystemsData
    """What all of them learn from."""

    questions: StudyQuestions
    """What all of them are asked in the end."""

    executor: dict[str, Any] = Field(default_factory=lambda: {"family": "mobile-sam"})
    """Fields of the frozen segmenter's config, the same for all: it executes prompts, its decoder follows
    `[SEG]`, or it proposes masks."""

    arms: dict[str, SystemArm] = Field(min_length=1)
    """The systems by name. Names become folders."""

    seeds: list[int] = Field(default=[0], min_length=1)
    """Every system is trained once with each."""

    @field_validator("arms")
    @classmethod
    def _check_arms(cls, arms: dict[str, SystemArm]) -> dict[str, SystemArm]:
        if BASE in arms:
            raise ValueError(f"{BASE!r} is what the untrained checkpoint is called: name that arm otherwise")
        return arms

    @field_validator("arms")
    @classmethod
    def _check_needs(cls, arms: dict[str, SystemArm]) -> dict[str, SystemArm]:
        above: dict[str, SystemArm] = {}
        for name, arm in arms.items():
            if arm.answers is not None and arm.command != "cold-start":
                raise ValueError(f"arm {name!r} has answers, which only command: cold-start imitates")
            for key, needed, may in (
                ("after", arm.after, ("train", "cold-start")),
                ("answers", arm.answers, ("train",)),
            ):
                if needed is None:
                    continue
                if needed not in above:
                    later = needed in arms and needed != name
                    hint = "move it up" if later else f"name another.{did_you_mean(needed, above)}"
                    raise ValueError(
                        f"arm {name!r} has {key}: {needed}, but no such arm stands above it: {hint}"
                    )
                if above[needed].command not in may:
                    raise ValueError(
                        f"arm {name!r} has {key}: {needed}, which is an arm of {above[needed].command}: only "
                        f"{' and '.join(may)} will do"
                    )
            above[name] = arm
        return arms

    @field_validator("questions")
    @classmethod
    def _check_split(cls, questions: StudyQuestions) -> StudyQuestions:
        if not split_name(questions.benchmark)[1]:
            raise ValueError(f"benchmark {questions.benchmark!r} names no split: write NAME:SPLIT")
        return questions

    @field_validator("executor")
    @classmethod
    def _check_executor(cls, fields: dict[str, Any]) -> dict[str, Any]:
        ExecutorConfig.model_validate(fields)
        if any(isinstance(value, (list, dict)) or "," in str(value) for value in fields.values()):
            raise ValueError("each field is to be one word or number, since `prompter eval` is told them too")
        return fields


def is_of_systems(path: Path | str) -> bool:
    """Whether a study's file says `trains: systems`.

    Raises:
        UserError: if it cannot be read.
    """
    return load_yaml(path).get("trains") == "systems"


def load_systems(path: Path | str, overrides: list[str] | None = None) -> SystemsConfig:
    """Read a study of systems.

    Args:
        path: YAML file.
        overrides: "dotted.key=value" texts for keys of the study itself.

    Raises:
        UserError: if the file cannot be read, a key is unknown, or a value is not what its key takes.
    """
    return load_config_model(SystemsConfig, path, overrides or ())
