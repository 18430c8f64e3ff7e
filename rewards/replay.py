"""Score a file of rollouts again, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from rewards.registry import WeightedReward


def read_rollouts(path: Path | str) -> Iterator[Rollout]:
    """Yield the rollouts of a JSON Lines file one by one.

    Raises:
        UserError: if the file cannot be read, or a line is not a rollout; names file and line.
    """
    for number, record in enumerate(read_lines(path), start=1):
        try:
            rollout = Rollout.from_json(record)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number} is not a rollout ({error!r}).") from None
        yield rollout


def replay(path: Path | str, reward: WeightedReward) -> Iterator[Rollout]:
    """Yield the rollouts of a file with `rewards` computed afresh by `reward`.

    The stored rewards are not looked at, so any reward can be tried on any file.
    """
    for _, scored in score_again(read_rollouts(path), reward):
        yield scored


def score_again(rollouts: Iterable[Rollout], reward: WeightedReward) -> Iterator[tuple[Rollout, Rollout]]:
    """Yield each rollout as it was and with `rewards` computed afresh, in order.

    For a reward that compares a group's rollouts, a group is what stands one after another in the record
    and has one question, step and segmenter.
    """
    alone = ([one] for one in rollouts)
    for asked in (list(same) for _, same in groupby(rollouts, _question)) if reward.needs_group else alone:
        scored: dict[int, Rollout] = {}
        for executor in {one.executor for one in asked}:
            places = [place for place, one in enumerate(asked) if one.executor == executor]
            group = reward.score_group([asked[place] for place in places])
            scored.update(zip(places, group, strict=True))
        yield from ((one, scored[place]) for place, one in enumerate(asked))


def _question(rollout: Rollout) -> tuple[str | int, ...]:
    return rollout.dataset, rollout.split, rollout.sample_id, rollout.step
