"""How each reference code looks at a pair of masks: resolution, ignored pixels, clipping.

A view turns the native masks of a rollout into pixel counts. Resizing is nearest-neighbour with
the library the reference code uses, because OpenCV and Pillow pick different pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from PIL import Image

from envs.masks import Mask, intersection_and_union
from prompter.types import Box


class View(StrEnum):
    """The ways of looking that the protocols need."""

    NATIVE = "native"
    """Native resolution, ignored pixels left out (strict, LISA)."""

    NATIVE_WITH_IGNORED = "native-with-ignored"
    """Native resolution, ignored pixels count as background (VisionReasoner, ReLA)."""

    NATIVE_CLIPPED = "native-clipped"
    """As `NATIVE_WITH_IGNORED`; each predicted mask is cut to its own box (Geo-R1)."""

    PADDED_1024 = "padded-1024"
    """Long side 1024, aspect kept, ignored pixels left out (SegEarth-R1)."""

    SQUARE_480 = "square-480"
    """Squashed to 480 x 480, ignored pixels count as background (RMSIN, LAVT, FIANet)."""

    SQUARE_840 = "square-840"
    """Squashed to 840 x 840, ignored pixels count as background (Think2Seg-RS)."""


@dataclass(frozen=True, slots=True)
class MaskPair:
    """The native masks of one rollout.

    Args:
        prediction: bool [height, width]; all False when nothing was predicted.
        target: bool [height, width].
        ignore: bool [height, width], or None.
        instances: (mask, box or None) per predicted instance, where they were kept; else empty.
        boxes: boxes of the answer, XYXY half-open pixels.
    """

    prediction: Mask
    target: Mask
    ignore: Mask | None = None
    instances: Sequence[tuple[Mask, Box | None]] = ()
    boxes: Sequence[Box] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixel counts of one query under one view."""

    intersection: int
    union: int
    predicted: int
    target: int


def count(pair: MaskPair, view: View) -> Counts:
    """Count a pair of masks under a view."""
    if view is View.NATIVE:
        return _counts(pair.prediction, pair.target, pair.ignore)
    if view is View.NATIVE_WITH_IGNORED:
        return _counts(pair.prediction, pair.target, None)
    if view is View.NATIVE_CLIPPED:
        return _counts(_clipped(pair), pair.target, None)
    if view is View.PADDED_1024:
        ignore = None if pair.ignore is None else resize_long_side(pair.ignore, 1024)
        return _counts(resize_long_side(pair.prediction, 1024), resize_long_side(pair.target, 1024), ignore)
    side = 480 if view is View.SQUARE_480 else 840
    return _counts(resize_square(pair.prediction, side), resize_square(pair.target, side), None)


def _counts(prediction: Mask, target: Mask, ignore: Mask | None) -> Counts:
    intersection, union = intersection_and_union(prediction, target, ignore)
    wanted = np.count_nonzero(target if ignore is None else target & ~ignore)
    return Counts(intersection, union, union - int(wanted) + intersection, int(wanted))


def resize_long_side(mask: Mask, side: int) -> Mask:
    """Resize so that the longer side is `side`, the other rounded down, as SegEarth-R1 does (OpenCV).

    The padding that follows there is background in both masks, changes no count, and is left out.
    """
    height, width = mask.shape
    if width > height:
        wh = (side, int(height * (side / width)))
    else:
        wh = (int(width * (side / height)), side)
    resized = cv2.resize(
        mask.astype(np.uint8), (max(1, wh[0]), max(1, wh[1])), interpolation=cv2.INTER_NEAREST
    )
    return resized.astype(np.bool_)


def resize_square(mask: Mask, side: int) -> Mask:
    """Squash to `side` x `side` (Pillow), as torchvision's `Resize((side, side))` does with masks."""
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


def _clipped(pair: MaskPair) -> Mask:
    """Predicted mask cut to the answer's boxes, whose corners are truncated to whole pixels.

    Each instance's mask is cut to its own box where instance masks were kept; otherwise the union
    mask is cut to the union of the boxes, which is the same unless a mask spills into another
    instance's box. Instances without a box are not cut.
    """
    if pair.instances:
        result = np.zeros_like(pair.prediction)
        for mask, box in pair.instances:
            result |= mask if box is None else mask & _box_mask(box, mask.shape)
        return result
    if not pair.boxes:
        return pair.prediction
    allowed = np.zeros_like(pair.prediction)
    for box in pair.boxes:
        allowed |= _box_mask(box, allowed.shape)
    return pair.prediction & allowed


def _box_mask(box: Box, shape: tuple[int, ...]) -> Mask:
    x1, y1, x2, y2 = (max(0, int(value)) for value in box)
    mask = np.zeros(shape, dtype=np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask
