"""What is removed of the proposed masks, each rule with the count of what it removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np

from envs.boxes import pairwise_box_iou
from envs.datasets.false_premises import plain_name
from envs.masks import Mask, decode_rle, encode_rle, mask_to_box
from envs.proposals.propose import without_duplicates
from recipes.engine.detections import Detection
from recipes.engine.masks import Candidate
from recipes.engine.settings import FilterRules
from recipes.engine.shapes import Reference, Shape, shape_of

OWN_FILTERS = ("predicted_iou", "stability", "small", "large", "components", "off_box")
"""Rules that look at one mask, in the order in which they are applied."""

FILTERS = ("empty", *OWN_FILTERS, "duplicate", "shape")
"""All rules. `empty` is counted where masks are proposed; `shape` is applied where categories are known."""


def filter_masks(
    candidates: Sequence[Candidate],
    detections: Sequence[Detection],
    image_wh: tuple[int, int],
    rules: FilterRules,
) -> tuple[list[Candidate], dict[str, int]]:
    """Apply all rules but that of shapes.

    Args:
        candidates: of one image.
        detections: of the image; a mask made from a box is held against it.
        image_wh: (width, height) in pixels.
        rules: see `FilterRules`.

    Returns:
        The masks that stay, without specks, those from boxes first, then by predicted IoU; and rule ->
        how many it removed.
    """
    removed = dict.fromkeys((*OWN_FILTERS, "duplicate"), 0)
    left: list[Candidate] = []
    for candidate in candidates:
        cleaned, components = _without_specks(candidate, image_wh, rules.speck_share)
        why = _failing(cleaned, components, detections, image_wh, rules)
        if why is None:
            left.append(cleaned)
        else:
            removed[why] += 1
    left.sort(key=lambda one: (one.source != "box", -one.predicted_iou))
    kept = without_duplicates([one.mask for one in left], rules.duplicate_iou)
    removed["duplicate"] = len(left) - len(kept)
    return [left[number] for number in kept], removed


def _failing(
    one: Candidate,
    components: int,
    detections: Sequence[Detection],
    image_wh: tuple[int, int],
    rules: FilterRules,
) -> str | None:
    pixels = image_wh[0] * image_wh[1]
    if not one.predicted_iou >= rules.predicted_iou:  # a score that is no number fails
        return "predicted_iou"
    if not one.stability >= rules.stability:
        return "stability"
    if one.area < rules.smallest_share * pixels:
        return "small"
    if one.area > rules.largest_share * pixels:
        return "large"
    if components != 1:  # one prompt, one object: SegEarth-R2's count of components against boxes
        return "components"
    if one.source == "box" and one.detection is not None:
        said = detections[one.detection].box
        if pairwise_box_iou([one.box], [said])[0, 0] < rules.box_iou:
            return "off_box"
    return None


def _without_specks(one: Candidate, image_wh: tuple[int, int], share: float) -> tuple[Candidate, int]:
    """A mask without components smaller than a share of it, and how many components are left."""
    mask = decode_rle(one.mask, (image_wh[1], image_wh[0]))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = np.flatnonzero(areas >= share * one.area) + 1
    if len(large) == count - 1:
        return one, count - 1
    cleaned: Mask = np.isin(labels, large)
    box = mask_to_box(cleaned)
    if box is None:  # nothing but specks: as many components as there are
        return one, count - 1
    return replace(one, mask=encode_rle(cleaned), box=box, area=int(cleaned.sum())), len(large)


def filter_shapes(
    named: Sequence[tuple[Candidate, str]],
    image_wh: tuple[int, int],
    references: Mapping[str, Reference],
    deviations: float,
) -> tuple[list[tuple[Candidate, str, Shape]], dict[str, int]]:
    """Remove masks whose shape lies outside the range of their category's reference.

    Args:
        named: masks with their categories, "" for none; without a category, or a reference of it, all pass.
        image_wh: (width, height) in pixels.
        references: plain name of a category -> its range.
        deviations: see `FilterRules`.

    Returns:
        Those that stay, with their shapes; and statistic -> how many it removed.
    """
    removed: dict[str, int] = {}
    kept = []
    for candidate, category in named:
        shape = shape_of(decode_rle(candidate.mask, (image_wh[1], image_wh[0])))
        reference = references.get(plain_name(category))
        why = None if reference is None else reference.outside(shape, deviations)
        if why is None:
            kept.append((candidate, category, shape))
        else:
            removed[why] = removed.get(why, 0) + 1
    return kept, removed
