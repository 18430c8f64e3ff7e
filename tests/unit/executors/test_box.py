"""The weight-free segmenter: exact areas, half-open boxes, discs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.executors.base import Segmentation
from envs.executors.families.box import DISC_RADIUS, BoxSegmenter
from envs.masks import mask_to_box
from prompter.types import Instance, PromptSet

WIDTH, HEIGHT = 40, 30


def segment(*instances: Instance) -> Segmentation:
    executor = BoxSegmenter()
    embeddings = executor.encode([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
    (result,) = executor.decode(embeddings, [PromptSet(instances)], keep_instances=True, keep_logits=True)
    assert isinstance(result, Segmentation)
    return result


@given(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(1, WIDTH), st.integers(1, HEIGHT))
def test_a_whole_box_comes_back_as_it_went_in(x: int, y: int, width: int, height: int) -> None:
    box = (x, y, min(x + width, WIDTH), min(y + height, HEIGHT))
    result = segment(Instance(box=box))
    assert mask_to_box(result.mask) == box
    assert result.mask.sum() == (box[2] - box[0]) * (box[3] - box[1])


def test_discs_at_points_less_discs_at_negative_points() -> None:
    radius = DISC_RADIUS * HEIGHT
    result = segment(Instance(positive_points=((20.5, 15.5),)))
    rows, columns = np.nonzero(result.mask)
    assert (np.hypot(columns - 20, rows - 15) <= radius).all()
    assert result.mask[15, 20]
    assert not result.mask[15, 20 + int(radius) + 1]
    holed = segment(Instance(box=(5, 5, 35, 25), negative_points=((20.5, 15.5),)))
    assert not holed.mask[15, 20]
    assert holed.mask[15, 8]
    assert holed.mask.sum() == 30 * 20 - result.mask.sum()


def test_instances_are_united_and_kept() -> None:
    result = segment(Instance(box=(0, 0, 10, 10)), Instance(box=(5, 5, 20, 20)))
    assert result.instance_masks is not None
    assert result.mask.sum() == 100 + 225 - 25
    assert [int(mask.sum()) for mask in result.instance_masks] == [100, 225]
    assert result.low_res_logits is not None
    assert result.low_res_logits.shape == (2, 256, 256)
    assert ((result.low_res_logits > 0).mean(axis=(1, 2)) > 0.05).all()


def test_outside_the_image_there_is_nothing() -> None:
    assert not segment(Instance(box=(100, 100, 120, 120))).mask.any()
    assert segment().mask.shape == (HEIGHT, WIDTH)
