"""The one definition of box IoU. Boxes are XYXY, half-open, in pixels of the image frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prompter.types import Box


def pairwise_box_iou(first: Sequence[Box], second: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of every box of `first` with every box of `second`.

    Returns:
        float64 [len(first), len(second)], each in [0, 1].
    """
    left = np.asarray(first, dtype=np.float64).reshape(-1, 1, 4)
    right = np.asarray(second, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    intersection = np.prod(np.clip(sides, 0.0, None), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (left, right)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
