"""Agreement of masks within a group: a reward, or a teacher, where nobody has drawn targets. Opt-in.

No target, box or ignore mask of the dataset is looked at. The most agreeing answer of a group (its medoid)
is nearer to the target than a drawn one, and the more the answers agree the likelier they are right; that is
what majority votes rest on, as labels for reinforcement in TTRL (arXiv:2504.16084).

What a majority vote rewards can be had without looking: refusing every question agrees perfectly. So here
agreement says only *where*, never *whether*: a refusal is neither rewarded nor punished, and a group that
mostly refuses teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask, pairwise_iou
from envs.rollout import Rollout
from prompter.types import ParseFailure
from rewards.grouped import needs_group


@needs_group
def agreement(rollouts: Sequence[Rollout]) -> list[float | None]:
    """Mean IoU of each rollout's mask with the masks of the others that name something, in [0, 1].

    - An answer that did not parse scores 0, and is no voter.
    - Empty answers score None: they are left out. So are all others where those that name something are
      fewer than two, or no more than the empty ones.
    - Executor failures score None, and are no voters.
    - An empty mask has IoU 0 with every other, an empty one as well.

    Args:
        rollouts: of one question by one segmenter. A single one scores None, or 0 if it did not parse.
    """
    scores: list[float | None] = [
        0.0 if isinstance(rollout.reading, ParseFailure) else None for rollout in rollouts
    ]
    voters, refusals = [], 0
    for place, rollout in enumerate(rollouts):
        if isinstance(rollout.reading, ParseFailure) or rollout.executor_error is not None:
            continue
        if rollout.reading.is_empty:
            refusals += 1
        else:
            voters.append(place)
    if len(voters) < 2 or len(voters) <= refusals:
        return scores
    each = _ious([rollouts[place] for place in voters])
    np.fill_diagonal(each, 0.0)
    for place, total in zip(voters, each.sum(axis=1), strict=True):
        scores[place] = float(total / (len(voters) - 1))
    return scores


def _ious(rollouts: Sequence[Rollout]) -> NDArray[np.float64]:
    """IoU of every mask with every other, 0 for empty ones, float64 [rollouts, rollouts]."""
    # Answers of one group often give the very same mask: it is compared once.
    kinds: dict[str, int] = {}
    masks: list[Mask] = []
    kind_of = []
    for rollout in rollouts:
        if rollout.prediction is None or rollout.prediction_mask is None:
            raise ValueError(f"rollout of {rollout.sample_id!r} has neither a prediction nor an error")
        kind_of.append(kinds.setdefault(rollout.prediction["counts"], len(masks)))
        if len(kinds) > len(masks):
            masks.append(rollout.prediction_mask)
    ious = pairwise_iou(masks, masks, None)
    ious[[not mask.any() for mask in masks]] = 0.0  # nothing found agrees with nothing
    return ious[np.ix_(kind_of, kind_of)]
