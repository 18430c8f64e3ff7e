"""Polygons of masks, filled again, are the masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from envs.masks import polygons_to_mask
from envs.polygons import mask_to_polygons

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
