"""The masks a question may be answered with."""

from __future__ import annotations

import numpy as np
from PIL import Image

from envs.masks import Mask, decode_rle, encode_rle, mask_to_box
from envs.proposals.candidates import candidates_with_targets, proposed_candidates
from envs.proposals.propose import Proposal, Proposals
from envs.sample import Sample

HW = (40, 60)


def rectangle(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(HW, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def proposals(*masks: Mask) -> Proposals:
    kept = []
    for number, mask in enumerate(masks):
        box = mask_to_box(mask)
        assert box is not None
        kept.append(Proposal(encode_rle(mask), box, int(mask.sum()), 0.9 - number / 100, 1.0, number))
    return Proposals((HW[1], HW[0]), tuple(kept), {})


def sample(*targets: Mask) -> Sample:
    return Sample(
        sample_id="s",
        dataset="unit",
        split="test",
        image_id="i",
        image_wh=(HW[1], HW[0]),
        load_image=lambda: Image.new("RGB", (HW[1], HW[0])),
        query="?",
        target=encode_rle(np.logical_or.reduce([np.zeros(HW, np.bool_), *targets])),
        instances=tuple(map(encode_rle, targets)),
    )


def test_each_target_is_answered_by_one_proposal() -> None:
    left, right = rectangle(0, 0, 10, 10), rectangle(20, 30, 10, 10)
    offered = proposals(
        rectangle(20, 30, 10, 9),  # 0.9 of the right one
        rectangle(0, 0, 10, 8),  # 0.8 of the left one
        rectangle(0, 0, 10, 7),  # 0.7 of it: good, but not the best
        rectangle(30, 0, 5, 5),
    )
    found = proposed_candidates(sample(right, left), offered, 0.5)
    assert found.matching == (1, 0) and found.targets == 2  # in reading order
    assert len(found) == 4 and found.boxes[0] == (30, 20, 39, 30) and found.areas[0] == 90
    strict = proposed_candidates(sample(right, left), offered, 0.85)
    assert strict.matching == (0,) and strict.targets == 2


def test_one_proposal_answers_for_one_target() -> None:
    both = rectangle(0, 0, 10, 20)
    found = proposed_candidates(
        sample(rectangle(0, 0, 10, 10), rectangle(0, 10, 10, 10)),
        proposals(both, rectangle(0, 0, 10, 9)),
        0.5,
    )
    assert sorted(found.matching) == [0, 1]  # 0.9 for the left one leaves the large one, IoU 0.5, the right


def test_targets_stand_last_and_their_twins_are_left_out() -> None:
    target = rectangle(0, 0, 20, 20)
    near, twin = rectangle(0, 0, 20, 18), rectangle(0, 0, 20, 20)
    found = candidates_with_targets(sample(target), proposals(near, twin, rectangle(30, 30, 5, 5)), 0.95)
    assert len(found) == 3 and found.matching == (2,) and found.scores[-1] == 1.0
    assert np.array_equal(decode_rle(found.masks[2]), target)
    assert found.boxes[2] == (0, 0, 20, 20) and found.areas[2] == 400


def test_nothing_to_match() -> None:
    empty = proposed_candidates(sample(), proposals(rectangle(0, 0, 5, 5)), 0.5)
    assert empty.matching == () and empty.targets == 0
    none = proposed_candidates(sample(rectangle(0, 0, 5, 5)), proposals(), 0.5)
    assert none.matching == () and len(none) == 0
    only = candidates_with_targets(sample(rectangle(0, 0, 5, 5)), proposals(), 0.95)
    assert only.matching == (0,) and len(only) == 1
    assert len(candidates_with_targets(sample(), proposals(), 0.95)) == 0
