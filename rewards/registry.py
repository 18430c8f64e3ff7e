"""Rewards by name, and their weighted sum.

A reward is a pure function of a rollout: `Rollout -> float | None`. No model is loaded here, so a
breakpoint works, and a file of rollouts can be scored again at any time (`rewards.replay`). A reward
of your own is "module:function", wherever a name is taken (`docs/extending.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.registry import Entry, Registry

Reward = Callable[[Rollout], float | None]

REWARDS: Registry[Reward] = Registry(
    "reward",
    {
        "mask_iou": Entry("rewards.mask:mask_iou", "IoU of the predicted and the true mask"),
        "instance_mask_iou": Entry(
            "rewards.instances:instance_mask_iou", "mean mask IoU of objects matched one to one"
        ),
        "box_iou": Entry("rewards.box:box_iou", "mean IoU of boxes matched one to one"),
        "valid_answer": Entry("rewards.form:valid_answer", "1 where the answer could be read"),
        "tag_format": Entry("rewards.form:tag_format", "1 where <think> and <answer> are as asked for"),
    },
)
"""Every reward by its name in a config. The default recipe uses `mask_iou` alone."""


@dataclass(frozen=True)
class RewardBreakdown:
    """What a rollout earned.

    Args:
        total: weighted sum, or None when a part is None (the executor failed).
        parts: each reward by name, before its weight.
    """

    total: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, float | None]:
        """Return {"total": …, name: …}, the form stored in `Rollout.rewards`."""
        return {"total": self.total, **self.parts}


class WeightedReward:
    """A sum of named rewards. Make it with `build_reward`.

    Args:
        parts: name -> (reward, weight). A reward that `rewards.instances.needs_instances` marks asks
            for one predicted mask per instance.
    """

    def __init__(self, parts: Mapping[str, tuple[Reward, float]]) -> None:
        self._parts = dict(parts)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward by name."""
        return {name: weight for name, (_, weight) in self._parts.items()}

    @property
    def needs_instances(self) -> bool:
        """Whether a reward asks for one predicted mask per instance."""
        return any(getattr(reward, "needs_instances", False) for reward, _ in self._parts.values())

    def __call__(self, rollout: Rollout) -> RewardBreakdown:
        """Score one rollout. A part that is None makes the total None, never 0.

        Raises:
            UserError: if a reward gives anything but None or a finite number.
        """
        parts = {name: _checked(name, reward(rollout)) for name, (reward, _) in self._parts.items()}
        total = 0.0
        for name, value in parts.items():
            if value is None:
                return RewardBreakdown(None, parts)
            total += self._parts[name][1] * value
        return RewardBreakdown(total, parts)

    def score(self, rollout: Rollout) -> Rollout:
        """Return the rollout with its `rewards` filled in."""
        return replace(rollout, rewards=self(rollout).to_json())


def _checked(name: str, value: float | None) -> float | None:
    """A reward's value as it is; one that is no number would spoil every weight of the policy."""
    if value is None or (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
        return value
    raise UserError(f"reward {name!r} should return a finite number or None, but returned {value!r}.")


def build_reward(weights: Mapping[str, float]) -> WeightedReward:
    """Make the reward a config names, such as `{"mask_iou": 1.0}`.

    Args:
        weights: name of `REWARDS`, or "module:function", -> weight.

    Raises:
        UserError: if no reward is named, a name is unknown, or a weight is not a finite number.
    """
    if not weights:
        raise UserError("The config names no reward; give for example `rewards: {mask_iou: 1.0}`.")
    parts = {}
    for name, weight in weights.items():
        reward = REWARDS.resolve(name)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not abs(weight) < float("inf"):
            raise UserError(f"The weight of reward {name!r} should be a finite number, but is {weight!r}.")
        parts[name] = (reward, float(weight))
    return WeightedReward(parts)
