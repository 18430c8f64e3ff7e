"""Rewards that compare the rollouts of one group: the completions of one question, by one segmenter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from envs.rollout import Rollout

GroupReward = Callable[[Sequence[Rollout]], Sequence[float | None]]
"""Rollouts of one group, in order -> the reward of each; None leaves a rollout out of its group."""


def needs_group(reward: GroupReward) -> GroupReward:
    """Mark a reward that is given all rollouts of a group at once, and returns as many rewards.

    To be written as `@needs_group` above the reward. It is a pure function of them, as any reward.
    """
    reward.needs_group = True  # type: ignore[attr-defined]
    return reward


def is_grouped(reward: object) -> bool:
    """Whether a reward is marked with `needs_group`."""
    return bool(getattr(reward, "needs_group", False))
