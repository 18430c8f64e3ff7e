"""What is known about one query: what the predictors say, and how the label stands to that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from envs.masks import RLE, Mask, decode_rle, encode_rle, iou
from envs.rollout import Rollout
from eval.audit.consensus import Consensus, find_consensus, vote_of
from eval.audit.predictors import Predictor

NAN = float("nan")


@dataclass(frozen=True)
class Evidence:
    """One query. Masks are RLE in the image frame; a number that does not exist is NaN.

    Args:
        sample_id, image_id, image_wh, query: as in `envs.sample.Sample`.
        label: the target.
        ignore: pixels that count nowhere, or None.
        consensus: what the predictors say together, or None where none of them gave a mask.
        members, agreement, across, within, policies, confidence: see `eval.audit.consensus.Consensus`.
        predictions: one per predictor; None where it gave no mask.
        ious: IoU of each prediction with the label.
        consensus_iou: IoU of the consensus with the label.
        redrawn: the segmenter's mask from the label's own boxes; None without a segmenter, or without a box.
        redrawn_iou: its IoU with the label.
    """

    sample_id: str
    image_id: str
    image_wh: tuple[int, int]
    query: str
    label: RLE = field(repr=False)
    ignore: RLE | None = field(repr=False)
    consensus: RLE | None = field(repr=False)
    members: tuple[bool, ...]
    agreement: float
    across: float
    within: float
    policies: int
    confidence: float
    predictions: tuple[RLE | None, ...] = field(repr=False)
    ious: tuple[float, ...]
    consensus_iou: float
    redrawn: RLE | None = field(default=None, repr=False)
    redrawn_iou: float = NAN

    @property
    def mask_hw(self) -> tuple[int, int]:
        """(height, width) of every mask."""
        return (self.image_wh[1], self.image_wh[0])

    def decoded(self, rle: RLE) -> Mask:
        """A mask of this query, bool [height, width]."""
        return decode_rle(rle, self.mask_hw)

    def with_label(self, label: RLE) -> Evidence:
        """The same predictions against another label; what a segmenter redrew from the old one is dropped."""
        mask, ignore = self.decoded(label), None if self.ignore is None else self.decoded(self.ignore)

        def against(rle: RLE | None) -> float:
            return NAN if rle is None else iou(self.decoded(rle), mask, ignore)

        return replace(
            self,
            label=label,
            ious=tuple(map(against, self.predictions)),
            consensus_iou=against(self.consensus),
            redrawn=None,
            redrawn_iou=NAN,
        )

    def with_redrawn(self, mask: Mask) -> Evidence:
        """With a segmenter's mask from the label's boxes, bool [height, width]."""
        ignore = None if self.ignore is None else self.decoded(self.ignore)
        return replace(
            self, redrawn=encode_rle(mask), redrawn_iou=iou(mask, self.decoded(self.label), ignore)
        )


def gather(
    queries: Iterator[tuple[Rollout, ...]], predictors: Sequence[Predictor], policies: int
) -> Iterator[Evidence]:
    """Weigh the rollouts of each query (`eval.audit.predictors.aligned`) up; yield its evidence."""
    for rollouts in queries:
        first = rollouts[0]
        target = first.target
        assert target is not None  # `aligned` refuses boxes
        votes = [vote_of(one.policy, rollout) for one, rollout in zip(predictors, rollouts, strict=True)]
        found = find_consensus(votes, policies, first.ignore_mask) or _nothing(first.mask_hw, len(votes))
        evidence = Evidence(
            sample_id=first.sample_id,
            image_id=first.image_id,
            image_wh=first.image_wh,
            query=first.query,
            label=target,
            ignore=first.ignore,
            consensus=encode_rle(found.mask) if found.members.any() else None,
            members=tuple(bool(one) for one in found.members),
            agreement=found.agreement,
            across=found.across,
            within=found.within,
            policies=found.policies,
            confidence=found.confidence,
            predictions=tuple(
                None if vote.mask is None else rollout.prediction
                for vote, rollout in zip(votes, rollouts, strict=True)
            ),
            ious=(),
            consensus_iou=NAN,
        )
        yield evidence.with_label(target)


def _nothing(hw: tuple[int, int], predictors: int) -> Consensus:
    """Where no predictor gave a mask."""
    empty = np.zeros(hw, dtype=np.bool_)
    return Consensus(empty, np.zeros(predictors, dtype=np.bool_), NAN, NAN, NAN, 0, NAN)
