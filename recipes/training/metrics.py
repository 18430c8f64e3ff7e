"""What is logged of one step: groups, failures and rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs.rollouts import image_key
from envs.sample import Sample
from prompter.types import FailureKind, ParseFailure, PromptSet, mends
from recipes.training.scoring import ScoredGroup
from rewards.mask import mask_iou


def describe_groups(groups: Sequence[ScoredGroup], samples: Mapping[int, Sample]) -> dict[str, Any]:
    """Summarise groups for the log: rewards, gIoU, failures by kind, and how answers were given.

    Args:
        groups: all groups of a step, used for the loss or not.
        samples: training-set index -> sample.
    """
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    completions = sum(len(group.completions) for group in groups)
    failures = Counter(
        rollout.reading.kind for rollout in rollouts if isinstance(rollout.reading, ParseFailure)
    )
    mended = Counter(how for rollout in rollouts for how in mends(rollout.reading))
    answers = [rollout.reading for rollout in rollouts if isinstance(rollout.reading, PromptSet)]
    instances = [instance for answer in answers for instance in answer.instances]
    drawn = [rollout for rollout in rollouts if rollout.target is not None]
    targeted = [rollout for rollout in rollouts if rollout.has_target]
    ious = [iou for rollout in drawn if (iou := mask_iou(rollout)) is not None]
    return {
        "reward": _mean(rewards),
        "reward_std": _mean(
            [
                float(np.std([reward for reward in group.rewards if reward is not None]))
                for group in groups
                if any(reward is not None for reward in group.rewards)
            ]
        ),
        "gIoU": _mean(ious),
        "groups": len(groups),
        "frac_reward_zero_std": _mean([float(not group.has_spread) for group in groups]),
        "completions": completions,
        "rollouts": len(rollouts),
        "images": len({image_key(samples[group.index]) for group in groups}),
        "parse_failures": sum(failures.values()),
        "parse_failure_rate": sum(failures.values()) / max(1, len(rollouts)),
        "parse_failure_kinds": {str(kind): failures[kind] for kind in FailureKind if failures[kind]},
        **({"answers_mended": dict(mended)} if mended else {}),
        "executor_failures": sum(rollout.executor_error is not None for rollout in rollouts),
        "unscored_completions": sum(reward is None for group in groups for reward in group.rewards),
        "refusals": _mean(
            [float(isinstance(one.reading, PromptSet) and one.reading.is_empty) for one in targeted]
        ),
        "empty_answers": _mean([float(answer.is_empty) for answer in answers]),
        "instances_per_answer": _mean([float(len(answer)) for answer in answers]),
        "share_with_box": _mean([float(instance.box is not None) for instance in instances]),
        "share_with_points": _mean([float(bool(instance.positive_points)) for instance in instances]),
        "completion_tokens": _mean(
            [float(len(completion.token_ids)) for group in groups for completion in group.completions]
        ),
    }


def importance_ratios(batch: Mapping[str, Any]) -> dict[str, float | None]:
    """How far the trained policy is from the one that was sampled, before anything is truncated.

    Args:
        batch: what TRL trains on: log-probabilities `old_per_token_logps` of the policy as it is and
            `sampling_per_token_logps` of the sampler's, float [rows, tokens], and `completion_mask`.

    Returns:
        `importance_ratio_mean` and `importance_ratio_max` of exp(old - sampled) over all tokens; empty if
        TRL was told not to correct for the difference.
    """
    if "old_per_token_logps" not in batch or batch.get("sampling_per_token_logps") is None:
        return {}
    ratios = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]).double().exp()
    ratios = ratios[batch["completion_mask"].bool()]
    known = ratios[ratios.isfinite()]
    if not len(known):
        return {"importance_ratio_mean": None, "importance_ratio_max": None}
    return {"importance_ratio_mean": float(known.mean()), "importance_ratio_max": float(known.max())}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
