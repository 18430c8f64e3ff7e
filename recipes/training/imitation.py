"""Best-of-n distillation (rejection-sampling fine-tuning): the best completion of each group is imitated.

`group.objective: best-of-n` samples, segments, scores, selects, logs and resumes as GRPO does; only the loss
is another one: minus the log-likelihood of the best completion of each group, as in RAFT (arXiv:2304.06767).
It is the baseline that GRPO has to beat at equal completions. With a reward that looks at no target
(`rewards.agreement`) the teacher is the medoid of the group's masks.

TRL's loss becomes that where the advantage is 1 for the best completion and 0 for the others, and the ratio
to the policy that was sampled is 1 throughout: nothing is clipped or weighted by importance, however
many updates a window gets. A KL term (`trainer.beta`) stays. The likelihood is that of the distribution that
was sampled, at its temperature.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from prompter.errors import UserError
from recipes.config import GroupConfig, TrainConfig
from recipes.training.scoring import ScoredGroup

LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo")
"""Losses of TRL whose gradient at a ratio of 1 is that of the log-likelihood, weighed by the advantage."""


def check_objective(config: TrainConfig) -> None:
    """Refuse a loss of TRL that is no likelihood where the best completions are to be imitated.

    Raises:
        UserError: naming the key to change.
    """
    loss = config.trainer.get("loss_type")
    if config.group.objective == "best-of-n" and loss not in LOSSES:
        raise UserError(
            f"trainer.loss_type {loss} is not a likelihood of the completions that group.objective best-of-n "
            f"imitates: take one of {', '.join(LOSSES)}"
        )


def weighed(group: ScoredGroup, sampled: ScoredGroup, floor: float) -> ScoredGroup:
    """A group with `weights` that imitate its best completion: 1 for the first of the best, else 0.

    Args:
        group: what is trained on.
        sampled: all of its completions. Where they earned alike nothing is imitated: a question that
            is answered well whatever is drawn would outweigh those that are not.
        floor: a best completion that earned no more is not imitated.
    """
    weights = [0.0] * len(group.rewards)
    known = [(reward, -place) for place, reward in enumerate(group.rewards) if reward is not None]
    if known and sampled.has_spread and max(known)[0] > floor:
        weights[-max(known)[1]] = 1.0
    return replace(group, weights=weights)


def describe_imitated(groups: Sequence[ScoredGroup]) -> dict[str, float | int | None]:
    """For the log, of groups with weights: how many completions are imitated, and their mean reward."""
    rewards = [
        reward
        for group in groups
        for reward, weight in zip(group.rewards, group.weights or (), strict=True)
        if weight and reward is not None
    ]
    return {"imitated": len(rewards), "imitated_reward": sum(rewards) / len(rewards) if rewards else None}


def imitate(batch: MutableMapping[str, Any], groups: Sequence[ScoredGroup], config: GroupConfig) -> None:
    """Where the best is imitated, put the weights of completions in the place of their advantages.

    Args:
        batch: what TRL's `_generate_and_score_completions` returns, rows in the order of `groups`; changed.
        groups: of this rank.
        config: says whether.

    Raises:
        UserError: if they have no weights: they were sampled for another objective.
    """
    if config.objective != "best-of-n":
        return
    if any(group.weights is None for group in groups):
        raise UserError(
            "these rollouts were sampled for another objective: group.objective best-of-n trains on windows "
            "that were sampled with it"
        )
    weights = [weight for group in groups for weight in group.weights or ()]
    batch["advantages"] = batch["advantages"].new_tensor(weights)


def forget_ratios(batch: MutableMapping[str, Any], config: GroupConfig) -> None:
    """Where the best is imitated, make every ratio of TRL's loss 1: to the policy before the first update,
    and to the sampler's."""
    if config.objective != "best-of-n":
        return
    # Without them TRL takes the policy as it is at each update.
    batch.pop("old_per_token_logps", None)
    if "importance_sampling_ratio" in batch:
        batch["importance_sampling_ratio"] = batch["importance_sampling_ratio"].new_ones(
            batch["importance_sampling_ratio"].shape
        )
