"""Rewards by name, and their weighted sum.

A reward is a pure function of a rollout: `Rollout -> float | None`. No model is loaded here, so a
breakpoint works, and a file of rollouts can be scored again at any time (`rewards.replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from envs.rollout import Rollout
from prompter.errors import UserError, did_you_mean
from rewards.box import box_iou
from rewards.form import tag_format, valid_answer
from rewards.instances import instance_mask_iou
from rewards.mask import mask_iou

Reward = Callable[[Rollout], float | None]


@dataclass(frozen=True)
class RewardSpec:
    """A reward and what it needs.

    Args:
        function: the reward itself.
        needs_instances: rollouts must carry one predicted mask per instance
            (`make_rollouts(keep_instances=True)`).
    """

    function: Reward
    needs_instances: bool = False


REWARDS: dict[str, RewardSpec] = {
    "mask_iou": RewardSpec(mask_iou),
    "instance_mask_iou": RewardSpec(instance_mask_iou, needs_instances=True),
    "box_iou": RewardSpec(box_iou),
    "valid_answer": RewardSpec(valid_answer),
    "tag_format": RewardSpec(tag_format),
}
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
        parts: name -> (reward, weight).
    """

    def __init__(self, parts: Mapping[str, tuple[RewardSpec, float]]) -> None:
        self._parts = dict(parts)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each reward by name."""
        return {name: weight for name, (_, weight) in self._parts.items()}

    @property
    def needs_instances(self) -> bool:
        """Whether a reward asks for one predicted mask per instance."""
        return any(spec.needs_instances for spec, _ in self._parts.values())

    def __call__(self, rollout: Rollout) -> RewardBreakdown:
        """Score one rollout. A part that is None makes the total None, never 0."""
        parts = {name: spec.function(rollout) for name, (spec, _) in self._parts.items()}
        total = 0.0
        for name, value in parts.items():
            if value is None:
                return RewardBreakdown(None, parts)
            total += self._parts[name][1] * value
        return RewardBreakdown(total, parts)

    def score(self, rollout: Rollout) -> Rollout:
        """Return the rollout with its `rewards` filled in."""
        return replace(rollout, rewards=self(rollout).to_json())


def build_reward(weights: Mapping[str, float]) -> WeightedReward:
    """Make the reward a config names, such as `{"mask_iou": 1.0}`.

    Raises:
        UserError: if no reward is named, a name is unknown, or a weight is not a finite number.
    """
    if not weights:
        raise UserError("The config names no reward; give for example `rewards: {mask_iou: 1.0}`.")
    parts = {}
    for name, weight in weights.items():
        if name not in REWARDS:
            raise UserError(f"There is no reward {name!r}.{did_you_mean(name, REWARDS)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not abs(weight) < float("inf"):
            raise UserError(f"The weight of reward {name!r} should be a finite number, but is {weight!r}.")
        parts[name] = (REWARDS[name], float(weight))
    return WeightedReward(parts)
