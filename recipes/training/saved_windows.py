"""Windows of rollouts as a run folder keeps them, to be trained on again without sampling or segmenting.

A line of `windows/step-N.jsonl` is a group, in the order of its window:

    index         the sample's position in the training set
    kept          its place among the groups that may be trained on; null if it teaches nothing
    rollouts      how many of the next lines of `rollouts/step-N.jsonl` are its rollouts
    completions   {"token_ids", "logprobs", "finish_reason", "reward"} of each; logprobs are float32 and
                  exact, a reward is null where the segmenter failed

Texts, readings and masks are in the rollouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.rollout import Rollout
from envs.sample import Sample, SampleSource
from prompter.errors import UserError
from prompter.policy import Policy
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from prompter.sampling.base import Sampler
from prompter.types import Completion
from recipes.training.metrics import PhaseTimes, describe_groups
from recipes.training.scoring import ScoredGroup
from recipes.training.window import Window


def window_lines(window: Window) -> Iterator[dict[str, Any]]:
    """A window's groups, JSON-ready; its rollouts are written beside them, in the same order."""
    places = {id(group): place for place, group in enumerate(window.groups)}
    for group in window.all_groups:
        yield {
            "index": int(group.index),
            "kept": places.get(id(group)),
            "rollouts": len(group.rollouts),
            "completions": [
                {
                    "token_ids": list(one.token_ids),
                    "logprobs": None if one.logprobs is None else short_floats(one.logprobs),
                    "finish_reason": one.finish_reason,
                    "reward": reward,
                }
                for one, reward in zip(group.completions, group.rewards, strict=True)
            ],
        }


def short_floats(values: Sequence[float]) -> list[float]:
    """The same float32 numbers with as few digits as tell them apart; others as they are."""
    exact = np.asarray(values, dtype=np.float32)
    short = [float(str(value)) for value in exact]
    same = np.array_equal(exact, np.asarray(values)) and np.array_equal(exact, np.float32(short))
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
            UserError: if other samples were asked, or the files do not belong together.
        """
        with self.times("load"):
            lines = list(read_lines(self._windows[step]))
            rollouts = list(read_lines(self._rollouts[step]))
            groups = list(self._groups(step, lines, rollouts))
            if [group.index for group in groups[: len(indices)]] != list(indices):
                raise UserError(
                    f"{self._windows[step]} holds other samples than this config asks at step {step}: seed, "
                    "dataset and window have to be those of the run that saved it"
                )
            samples: dict[int, Sample] = {group.index: self.source[group.index] for group in groups}
        kept = {line["kept"]: group for line, group in zip(lines, groups, strict=True)}
        kept.pop(None, None)
        metrics = {**describe_groups(groups, samples), "groups_trained_on": len(kept)}
        return Window([kept[place] for place in sorted(kept)], groups, samples, metrics, rollouts)

    def _groups(
        self, step: int, lines: Sequence[dict[str, Any]], rollouts: Sequence[dict[str, Any]]
    ) -> Iterator[ScoredGroup]:
        begin = 0
        for number, line in enumerate(lines, start=1):
            try:
                end = begin + int(line["rollouts"])
                yield _group(line, rollouts[begin:end])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise UserError(
                    f"{self._windows[step]}, line {number} is no group of a window, or "
                    f"{self._rollouts[step]} does not belong to it ({type(error).__name__}: {error})"
                ) from None
            begin = end
        if begin != len(rollouts):
            raise UserError(f"{self._rollouts[step]} does not belong to {self._windows[step]}: it is longer")


def _group(line: dict[str, Any], rollouts: list[dict[str, Any]]) -> ScoredGroup:
    read = [Rollout.from_json(one) for one in rollouts]
    count = len(line["completions"])
    each, rest = divmod(len(read), count)
    if rest or not each or len(read) != line["rollouts"]:
        raise ValueError(f"{len(read)} rollouts for {count} completions")
    completions = [
        Completion(
            read[place * each].completion,
            tuple(int(number) for number in one["token_ids"]),
            None if one["logprobs"] is None else tuple(np.float32(one["logprobs"]).tolist()),
            one["finish_reason"],
        )
        for place, one in enumerate(line["completions"])
    ]
    return ScoredGroup(int(line["index"]), completions, [one["reward"] for one in line["completions"]], read)


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
