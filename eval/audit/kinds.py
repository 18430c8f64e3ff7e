"""What seems to be wrong with a label, from its mask and the mask that stands against it."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from envs.masks import Mask, iou

KINDS: Mapping[str, str] = {
    "none": "the two agree",
    "no-target": 'one of the two says "no target"',
    "boundary": "the same thing with another outline",
    "size": "the same shape about the same centre, larger or smaller",
    "place": "the same shape beside it",
    "missing": "the label covers only a part",
    "extra": "the label covers more than the thing",
    "wrong-object": "something else is marked",
    "partly": "they overlap, and neither holds the other",
}
"""Kind -> what it means. It is judged by geometry alone and helps a reader; the order of the queue does not
depend on it."""

_AGREED = 0.9
_SAME_OUTLINE = 0.75
_SAME_SHAPE = 0.7
_APART = 0.2
_INSIDE = 0.85


def kind_of(label: Mask, other: Mask) -> str:
    """The kind, of `KINDS`, of the difference between a label and what is held against it.

    Args:
        label, other: bool [height, width] of one shape.
    """
    if label.any() != other.any():
        return "no-target"
    overlap = iou(label, other)
    if overlap >= _AGREED:
        return "none"
    if overlap >= _SAME_OUTLINE:
        return "boundary"
    shape, apart, ratio = _as_one_shape(label, other)
    if shape >= _SAME_SHAPE and overlap > 0:
        if apart <= 0.15 and not 0.8 <= ratio <= 1.25:
            return "size"
        if 0.8 <= ratio <= 1.25:
            return "place"
    shared = np.count_nonzero(label & other)
    if shared >= _INSIDE * np.count_nonzero(label):
        return "missing"
    if shared >= _INSIDE * np.count_nonzero(other):
        return "extra"
    return "wrong-object" if overlap < _APART else "partly"


def _as_one_shape(label: Mask, other: Mask) -> tuple[float, float, float]:
    """How alike two masks are when one is moved and scaled onto the other.

    Returns:
        IoU of `label` with `other` mapped to its centre of mass and area; distance of the centres as a share
        of the square root of the larger area; ratio of the side lengths (root of the areas' ratio).
    """
    areas = [float(np.count_nonzero(mask)) for mask in (label, other)]
    centres = [np.argwhere(mask).mean(0)[::-1] for mask in (label, other)]  # (x, y)
    ratio = float(np.sqrt(areas[0] / areas[1]))
    move = centres[0] - ratio * centres[1]
    matrix = np.array([[ratio, 0, move[0]], [0, ratio, move[1]]])
    wh = (label.shape[1], label.shape[0])
    mapped = cv2.warpAffine(other.astype(np.uint8), matrix, wh, flags=cv2.INTER_NEAREST) != 0
    apart = float(np.hypot(*(centres[0] - centres[1]))) / np.sqrt(max(areas))
    return iou(label, mapped), apart, ratio
