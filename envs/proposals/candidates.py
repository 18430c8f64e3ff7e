"""The masks a question may be answered with: an image's proposals, with or without its targets among them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from envs.masks import RLE, decode_rle, encode_rle, mask_to_box, rle_iou
from envs.oracle import reading_order, target_masks
from envs.proposals.propose import Proposals
from envs.sample import Sample
from prompter.types import Box


@dataclass(frozen=True)
class Candidates:
    """Masks to choose from.

    Args:
        masks: none of them empty.
        boxes: their tight XYXY half-open boxes, pixels.
        areas: their pixels.
        scores: the segmenter's predicted IoU; 1 for a target.
        matching: those that answer the question, one for each target that has one, in the targets' reading
            order.
        targets: how many targets the question has.
    """

    masks: tuple[RLE, ...] = field(repr=False)
    boxes: tuple[Box, ...] = field(repr=False)
    areas: tuple[int, ...] = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    matching: tuple[int, ...]
    targets: int

    def __len__(self) -> int:
        return len(self.masks)


def proposed_candidates(sample: Sample, proposals: Proposals, match_iou: float) -> Candidates:
    """An image's proposals; targets are paired with them one to one, by the highest sum of IoUs.

    A pair counts from an IoU of `match_iou` on. Proposals that overlap a target well, but are not paired, do
    not match.
    """
    targets = _targets(sample)
    overlaps = rle_iou(targets, [one.mask for one in proposals.kept])
    overlaps = np.where(overlaps >= match_iou, overlaps, 0.0)
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    matching = tuple(int(column) for row, column in zip(rows, columns, strict=True) if overlaps[row, column])
    return _candidates(proposals, range(len(proposals.kept)), [], matching, len(targets))


def candidates_with_targets(sample: Sample, proposals: Proposals, twin_iou: float) -> Candidates:
    """The proposals, then the targets themselves, which answer the question.

    Proposals whose IoU with a target is above `twin_iou` are left out: they are the target. (The paper's
    second setting; its code takes 0.95.)
    """
    targets = _targets(sample)
    overlaps = rle_iou([one.mask for one in proposals.kept], targets)
    twins: NDArray[np.bool_] = overlaps.max(1, initial=0.0) > twin_iou
    others = [index for index in range(len(proposals.kept)) if not twins[index]]
    matching = tuple(range(len(others), len(others) + len(targets)))
    return _candidates(proposals, others, targets, matching, len(targets))


def _targets(sample: Sample) -> list[RLE]:
    return [encode_rle(mask) for mask in reading_order(target_masks(sample))]


def _candidates(
    proposals: Proposals,
    indices: range | list[int],
    targets: list[RLE],
    matching: tuple[int, ...],
    count: int,
) -> Candidates:
    chosen = [proposals.kept[index] for index in indices]
    decoded = [decode_rle(rle) for rle in targets]
    boxes = [box for box in map(mask_to_box, decoded) if box is not None]
    return Candidates(
        masks=(*(one.mask for one in chosen), *targets),
        boxes=(*(one.box for one in chosen), *boxes),
        areas=(*(one.area for one in chosen), *(int(np.count_nonzero(mask)) for mask in decoded)),
        scores=(*(one.predicted_iou for one in chosen), *([1.0] * len(targets))),
        matching=matching,
        targets=count,
    )
