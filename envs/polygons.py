"""Masks as polygons: outlines along the edges of pixels, so that filling them gives the mask back.

COCO's rule of filling (`envs.masks.polygons_to_mask`) takes a polygon's coordinates as corners of pixels:
x = 10 is the left edge of pixel column 10. OpenCV's contours run through the centres of border pixels
instead; read as corners they lose the last row and column of every object. So the outline is traced in the
mask at twice its size, where the two borders of a pixel have numbers of their own.

Two forms: COCO's flat lists, where a hole is joined to its outline (`mask_to_polygons`), and regions with
holes of their own, as GeoJSON and other geometry want them (`mask_to_regions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask, as_mask, polygons_to_mask

Ring = NDArray[np.int64]
"""A closed outline: corners of pixels, [points, 2] as (x, y); the last point joins the first."""


def mask_to_polygons(mask: Any) -> list[list[float]]:
    """Outline a mask ([height, width], non-zero is foreground) by polygons.

    One polygon per connected region, each a flat list x0, y0, x1, y1, … of whole numbers, corners of pixels;
    none for an empty mask. A hole is part of its region's polygon: the outline runs to the hole along
    a straight line, around it, and back along the same line, which fills nothing.

    `envs.masks.polygons_to_mask` gives the same mask back, pixel for pixel.
    """
    polygons = []
    for ring, *holes in _traced(as_mask(mask).astype(np.uint8)):
        for hole in holes:
            ring = _joined(ring, hole)
        polygons.append([float(value) for value in ring.reshape(-1)])
    return polygons


def mask_to_regions(mask: Any) -> list[list[Ring]]:
    """Outline a mask ([height, width], non-zero is foreground) by regions with holes, ordered from the top.

    A region is connected by edges of pixels (connectivity 4): two that touch only at a corner are two, for
    as one their outline would touch itself there, which no geometry library takes for valid.

    Returns:
        One list a region: its outline, then one ring for each of its holes. By the shoelace formula on the
        numbers (x, y) outlines have a positive area and holes a negative one, as RFC 7946 (section 3.1.6)
        winds them. No ring meets itself; a hole may meet the outline, or another hole, in a corner.
    """
    pixels = as_mask(mask).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(pixels, connectivity=4)
    regions = []
    for label in range(1, count):
        left, top, width, height = (int(value) for value in statistics[label, :4])
        window = labels[top : top + height, left : left + width] == label
        # OpenCV joins what touches at a corner. Within one region that is what keeps its rings simple: the
        # two sides of such a corner are never the same ring, since the region closes around one of them.
        [rings] = _traced(window.astype(np.uint8))
        shifted = [ring + np.array([left, top]) for ring in rings]
        regions.append([_wound(ring, 1 if number == 0 else -1) for number, ring in enumerate(shifted)])
    return regions


def regions_to_mask(regions: Sequence[Sequence[Any]], hw: tuple[int, int]) -> Mask:
    """Fill regions into a mask of (height, width): the inverse of `mask_to_regions`.

    Rings are corners [points, 2] as (x, y), open. They are filled by COCO's rule
    (`envs.masks.polygons_to_mask`), exactly where all numbers are whole.
    """
    mask = np.zeros(hw, np.bool_)
    for outline, *holes in regions:
        filled = _filled(outline, hw)
        for hole in holes:
            filled &= ~_filled(hole, hw)
        mask |= filled
    return mask


def _filled(ring: Any, hw: tuple[int, int]) -> Mask:
    return polygons_to_mask([[float(value) for value in np.asarray(ring).reshape(-1)]], hw)


def _wound(ring: Ring, sign: int) -> Ring:
    """A ring in the direction in which its area has this sign."""
    x, y = ring[:, 0], ring[:, 1]
    area = int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    return ring if area * sign > 0 else ring[::-1]


def _traced(pixels: NDArray[np.uint8]) -> list[list[Ring]]:
    """Of each region that hangs together, by corners too (connectivity 8), its outline, then its holes."""
    if not pixels.any():
        return []
    doubled = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners(np.asarray(contour, np.int64)) for contour in contours]
    found = []
    for number, (_, _, child, parent) in enumerate(tree[0]):
        if parent >= 0:
            continue  # a hole: it comes with its region
        region = [rings[number]]
        while child >= 0:
            region.append(rings[child])
            child = tree[0][child][0]
        found.append(region)
    return found


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
