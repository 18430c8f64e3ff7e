"""Prompts given to a segmenter that encodes a larger image: moved there, and the masks cut back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from envs.executors.base import ExecutorFailure, Segmentation, SegmentRequest
from envs.executors.families.box import BoxSegmenter
from envs.executors.serving.local import LocalExecutor
from envs.rollouts import make_rollouts
from envs.sample import Sample, Scene
from envs.segmenting import encoded_images, segment
from prompter.types import Answer, Instance, PromptSet

SCENE_WH, WH = (60, 50), (20, 16)


def photograph() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (SCENE_WH[1], SCENE_WH[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def window(x: int, y: int, number: int = 0) -> Sample:
    """A cut of the photograph that the segmenter is shown whole."""
    return Sample(
        sample_id=f"x{x}_y{y}/{number}",
        dataset="photographs",
        split="test",
        image_id=f"x{x}_y{y}",
        image_wh=WH,
        load_image=lambda: photograph().crop((x, y, x + WH[0], y + WH[1])),
        query="the thing",
        target=None,
        boxes=((0.0, 0.0, 4.0, 4.0),),
        scene=Scene("whole", photograph, (x, y)),
    )


class Watched(LocalExecutor):
    """An executor that keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__(BoxSegmenter(), name="box")
        self.asked: list[SegmentRequest] = []

    def segment(
        self, requests: Sequence[SegmentRequest], **kept: bool
    ) -> list[Segmentation | ExecutorFailure]:
        self.asked += requests
        return super().segment(requests, **kept)


corners = st.tuples(st.integers(0, SCENE_WH[0] - WH[0]), st.integers(0, SCENE_WH[1] - WH[1]))
boxes = st.tuples(st.integers(0, 15), st.integers(0, 11), st.integers(1, 5), st.integers(1, 5)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[0] + drawn[2], drawn[1] + drawn[3])
)


@given(st.lists(st.tuples(corners, st.lists(boxes, max_size=3)), min_size=1, max_size=4))
def test_masks_are_those_of_the_window_by_itself(
    drawn: list[tuple[tuple[int, int], list[tuple[int, int, int, int]]]],
) -> None:
    samples = [window(*corner) for corner, _ in drawn]
    prompts = [PromptSet(tuple(map(Instance, own))) for _, own in drawn]
    executor = Watched()
    found = segment(samples, prompts, executor, keep_instances=True)
    alone = [replace(sample, scene=None) for sample in samples]
    wanted = segment(alone, prompts, LocalExecutor(BoxSegmenter(), name="box"), keep_instances=True)
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, Segmentation) and isinstance(other, Segmentation)
        assert one.mask.shape == (WH[1], WH[0]) and np.array_equal(one.mask, other.mask)
        assert one.instance_masks is not None and other.instance_masks is not None
        assert len(one.instance_masks) == len(other.instance_masks)
        assert all(map(np.array_equal, one.instance_masks, other.instance_masks))
    assert {request.image_key for request in executor.asked} == {"photographs/test/whole"}
    assert len({id(request.image) for request in executor.asked}) == 1


def test_what_reaches_beyond_the_window_is_cut_off_and_a_rollout_has_the_windows_frame() -> None:
    sample = window(30, 20)
    outside = PromptSet((Instance((10, 8, 20, 16), ((25.0, 18.0),)),))  # the point lies beyond the window
    (rollout,) = make_rollouts([sample], [Answer("text", outside)], Watched(), name="box")
    mask = rollout.prediction_mask
    assert mask is not None and mask.shape == (16, 20)
    assert np.array_equal(np.argwhere(mask)[[0, -1]], [[8, 10], [15, 19]])
    assert rollout.reading == outside


def test_a_failure_stays_one() -> None:
    class Broken(Watched):
        def segment(
            self, requests: Sequence[SegmentRequest], **kept: bool
        ) -> list[Segmentation | ExecutorFailure]:
            return [ExecutorFailure("out of order")] * len(requests)

    asked = PromptSet((Instance((1, 1, 3, 3)),))
    assert segment([window(0, 0)], [asked], Broken()) == [ExecutorFailure("out of order")]
    with pytest.raises(ValueError, match="returned 1 results for 2"):
        segment([window(0, 0)] * 2, [asked] * 2, type("Short", (), {"segment": lambda *a, **k: [None]})())


def test_each_image_is_encoded_once() -> None:
    cuts = [window(0, 0), window(10, 5), window(0, 0, 1), replace(window(10, 5, 1), scene=None)]
    shapes = [image.shape for image in encoded_images(cuts)]
    assert shapes == [(50, 60, 3), (16, 20, 3)]
    assert segment([], [], Watched()) == []
