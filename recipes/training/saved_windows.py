"""Windows of rollouts as a run folder keeps them, to be trained on again without sampling or segmenting.

The first line of `windows/step-N.jsonl` is about the window, each further one is a group:

    {"indices", "step", "sampler_version", "metrics", "all_groups", "groups"}
    {"index", "rewards", "completions": [{"text", "token_ids", "logprobs", "finish_reason"}]}

`indices` are positions in the training set, `all_groups` is the number of groups, `groups` are the places of
those that may be trained on, in order. A reward, shaped if `group.shape` says so, is null where the segmenter
failed or a reward left it out; `logprobs` are exact as float32. With `group.objective: best-of-n` a group has
`weights`, too. Readings, masks and rewards as they were earned are in `rollouts/step-N.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.sample import SampleSource
from prompter.errors import UserError
from prompter.policy import Policy
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from prompter.sampling.base import Sampler
from prompter.types import Completion
from recipes.config import GroupConfig
from recipes.training.memory import AnswerMemory
from recipes.training.phases import PhaseTimes
from recipes.training.scoring import ScoredGroup
from recipes.training.window import Window


def window_records(
    step: int, window: Window, asked: Sequence[int] | None = None
) -> Iterator[Mapping[str, Any]]:
    """A window as JSON-ready lines, without its rollouts.

    Args:
        step: the optimiser step that it is for.
        window: what was collected.
        asked: the positions in the training set that it was asked for; None for those of all its groups,
            of which they are the first.
    """
    places = {id(group): place for place, group in enumerate(window.all_groups)}
    yield {
        "indices": [int(group.index) for group in window.all_groups] if asked is None else list(asked),
        "step": step,
        "sampler_version": window.sampler_version,
        "metrics": window.metrics,
        "all_groups": len(window.all_groups),
        "groups": [places[id(group)] for group in window.groups],
    }
    for group in window.all_groups:
        yield {
            "index": int(group.index),
            "rewards": group.rewards,
            **({} if group.weights is None else {"weights": group.weights}),
            "completions": [
                {**asdict(one), "logprobs": None if one.logprobs is None else short_floats(one.logprobs)}
                for one in group.completions
            ],
        }


def read_window(path: Path, source: SampleSource, *, step: int, advice: str) -> tuple[list[int], Window]:
    """The positions that were asked, and the window; what follows its groups in the file are its rollouts.

    Its groups come without their rollouts, which nobody needs again.

    Args:
        path: lines of `window_records`.
        source: the training set.
        step: the optimiser step that the window has to be for.
        advice: what to do if it is not.

    Raises:
        UserError: if the file is no window for that step.
    """
    records = list(read_lines(path))
    try:
        head = records[0]
        count = head["all_groups"]
        groups = [_group(record) for record in records[1 : 1 + count]]
        if len(groups) != count:
            raise ValueError(f"{len(groups)} groups of {count}")
        if head["step"] != step:
            raise ValueError(f"it is for step {head['step']}, not for {step}")
        window = Window(
            [groups[place] for place in head["groups"]],
            groups,
            {group.index: source[group.index] for group in groups},
            head["metrics"],
            records[1 + count :],
            head["sampler_version"],
        )
        return head["indices"], window
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no window of rollouts ({type(error).__name__}: {error}); {advice}."
        ) from None


def window_rewards(path: Path) -> list[tuple[int, list[float | None]]]:
    """Of each group of a window's file its position in the training set and its rewards.

    Raises:
        UserError: if the file is no window.
    """
    records = list(read_lines(path))
    try:
        count = records[0]["all_groups"]
        return [(record["index"], record["rewards"]) for record in records[1 : 1 + count]]
    except (LookupError, TypeError) as error:
        raise UserError(f"{path} is no window of rollouts ({type(error).__name__}: {error}).") from None


def window_groups(path: Path) -> list[ScoredGroup]:
    """The groups of a window's file in order, without their rollouts.

    Raises:
        UserError: if the file is no window.
    """
    records = list(read_lines(path))
    try:
        return [_group(record) for record in records[1 : 1 + records[0]["all_groups"]]]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no window of rollouts ({type(error).__name__}: {error}).") from None


def remember(memory: AnswerMemory, run: RunFolder, source: SampleSource) -> None:
    """Tell a memory of all windows that a run keeps, of questions from `source`, in order.

    Raises:
        UserError: if a file is no window.
    """
    rollouts = dict(run.step_rollouts())
    for step, path in run.step_windows() if memory.group.memory != "none" else ():
        groups = window_groups(path)
        memory.note(groups, read_lines(rollouts[step]), {one.index: source[one.index] for one in groups})


def _group(record: Mapping[str, Any]) -> ScoredGroup:
    completions = [
        Completion(
            **{
                **one,
                "token_ids": tuple(one["token_ids"]),
                "logprobs": None if one["logprobs"] is None else tuple(one["logprobs"]),
            }
        )
        for one in record["completions"]
    ]
    if len(record["rewards"]) != len(completions):
        raise ValueError(f"{len(record['rewards'])} rewards for {len(completions)} completions")
    return ScoredGroup(record["index"], completions, record["rewards"], [], record.get("weights"))


def short_floats(values: Sequence[float]) -> list[float]:
    """The same float32 numbers with as few digits as tell them apart; others as they are."""
    exact = np.asarray(values, dtype=np.float32)
    short = [float(str(value)) for value in exact]
    again = np.asarray(short, dtype=np.float32)
    same = np.array_equal(exact, np.asarray(values)) and np.array_equal(exact, again)
    return short if same else list(values)


class SavedWindows:
    """Stands where a trainer has its `WindowCollector`, and gives the windows that a run saved.

    Args:
        run: the run that saved them.
        policy: asks the questions again; texts and readings are the saved ones.
        source: the training set.
        times: where phases are timed.

    Raises:
        UserError: if the run saved no windows.
    """

    def __init__(self, run: RunFolder, policy: Policy, source: SampleSource, times: PhaseTimes) -> None:
        self.run, self.policy, self.source, self.times = run, policy, source, times
        self.sampler: Sampler = NoSampler()
        self.memory = AnswerMemory(GroupConfig(), None)  # what was recalled is in the windows
        self._windows, self._rollouts = dict(run.step_windows()), dict(run.step_rollouts())
        if not self._windows:
            raise UserError(
                f"{run.path} keeps no token ids and log-probabilities of its rollouts (there is nothing in "
                f"{run.windows_dir.name}/): it was made by an earlier version. Make one with `prompter train "
                "CONFIG` or `prompter train CONFIG --rollout-only`"
            )

    def check_steps(self, steps: Sequence[int]) -> None:
        """Refuse a run that has no window for one of these optimiser steps.

        Raises:
            UserError: naming the first that is missing.
        """
        for step in steps:
            if step not in self._windows or step not in self._rollouts:
                raise UserError(
                    f"{self.run.path} has no window of rollouts for step {step} (its last is for step "
                    f"{max(self._windows)}): lower trainer.max_steps"
                )

    def collect(self, indices: Sequence[int], step: int) -> Window:
        """Give the window that was collected for a step; see `WindowCollector.collect`.

        Raises:
            UserError: if other samples were asked, or the file is not that of a window for this step.
        """
        path = self._windows[step]
        with self.times("load", step):
            asked, window = read_window(path, self.source, step=step, advice="train on another run")
            if asked[: len(indices)] != list(indices):
                raise UserError(
                    f"{path} holds other samples than this config asks at step {step}: seed, dataset and "
                    "window have to be those of the run that saved it"
                )
            return replace(window, rollouts=list(read_lines(self._rollouts[step])))


class NoSampler(Sampler):
    """Stands where a trainer has its sampler, but nothing is sampled."""

    def sample(self, *_: Any, **__: Any) -> list[list[Completion]]:
        """Never called.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a run that trains on saved rollouts samples nothing")

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """Keep the version only."""
        self.version = version

    def sync_weights(self, weights: Any, version: int) -> None:
        """Keep the version only."""
        self.version = version
