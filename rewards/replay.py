"""Score a file of rollouts again, without a model."""

from __future__ import annotations

from collections.abc import Iterator
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
    for rollout in read_rollouts(path):
        yield reward.score(rollout)
