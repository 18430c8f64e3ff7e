"""Polygons of masks, filled again, are the masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from envs.masks import polygons_to_mask
from envs.polygons import mask_to_polygons, mask_to_regions, regions_to_mask

sides = st.integers(1, 12)
masks = st.tuples(sides, sides).flatmap(lambda hw: arrays(np.bool_, hw))


@given(mask=masks)
@settings(max_examples=300, deadline=None)
def test_filling_the_polygons_of_any_mask_gives_it_back(mask: np.ndarray) -> None:
    polygons = mask_to_polygons(mask)
    assert (polygons_to_mask(polygons, mask.shape) == mask).all()
    assert all(value == int(value) for polygon in polygons for value in polygon)


def test_holes_within_holes_and_objects_within_them() -> None:
    mask = np.zeros((40, 50), np.bool_)
    for inset, value in ((2, True), (6, False), (10, True), (14, False), (17, True)):
        mask[inset : 40 - inset, inset : 50 - inset] = value
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 3  # two rings, each with its hole, and the core
    assert (polygons_to_mask(polygons, (40, 50)) == mask).all()


def test_a_box_is_its_four_corners_and_nothing_is_none() -> None:
    mask = np.zeros((8, 9), np.bool_)
    assert mask_to_polygons(mask) == []
    mask[2:5, 3:7] = True
    [polygon] = mask_to_polygons(mask)
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [(3, 2), (3, 5), (7, 2), (7, 5)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_not_zero_is_foreground(dtype: type) -> None:
    assert mask_to_polygons(np.full((2, 3), 7, dtype)) == mask_to_polygons(np.ones((2, 3), np.bool_))


def even_odd(rings: list[np.ndarray], hw: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre has an odd number of upright edges to its right: a rule of filling not ours."""
    y, x = np.mgrid[: hw[0], : hw[1]] + 0.5
    crossed = np.zeros(hw, np.int64)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if x1 == x2:
                crossed += (y > min(y1, y2)) & (y < max(y1, y2)) & (x < x1)
    return crossed % 2 == 1


@given(mask=masks)
def test_regions_of_any_mask_fill_to_it_by_another_rule_too(mask: np.ndarray) -> None:
    regions = mask_to_regions(mask)
    assert len(regions) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    assert (regions_to_mask(regions, mask.shape) == mask).all()
    filled = [even_odd(region, mask.shape) for region in regions]
    assert (np.sum([*filled, np.zeros(mask.shape, np.int64)], axis=0) == mask).all()  # none lies in another


@given(mask=masks)
def test_rings_of_regions_are_simple_and_wound_as_geojson_wants_them(mask: np.ndarray) -> None:
    for region in mask_to_regions(mask):
        for number, ring in enumerate(region):
            assert len({tuple(point) for point in ring.tolist()}) == len(ring) >= 4
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps != 0).sum(axis=1) == 1).all()  # along the edges of pixels, no point twice
            x, y = ring.T
            area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum()
            assert area > 0 if number == 0 else area < 0


def test_pixels_that_touch_at_a_corner_are_two_regions_and_a_hole_may_touch_the_outline() -> None:
    assert len(mask_to_regions(np.eye(3, dtype=np.bool_))) == 3
    pinched = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
    [[outline, hole]] = mask_to_regions(pinched)
    assert {tuple(point) for point in outline.tolist()} & {tuple(point) for point in hole.tolist()} == {
        (2, 2)
    }


def test_geometry_libraries_take_the_regions_for_valid() -> None:
    shapely = pytest.importorskip("shapely")
    draw = np.random.default_rng(0)
    for _ in range(60):
        mask = draw.random(draw.integers(1, 14, 2)) < draw.choice([0.3, 0.5, 0.8])
        for outline, *holes in mask_to_regions(mask):
            polygon = shapely.Polygon(outline, holes)
            assert shapely.is_valid(polygon), shapely.is_valid_reason(polygon)


def test_an_object_in_the_hole_of_another_is_a_region_of_its_own() -> None:
    mask = np.zeros((40, 50), np.bool_)
    for inset, value in ((2, True), (6, False), (10, True)):
        mask[inset : 40 - inset, inset : 50 - inset] = value
    outer, inner = mask_to_regions(mask)
    assert (len(outer), len(inner)) == (2, 1)
    assert sorted(map(tuple, inner[0].tolist())) == [(10, 10), (10, 30), (40, 10), (40, 30)]
