"""Prompts on one image -> masks with scores, filtered and without duplicates.

The filters and their order are those of `segment_anything.SamAutomaticMaskGenerator`: predicted IoU, then
stability, then non-maximum suppression in the order of predicted IoU. Where that compares boxes, this
compares masks: a road's box covers the house beside it, its mask does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.executors.base import Executor, ExecutorFailure, Segmentation, SegmentRequest
from envs.masks import RLE, encode_rle, mask_to_box, rle_iou
from envs.proposals.grid import image_grid
from envs.proposals.rules import GridRules, ProposalRules
from envs.sample import RGB
from prompter.types import Box, Instance, PromptSet

MASK_BYTES = 256_000_000
"""Bound on the full-size masks of one image that are held at once."""


@dataclass(frozen=True)
class Proposal:
    """One proposed mask, in the image frame.

    Args:
        mask: COCO run-length encoding; not empty.
        box: its tight XYXY half-open box, pixels.
        area: its pixels.
        predicted_iou: the segmenter's own estimate.
        stability: see `envs.executors.base.Segmentation`.
        prompt: index of the prompt that gave it.
    """

    mask: RLE = field(repr=False)
    box: Box
    area: int
    predicted_iou: float
    stability: float
    prompt: int


@dataclass(frozen=True)
class Proposals:
    """What was proposed for one image.

    Args:
        image_wh: (width, height) in pixels.
        kept: by falling predicted IoU, then in the order of the prompts.
        removed: filter -> masks it removed: empty, predicted_iou, stability, small, large, duplicate, top.
    """

    image_wh: tuple[int, int]
    kept: tuple[Proposal, ...]
    removed: dict[str, int]


FILTERS = ("empty", "predicted_iou", "stability", "small", "large", "duplicate", "top")
"""Names under which `Proposals.removed` counts, in the order in which they are applied."""


def propose_grid(
    executor: Executor, image: RGB, rules: GridRules, image_key: str = ""
) -> Proposals | ExecutorFailure:
    """`propose` with a grid of points over the whole image."""
    height, width = image.shape[:2]
    return propose(executor, image, image_grid((width, height), rules.points_per_side), rules, image_key)


def propose(
    executor: Executor,
    image: RGB,
    prompts: Sequence[Instance],
    rules: ProposalRules,
    image_key: str = "",
) -> Proposals | ExecutorFailure:
    """Segment every prompt by itself and keep the masks that pass the rules.

    Args:
        executor: the frozen segmenter. It encodes the image once, as long as its cache has room for one
            embedding.
        image: [height, width, 3] uint8 RGB.
        prompts: one object each, image frame.
        rules: which masks stay.
        image_key: see `envs.executors.base.SegmentRequest`.

    Returns:
        The proposals; or what kept the segmenter from serving this image.
    """
    found = segment_each(executor, image, prompts, image_key)
    if isinstance(found, ExecutorFailure):
        return found
    height, width = image.shape[:2]
    removed = dict.fromkeys(FILTERS, 0)
    removed["empty"] = len(prompts) - len(found)
    left = []
    for proposal in found:
        why = _failing(proposal, rules, width * height)
        if why is None:
            left.append(proposal)
        else:
            removed[why] += 1
    left.sort(key=lambda one: (-one.predicted_iou, one.prompt))
    kept = [left[i] for i in without_duplicates([one.mask for one in left], rules.duplicate_iou)]
    removed["duplicate"] = len(left) - len(kept)
    best = kept[: rules.top]
    removed["top"] = len(kept) - len(best)
    return Proposals((width, height), tuple(best), removed)


def segment_each(
    executor: Executor, image: RGB, prompts: Sequence[Instance], image_key: str = ""
) -> list[Proposal] | ExecutorFailure:
    """The mask of every prompt by itself, unfiltered but for empty ones; arguments as for `propose`.

    A large image's prompts are segmented in parts, so that their full masks need not be held together.
    """
    step = max(1, MASK_BYTES // max(1, image.shape[0] * image.shape[1]))
    found: list[Proposal] = []
    for start in range(0, len(prompts), step):
        part = tuple(prompts[start : start + step])
        (result,) = executor.segment([SegmentRequest(image, PromptSet(part), image_key)], keep_instances=True)
        if isinstance(result, ExecutorFailure):
            return result
        found += _proposals(result, start)
    return found


def _proposals(result: Segmentation, first: int) -> list[Proposal]:
    if result.instance_masks is None:
        raise ValueError("the executor returned no instance masks, but they were asked for")
    proposals = []
    scored = zip(result.instance_masks, result.predicted_ious, result.stability, strict=True)
    for number, (mask, predicted, stability) in enumerate(scored, start=first):
        box = mask_to_box(mask)
        if box is not None:
            area = int(np.count_nonzero(mask))
            proposals.append(
                Proposal(encode_rle(mask), box, area, float(predicted), float(stability), number)
            )
    return proposals


def _failing(proposal: Proposal, rules: ProposalRules, pixels: int) -> str | None:
    """The first rule that a proposal fails by itself, or None. A score that is no number fails."""
    if not proposal.predicted_iou >= rules.predicted_iou:
        return "predicted_iou"
    if not proposal.stability >= rules.stability:
        return "stability"
    if proposal.area < rules.smallest_share * pixels:
        return "small"
    return "large" if proposal.area > rules.largest_share * pixels else None


def without_duplicates(masks: Sequence[RLE], iou: float) -> list[int]:
    """Greedy non-maximum suppression by mask IoU.

    Args:
        masks: of one image, the best first.
        iou: a mask that overlaps a better one, itself kept, by more than this is dropped.

    Returns:
        Indices of those that stay, in order.
    """
    overlaps = rle_iou(masks, masks)
    dropped: NDArray[np.bool_] = np.zeros(len(masks), dtype=np.bool_)
    for index in range(len(masks)):
        if not dropped[index]:
            dropped[index + 1 :] |= overlaps[index, index + 1 :] > iou
    return [int(index) for index in np.flatnonzero(~dropped)]
