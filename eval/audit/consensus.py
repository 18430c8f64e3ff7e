"""What several predictions of one query say together, without a look at the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask, symmetric_iou
from envs.rollout import EXPECTED_IOU, Rollout
from prompter.types import ParseFailure

AGREE = 0.5
"""Two masks are of the same thing when their IoU reaches this, the threshold of P@0.5."""


@dataclass(frozen=True)
class Vote:
    """What one predictor says.

    Args:
        policy: number of its policy.
        mask: bool [height, width], empty for "no target"; None where there was no answer to read, or
            the segmenter failed.
        confidence: the calibrated expected IoU where the answer has one, else the segmenter's own estimate;
            NaN if it gave none.
    """

    policy: int
    mask: Mask | None = field(repr=False)
    confidence: float = float("nan")


@dataclass(frozen=True)
class Consensus:
    """What the largest group of agreeing predictors says.

    Args:
        mask: bool [height, width]; the pixels that more than half of the group's votes hold.
        members: whether each predictor is of the group, bool [predictors].
        agreement: mean IoU of all pairs of masks; NaN with fewer than two.
        across: mean IoU of the group's central mask with the masks of the other policies, one vote each,
            0 for a policy without a mask; NaN where there is only one policy.
        within: mean IoU of pairs of one policy drawn by several segmenters; NaN where there is none.
        policies: how many policies are of the group by at least half of their masks.
        confidence: mean of the members' own estimates; NaN if there are none.
    """

    mask: Mask = field(repr=False)
    members: NDArray[np.bool_]
    agreement: float
    across: float
    within: float
    policies: int
    confidence: float


def vote_of(policy: int, rollout: Rollout) -> Vote:
    """A rollout as a vote. A completion that did not parse says nothing; an empty answer says "no target"."""
    unread = isinstance(rollout.reading, ParseFailure) or rollout.executor_error is not None
    scores = [value for value in rollout.predicted_ious if value is not None]
    expected = rollout.confidence.get(EXPECTED_IOU)
    own = float(np.mean(scores)) if scores else float("nan")
    return Vote(
        policy, None if unread else rollout.prediction_mask, own if expected is None else float(expected)
    )


def find_consensus(votes: Sequence[Vote], policies: int, ignore: Mask | None = None) -> Consensus | None:
    """Find the largest group of agreeing votes; None where no predictor gave a mask.

    Each policy has one vote, shared by its masks. The centre of the group is the mask whose IoU with all
    others, weighted by their votes, is highest (of equals, the first); its group is what agrees with it
    to at least `AGREE`.

    Args:
        votes: one per predictor; masks of one shape.
        policies: how many policies there are, those without a mask included.
        ignore: pixels that count nowhere, bool [height, width], or None.
    """
    given = [number for number, vote in enumerate(votes) if vote.mask is not None]
    if not given:
        return None
    masks = [mask for vote in votes if (mask := vote.mask) is not None]
    owner = np.array([votes[number].policy for number in given])
    share = 1.0 / np.bincount(owner, minlength=policies)[owner]  # votes: a policy's add up to one
    ious = symmetric_iou(masks, ignore)
    centre = int(np.argmax(ious @ share))
    near = ious[centre] >= AGREE
    members = np.zeros(len(votes), dtype=np.bool_)
    members[np.array(given)[near]] = True
    held = sum(weight * mask for weight, mask, is_near in zip(share, masks, near, strict=True) if is_near)
    mask = np.asarray(held) > share[near].sum() / 2
    others = owner != owner[centre]
    agreeing = np.bincount(owner, weights=share * near, minlength=policies)
    pairs = np.triu(np.ones_like(ious, dtype=np.bool_), 1)
    same = owner[:, None] == owner[None, :]
    confidences = np.array([votes[number].confidence for number in given])[near]
    return Consensus(
        mask=mask,
        members=members,
        agreement=_mean(ious[pairs]),
        across=float((ious[centre] * share)[others].sum() / (policies - 1)) if policies > 1 else float("nan"),
        within=_mean(ious[pairs & same]),
        policies=int((agreeing >= 0.5).sum()),
        confidence=_mean(confidences[~np.isnan(confidences)]),
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")
