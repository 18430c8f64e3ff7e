"""Masks as annotation files write them: every form gives the mask that was meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from envs.datasets.reading.pixels.annotations import annotation_to_mask, check_annotation

HW = (9, 13)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    """Bool [9, 13]; XYXY half-open."""
    mask = np.zeros(HW, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as plain integers, written apart from the package's own encoder."""
    runs, value = [], False
    flat = mask.flatten(order="F").tolist()
    while flat:
        length = next((i for i, pixel in enumerate(flat) if pixel != value), len(flat))
        runs.append(length)
        flat, value = flat[length:], not value
    return {"size": list(mask.shape), "counts": runs}


FIRST, SECOND = rectangle(1, 2, 5, 6), rectangle(4, 4, 12, 8)
POLYGON = [4, 4, 12, 4, 12, 8, 4, 8]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([compressed(FIRST)], FIRST),
        ([uncompressed(FIRST)], FIRST),
        ([compressed(FIRST), compressed(SECOND)], FIRST | SECOND),
        ([uncompressed(FIRST), compressed(SECOND)], FIRST | SECOND),
        ([compressed(FIRST), POLYGON], FIRST | SECOND),
        ([POLYGON, uncompressed(FIRST)], FIRST | SECOND),
    ],
    ids=["one", "one-uncompressed", "two", "both-encodings", "and-polygon", "polygon-first"],
)
def test_a_list_of_encodings_is_their_union(value: Any, expected: np.ndarray) -> None:
    check_annotation(value, HW)
    assert np.array_equal(annotation_to_mask(value, HW), expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [compressed(FIRST), {"size": [13, 9], "counts": [117]}],
            "it is 13 x 9 .height x width., but its image is 9 x 13",
        ),
        ([{"counts": [117]}], "needs `size`"),
        ([compressed(FIRST), "x"], "polygon 1 must be"),
    ],
)
def test_a_bad_encoding_in_a_list_is_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_annotation(value, HW)
