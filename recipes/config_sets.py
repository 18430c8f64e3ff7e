"""Which sets a run trains on and is evaluated on: sections of its config."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from prompter.runs.config import StrictModel

if TYPE_CHECKING:
    from envs.sample import SampleSource


class DatasetConfig(StrictModel):
    """The training set."""

    name: str
    """A name that `prompter data ls` lists, or one of your own as "module:callable"."""

    split: str = "train"
    """One of the set's splits."""

    samples: int | None = Field(default=None, ge=1)
    """The first so many of it; null is all."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The set's own options, as in `--dataset.options.root FOLDER`."""

    def open(self) -> SampleSource:
        """Open the split; `samples` is not applied.

        Raises:
            UserError: if it cannot be opened.
        """
        from envs.datasets.registry import open_dataset

        return open_dataset(self.name, self.split, **self.options)


class OtherSet(StrictModel):
    """One more set that is evaluated before and after training, and not in between."""

    dataset: str | None = None
    """Name of the set; null is the training set's."""

    split: str = "test"
    """One of its splits."""

    samples: int | None = Field(default=None, ge=1)
    """The first so many of it; null is all."""

    options: dict[str, Any] | None = None
    """The set's own options; null is the training set's, or none if it is another set."""


class EvalConfig(StrictModel):
    """Greedy evaluation before and after training, on samples that training never sees."""

    dataset: str | None = None
    """Name of the set; null is the training set's."""

    split: str = "val"
    """Held-out split."""

    samples: int | None = Field(default=200, ge=1)
    """The first so many of it; null is all."""

    options: dict[str, Any] | None = None
    """The set's own options; null is the training set's."""

    references: list[str] = Field(default_factory=list)
    """Baselines (`eval.answerers.baselines`, such as `baseline:oracle-box`) evaluated on the same samples,
    to set the policy between a floor and a ceiling."""

    every_steps: int = Field(default=0, ge=0)
    """Evaluate during training too, every so many optimiser steps; 0 does not."""

    others: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Further sets by a name for each, evaluated before and after training only, such as other places than
    the one adapted to: `{elsewhere: {dataset: NAME, split: test, samples: 100, options: {…}}}`. `dataset` is
    the training set's unless it is given, and so are `options` where the set is the same; `split` is test."""

    @field_validator("others")
    @classmethod
    def _check_others(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, given in value.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"{name!r} is to name a folder: take letters, digits, - and _")
            OtherSet.model_validate(given)
        return value
