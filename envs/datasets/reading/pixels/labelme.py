"""Shapes as LabelMe writes them: polygons, rectangles, circles and masks; what has no inside is refused.

Points are cut to whole pixels, and outline and inside are filled, as in LISA's own loader, because the
published numbers of the sets in its style rest on it. That loader knows polygons only; the other types are
drawn so that a rectangle is the polygon of its corners.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.datasets.reading.faults import Fault, note
from envs.datasets.reading.pixels.labels import read_label_image, target_of
from envs.datasets.reading.pixels.units import check_units, to_pixels
from envs.masks import MAX_COORDINATE, Mask

_POINTS = {"polygon": range(1, 1 << 30), "rectangle": (2, 4), "circle": (2,), "mask": (2,)}
"""Type -> how many points it may have."""


@dataclass(frozen=True)
class Shape:
    """One shape.

    Args:
        number: in its file, from 0.
        label: in lower case.
        kind: polygon, rectangle, circle or mask.
        points: [n, 2] x, y as written; two corners of a rectangle or of a mask (inclusive), the middle and
            a point of the outline of a circle.
        bitmap: [height, width] of a mask, else None.
    """

    number: int
    label: str
    kind: str
    points: NDArray[np.float64]
    bitmap: Mask | None = None

    def draw(self, hw: tuple[int, int]) -> Mask:
        """The shape as a bool mask of (height, width); units are those of the rules in force.

        Raises:
            Fault: of kind "units", if its numbers look normalized.
        """
        numbers = self.points.ravel().tolist()
        check_units(numbers, (hw[1], hw[0]))
        exact = np.asarray(to_pixels(numbers, (hw[1], hw[0]))).reshape(-1, 2)
        points = exact.astype(np.int32)
        canvas = np.zeros(hw, dtype=np.uint8)
        if self.kind == "circle":
            radius = float(np.hypot(*(exact[1] - exact[0])))
            rows, columns = np.ogrid[: hw[0], : hw[1]]
            return np.asarray((columns - exact[0, 0]) ** 2 + (rows - exact[0, 1]) ** 2 <= radius**2)
        if self.kind == "rectangle" and len(points) == 2:
            (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
            canvas[max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)] = 1
        elif self.bitmap is not None:
            _paste(canvas, self.bitmap, *points.min(axis=0).tolist())
        else:
            if len(points) < 3 or cv2.contourArea(points) == 0:
                note("part", f"shape {self.number} has no area, and is drawn as a line, as LISA's code does.")
            cv2.polylines(canvas, [points], isClosed=True, color=1, thickness=1)
            cv2.fillPoly(canvas, [points], color=1)
        return canvas.astype(np.bool_)


def read_shape(number: int, shape: Mapping[str, Any]) -> Shape:
    """Read one entry of `shapes`; one without `shape_type` is a polygon.

    Raises:
        Fault: of kind "shape", if its type is another than those of `Shape`.
        ValueError: if its points are not those of its type.
    """
    kind = shape.get("shape_type") or "polygon"
    if not isinstance(kind, str) or kind not in _POINTS:
        raise Fault(
            "shape",
            f"shape {number} is of type {kind}; only polygon, rectangle, circle and mask have an inside",
        )
    points = np.asarray(shape["points"], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"the points of shape {number} must be a list of [x, y]")
    if not (np.abs(points) <= MAX_COORDINATE).all():  # False for NaN
        raise ValueError(f"shape {number} has a coordinate that is not finite or beyond any image")
    if len(points) not in _POINTS[kind]:
        raise ValueError(f"shape {number} is a {kind}, but has {len(points)} points")
    bitmap = _bitmap(number, shape.get("mask"), points) if kind == "mask" else None
    return Shape(number, str(shape["label"]).lower(), kind, points, bitmap)


def _bitmap(number: int, encoded: Any, corners: NDArray[np.float64]) -> Mask:
    """The pixels of a mask: a PNG in base 64, of the size that its corners (inclusive) span."""
    try:
        label = read_label_image(base64.b64decode(encoded, validate=True))
    except (TypeError, binascii.Error):
        raise ValueError(f"the mask of shape {number} must be a PNG in base 64") from None
    width, height = (np.abs(corners[1].astype(int) - corners[0].astype(int)) + 1).tolist()
    if label.values.shape != (height, width):
        found = f"{label.values.shape[1]} x {label.values.shape[0]}"
        raise ValueError(f"the mask of shape {number} is {found}, but its corners span {width} x {height}")
    return target_of(label, (height, width))


def _paste(canvas: NDArray[np.uint8], bitmap: Mask, x: int, y: int) -> None:
    """Write a bitmap whose upper left corner is at (x, y); what is outside the canvas is cut off."""
    left, top = max(-x, 0), max(-y, 0)
    window = canvas[max(y, 0) : max(y + bitmap.shape[0], 0), max(x, 0) : max(x + bitmap.shape[1], 0)]
    part = bitmap[top : top + window.shape[0], left : left + window.shape[1]]
    window[: part.shape[0], : part.shape[1]] |= part.astype(np.uint8)
