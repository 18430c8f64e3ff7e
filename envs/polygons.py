"""Masks as polygons: outlines along the edges of pixels, so that filling them gives the mask back.

COCO's rule of filling (`envs.masks.polygons_to_mask`) takes a polygon's coordinates as corners of pixels:
x = 10 is the left edge of pixel column 10. OpenCV's contours run through the centres of border pixels
instead; read as corners they lose the last row and column of every object. So the outline is traced in the
mask at twice its size, where the two borders of a pixel have numbers of their own.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.masks import as_mask

Ring = NDArray[np.int64]
"""A closed outline: corners of pixels, [points, 2] as (x, y); the last point joins the first."""


def mask_to_polygons(mask: Any) -> list[list[float]]:
    """Outline a mask ([height, width], non-zero is foreground) by polygons.

    One polygon per connected region, each a flat list x0, y0, x1, y1, … of whole numbers, corners of pixels;
    none for an empty mask. A hole is part of its region's polygon: the outline runs to the hole along
    a straight line, around it, and back along the same line, which fills nothing.

    `envs.masks.polygons_to_mask` gives the same mask back, pixel for pixel.
    """
    pixels = as_mask(mask).astype(np.uint8)
    if not pixels.any():
        return []
    doubled = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners(np.asarray(contour, np.int64)) for contour in contours]
    polygons = []
    for number, (_, _, child, parent) in enumerate(tree[0]):
        if parent >= 0:
            continue  # a hole: it comes with its region
        ring = rings[number]
        while child >= 0:
            ring = _joined(ring, rings[child])
            child = tree[0][child][0]
        polygons.append([float(value) for value in ring.reshape(-1)])
    return polygons


def _corners(contour: NDArray[np.int64]) -> Ring:
    """Border pixels of the doubled mask, [points, 1, 2], as corners of pixels without needless points.

    Pixel 2 x of the doubled mask is the left half of pixel x, whose left edge is x; 2 x + 1 is the right
    half, whose right edge is x + 1. A slanted step of the contour, which goes from one pixel to its
    neighbour across a corner, falls together into that corner.
    """
    points = (contour.reshape(-1, 2) + 1) // 2
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    reverses = np.all(np.sign(before) == -np.sign(after), axis=1)
    return points[turns | reverses]


def _joined(ring: Ring, hole: Ring) -> Ring:
    """An outline that also runs around a hole, along a line to its first corner and back."""
    start = int(np.abs(ring - hole[0]).sum(axis=1).argmin())
    return np.concatenate([ring[: start + 1], hole, hole[:1], ring[start:]])
