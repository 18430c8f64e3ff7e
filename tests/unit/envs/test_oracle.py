"""Oracle prompts: points lie deep inside, boxes are tight, and objects come in reading order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt

from envs.masks import encode_rle, mask_to_box, union
from envs.oracle import interior_points, oracle_prompts, reading_order, target_masks
from envs.sample import Sample
from prompter.types import PromptSet
from tests.fixtures.toy_task import SIDE, Squares

masks = hnp.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))
filled = masks.filter(lambda mask: bool(mask.any()))


def rectangle(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, dtype=np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


@given(filled, st.integers(0, 6))
def test_points_are_distinct_pixels_of_the_mask(mask: np.ndarray, count: int) -> None:
    points = interior_points(mask, count)
    assert len(points) == min(count, int(mask.sum()))
    assert len(set(points)) == len(points)
    for x, y in points:
        assert x % 1 == y % 1 == 0.5, "pixel centres"
        assert mask[int(y), int(x)]


@given(filled)
def test_the_first_point_is_as_deep_as_any(mask: np.ndarray) -> None:
    """Against the exact Euclidean distance transform; OpenCV's is within a few per cent of it."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    ((x, y),) = interior_points(mask, 1)
    assert depth[int(y), int(x)] >= 0.95 * depth.max()


def test_further_points_spread_out_and_stay_inside() -> None:
    bar = rectangle(0, 10, 60, 21)
    (first, second, third) = interior_points(bar, 3)
    assert first[1] == 15.5
    assert abs(second[0] - first[0]) >= 10 and abs(third[0] - first[0]) >= 10
    assert all(2 < y - 10 < 9 for _, y in (first, second, third))


def test_an_empty_mask_has_no_points() -> None:
    with pytest.raises(ValueError, match="no interior points"):
        interior_points(np.zeros((4, 4), dtype=np.bool_), 1)


@given(st.lists(hnp.arrays(np.bool_, (9, 12)), max_size=5))
def test_reading_order_sorts_by_the_left_then_the_upper_edge(drawn: list[np.ndarray]) -> None:
    ordered = reading_order(drawn)
    corners = [box[:2] for mask in ordered if (box := mask_to_box(mask)) is not None]
    assert len(corners) == len(ordered) == sum(bool(mask.any()) for mask in drawn)
    assert corners == sorted(corners)


@given(st.lists(masks, max_size=3), st.booleans(), st.integers(0, 3))
def test_prompts_of_masks(drawn: list[np.ndarray], box: bool, points: int) -> None:
    points = points if box else max(1, points)
    prompts = oracle_prompts(drawn, box=box, points=points)
    present = [mask for mask in drawn if mask.any()]
    assert len(prompts) == len(present)
    for instance, mask in zip(prompts.instances, present, strict=True):
        assert instance.box == (mask_to_box(mask) if box else None)
        assert instance.positive_points == interior_points(mask, points)
        assert instance.negative_points == ()


def sample_with(target: np.ndarray, instances: tuple[np.ndarray, ...] = ()) -> Sample:
    return replace(
        Squares(1)[0],
        image_wh=(target.shape[1], target.shape[0]),
        target=encode_rle(target),
        instances=tuple(encode_rle(mask) for mask in instances),
    )


def test_objects_of_a_sample_are_its_instances_or_its_connected_components() -> None:
    left, right = rectangle(2, 3, 8, 9), rectangle(30, 3, 44, 20)
    corner = rectangle(8, 9, 12, 12)  # touches `left` at a corner: one object with it
    both = union([left, right, corner], (40, 60))
    told_apart = target_masks(sample_with(both, (left, right)))
    assert [mask.tolist() for mask in told_apart] == [left.tolist(), right.tolist()]
    found = reading_order(target_masks(sample_with(both)))
    assert [mask_to_box(mask) for mask in found] == [(2, 3, 12, 12), (30, 3, 44, 20)]
    assert target_masks(sample_with(np.zeros((40, 60), dtype=np.bool_))) == []
    boxes_only = replace(sample_with(both), target=None, boxes=((1.0, 1.0, 2.0, 2.0),))
    assert target_masks(boxes_only) == []


def test_oracle_boxes_segment_squares_perfectly() -> None:
    from envs.executors.base import Embedding, Segmentation
    from envs.executors.families.box import BoxSegmenter
    from envs.masks import iou

    executor = BoxSegmenter()
    for sample in Squares(10):
        prompts = oracle_prompts(target_masks(sample), box=True, points=0)
        embedding = Embedding({}, (SIDE, SIDE), (SIDE, SIDE))
        (result,) = executor.decode([embedding], [prompts])
        assert isinstance(result, Segmentation)
        assert iou(result.mask, sample.target_mask()) == 1.0
        assert (prompts == PromptSet()) == (not sample.target_mask().any())
