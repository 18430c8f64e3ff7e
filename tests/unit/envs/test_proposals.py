"""Masks proposed without a question: the grid, the filters, what is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.executors import ExecutorConfig, open_executor
from envs.executors.base import Executor, ExecutorCounters, ExecutorFailure, Segmentation, SegmentRequest
from envs.masks import Mask, encode_rle, pairwise_iou, rle_iou
from envs.proposals.grid import grid_points, image_grid
from envs.proposals.propose import (
    GridRules,
    ProposalRules,
    Proposals,
    propose,
    propose_grid,
    without_duplicates,
)
from envs.proposals.store import GridProposer

IMAGE = np.zeros((40, 60, 3), np.uint8)
OPEN = {"predicted_iou": 0.0, "stability": 0.0, "largest_share": 1.0, "duplicate_iou": 1.0}
"""Rules that let everything pass."""


def rectangle(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(IMAGE.shape[:2], dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


class Scripted(Executor):
    """Gives these masks with these scores, whatever it is asked."""

    name = "scripted"

    def __init__(self, masks: Sequence[Mask], ious: Sequence[float], stability: Sequence[float]) -> None:
        self.counters, self.calls = ExecutorCounters(), 0
        self._script = list(zip(masks, ious, stability, strict=True))

    def segment(
        self,
        requests: Sequence[SegmentRequest],
        *,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        self.calls += 1
        results: list[Segmentation | ExecutorFailure] = []
        for request in requests:
            part, self._script = self._script[: len(request.prompts)], self._script[len(request.prompts) :]
            masks = tuple(mask for mask, _, _ in part)
            scores = (np.array([one[place] for one in part], np.float32) for place in (1, 2))
            results.append(Segmentation(np.logical_or.reduce(masks), *scores, instance_masks=masks))
        return results

    def close(self) -> None: ...


def test_points_are_the_centres_of_equal_cells() -> None:
    assert grid_points((10, 20, 30, 50), 2, 3) == [
        (15, 25), (25, 25), (15, 35), (25, 35), (15, 45), (25, 45),
    ]  # fmt: skip
    amg = (np.arange(4) + 0.5) / 4  # build_point_grid(4)
    points = np.array([one.positive_points[0] for one in image_grid((200, 100), 4)]).reshape(4, 4, 2)
    assert np.allclose(points[0, :, 0], 200 * amg) and np.allclose(points[:, 0, 1], 100 * amg)
    for bad in (((0, 0, 1, 1), 0, 1), ((3, 0, 3, 1), 1, 1)):
        with pytest.raises(ValueError, match="a grid needs"):
            grid_points(*bad)


def test_each_filter_counts_what_it_removes_and_the_best_come_first() -> None:
    masks = [
        rectangle(0, 0, 10, 10),
        rectangle(0, 0, 10, 9),  # IoU 0.9 with the first
        rectangle(20, 20, 10, 10),
        rectangle(30, 40, 10, 10),  # predicted IoU too low
        rectangle(10, 40, 10, 10),  # unstable
        rectangle(5, 30, 1, 1),
        np.ones(IMAGE.shape[:2], np.bool_),
        np.zeros(IMAGE.shape[:2], np.bool_),
        rectangle(30, 0, 4, 4),
        rectangle(30, 50, 4, 4),  # no score at all
    ]
    ious = [0.90, 0.95, 0.99, 0.5, 0.9, 0.9, 0.9, 0.9, 0.89, float("nan")]
    stability = [1, 1, 1, 1, 0.1, 1, 1, 1, 1, 1]
    rules = ProposalRules(smallest_share=2 / 2400, top=2)
    prompts = image_grid((60, 40), 4)[:10]
    found = propose(Scripted(masks, ious, stability), IMAGE, prompts, rules)
    assert isinstance(found, Proposals)
    assert [one.prompt for one in found.kept] == [2, 1]
    assert [one.box for one in found.kept] == [(20, 20, 30, 30), (0, 0, 9, 10)]
    assert [one.area for one in found.kept] == [100, 90]
    assert found.removed == {
        "empty": 1, "predicted_iou": 2, "stability": 1, "small": 1, "large": 1, "duplicate": 1, "top": 1,
    }  # fmt: skip


def test_a_large_images_prompts_are_segmented_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [rectangle(0, place, 3, 3) for place in range(0, 50, 10)]
    executor = Scripted(masks, [1.0] * 5, [1.0] * 5)
    monkeypatch.setattr("envs.proposals.propose.MASK_BYTES", 2 * 40 * 60)
    found = propose(executor, IMAGE, image_grid((60, 40), 3)[:5], ProposalRules())
    assert isinstance(found, Proposals) and executor.calls == 3
    assert [one.prompt for one in found.kept] == [0, 1, 2, 3, 4]


@given(
    st.lists(
        st.tuples(*[st.integers(0, 7)] * 2, *[st.integers(0, 8)] * 2).map(lambda box: rectangle(*box)),
        max_size=6,
    ),
    st.sampled_from([0.2, 0.5, 0.9]),
)
def test_duplicates_go_and_nothing_else(masks: list[Mask], limit: float) -> None:
    encoded = [encode_rle(mask) for mask in masks]
    overlaps = pairwise_iou(masks, masks, None)
    assert np.allclose(rle_iou(encoded, encoded), overlaps)
    kept = without_duplicates(encoded, limit)
    assert all(overlaps[a, b] <= limit for a in kept for b in kept if a != b)
    dropped = set(range(len(masks))) - set(kept)
    assert all(any(overlaps[one, better] > limit for better in kept if better < one) for one in dropped)


def test_a_fine_grid_has_many_masks() -> None:
    masks = [encode_rle(rectangle(number // 50, number % 50, 3, 3)) for number in range(300)]
    assert without_duplicates(masks, 0.99) == list(range(300))
    assert rle_iou(masks[:2], masks).shape == (2, 300)


def test_a_whole_grid_costs_one_encoding_and_comes_back_from_disk(tmp_path: Path) -> None:
    executor = open_executor(ExecutorConfig(family="box"))
    rules = GridRules(points_per_side=4, **OPEN)

    def refuse() -> Executor:
        raise AssertionError("the segmenter is not needed for what is on disk")

    first = GridProposer(lambda: executor, {"family": "box"}, rules, tmp_path)
    found = first.propose(IMAGE)
    assert isinstance(found, Proposals) and len(found.kept) == 16
    assert (executor.counters.encodes, executor.counters.instances, first.computed) == (1, 16, 1)
    again = GridProposer(refuse, {"family": "box"}, rules, tmp_path)
    assert again.propose(IMAGE) == found and again.computed == 0
    assert propose_grid(executor, IMAGE, rules) == found
    # other rules, another segmenter, another image: computed anew
    for identity, changed in (({"family": "box"}, {"top": 3}), ({"family": "other"}, {})):
        other = GridProposer(
            lambda: executor, identity, GridRules(points_per_side=4, **OPEN, **changed), tmp_path
        )
        other.propose(IMAGE)
        assert other.computed == 1
    with pytest.raises(AssertionError):
        again.propose(IMAGE + 1)


@pytest.mark.parametrize("damage", ["", "{}", "[]", "mask", "identity"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    executor = open_executor(ExecutorConfig(family="box"))
    proposer = GridProposer(lambda: executor, {}, GridRules(points_per_side=2, **OPEN), tmp_path)
    found = proposer.propose(IMAGE)
    (path,) = tmp_path.rglob("*.json")
    data = json.loads(path.read_text())
    data["kept"][0]["mask"]["counts"] = "0"
    data["identity"] = data["identity"] if damage == "mask" else "x"
    path.write_text(json.dumps(data) if damage in ("mask", "identity") else damage)
    assert proposer.propose(IMAGE) == found and proposer.computed == 2


def test_an_image_that_cannot_be_served_is_a_value() -> None:
    executor = open_executor(ExecutorConfig(family="box"))
    failed = propose_grid(executor, np.zeros((4, 4, 3), np.float32), GridRules())  # type: ignore[arg-type]
    assert isinstance(failed, ExecutorFailure) and "uint8" in failed.message
