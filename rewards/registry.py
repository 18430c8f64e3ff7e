"""Rewards by name, and their weighted sum.

A reward is a pure function of a rollout: `Rollout -> float | None`, or of a group's rollouts where it is
marked so (`rewards.grouped`). No model is loaded here, so a breakpoint works, and a file of rollouts can be
scored again at any time (`rewards.replay`). A reward of your own is "module:function", wherever a name is
taken (`docs/extending.md`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.registry import Entry, Registry
from rewards.grouped import GroupReward, is_grouped

Reward = Callable[[Rollout], float | None]

REWARDS: Registry[Reward | GroupReward] = Registry(
    "reward",
    {
        "mask_iou": Entry("rewards.mask:mask_iou", "IoU of the predicted and the true mask"),
        "instance_mask_iou": Entry(
            "rewards.instances:instance_mask_iou", "mean mask IoU of objects matched one to one"
        ),
        "disjoint_mask_iou": Entry(
            "rewards.instances:disjoint_mask_iou", "mask IoU, less for pixels that several instances cover"
        ),
        "tiered_mask_iou": Entry("rewards.tiers:tiered_mask_iou", "mask IoU in the steps of SAM-R1"),
        "tiered_instance_iou": Entry(
            "rewards.tiers:tiered_instance_iou", "objects matched one to one, mask IoU in the steps of StAR"
        ),
        "agreement": Entry(
            "rewards.agreement:agreement", "mean IoU with the group's other masks; looks at no target"
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
            for one predicted mask per instance, one that `rewards.grouped.needs_group` marks for the
            rollouts of its group.
    """

    def __init__(self, parts: Mapping[str, tuple[Reward | GroupReward, float]]) -> None:
        self._parts = dict(parts)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward by name."""
        return {name: weight for name, (_, weight) in self._parts.items()}

    @property
    def needs_instances(self) -> bool:
        """Whether a reward asks for one predicted mask per instance."""
        return any(getattr(reward, "needs_instances", False) for reward, _ in self._parts.values())

    @property
    def needs_group(self) -> bool:
        """Whether a reward compares the rollouts of a group."""
        return any(is_grouped(reward) for reward, _ in self._parts.values())

    def __call__(self, rollout: Rollout) -> RewardBreakdown:
        """Score one rollout, as a group of its own. A part that is None makes the total None, never 0.

        Raises:
            UserError: if a reward gives anything but None or a finite number.
        """
        return self._break_down([rollout])[0]

    def score(self, rollout: Rollout) -> Rollout:
        """Return the rollout with its `rewards` filled in; it is scored as a group of its own."""
        return self.score_group([rollout])[0]

    def score_group(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Return the rollouts of one question by one segmenter, in order, with their `rewards` filled in.

        Raises:
            UserError: as when it is called; also if a reward of groups gives another number of rewards.
        """
        scored = zip(rollouts, self._break_down(rollouts), strict=True)
        return [replace(rollout, rewards=rewards.to_json()) for rollout, rewards in scored]

    def _break_down(self, rollouts: Sequence[Rollout]) -> list[RewardBreakdown]:
        columns = {name: _values(name, reward, rollouts) for name, (reward, _) in self._parts.items()}
        return [
            self._weigh({name: values[place] for name, values in columns.items()})
            for place in range(len(rollouts))
        ]

    def _weigh(self, parts: Mapping[str, float | None]) -> RewardBreakdown:
        total = 0.0
        for name, value in parts.items():
            if value is None:
                return RewardBreakdown(None, parts)
            total += self._parts[name][1] * value
        return RewardBreakdown(total, parts)


def _values(name: str, reward: Reward | GroupReward, rollouts: Sequence[Rollout]) -> Sequence[float | None]:
    """What one reward gives for each rollout of a group."""
    if not is_grouped(reward):
        alone = cast(Reward, reward)
        return [_checked(name, alone(rollout)) for rollout in rollouts]
    values = list(cast(GroupReward, reward)(rollouts))
    if len(values) != len(rollouts):
        raise UserError(
            f"reward {name!r} gave {len(values)} rewards for a group of {len(rollouts)} rollouts."
        )
    return [_checked(name, value) for value in values]


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
