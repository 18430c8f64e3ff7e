"""Rewards in steps: the steps of the papers, and otherwise the rules of the continuous rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.masks import encode_rle
from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet
from rewards.instances import disjoint_mask_iou, instance_mask_iou
from rewards.mask import mask_iou
from rewards.registry import build_reward
from rewards.tiers import SAM_R1, STAR, in_tiers, tiered_instance_iou, tiered_mask_iou
from tests.fixtures.made_rollouts import NOTHING, made_rollout, rectangle

FAILURE = ParseFailure(FailureKind.NOT_JSON, "expected JSON, but found prose", "no idea")
MASKS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)).map(
    lambda one: rectangle(one[0], one[1], one[0] + one[2], one[1] + one[3])
)


@pytest.mark.parametrize(
    ("iou", "sam_r1", "star"),
    [
        (0.0, 0, 0),
        (0.3, 0, 0),
        (0.31, 0, 1),
        (0.5, 0, 1),
        (0.51, 2, 2),
        (0.7, 2, 2),
        (0.71, 3, 3),
        (0.8, 3, 3),
        (0.81, 4, 4),
        (0.9, 4, 4),
        (0.91, 4, 5),
        (1.0, 4, 5),
    ],
)
def test_the_steps_are_those_of_the_papers(iou: float, sam_r1: int, star: int) -> None:
    assert in_tiers(iou, SAM_R1) == sam_r1 / 4
    assert in_tiers(iou, STAR) == star / 5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_larger_iou_never_earns_less(ious: list[float]) -> None:
    for tiers in (SAM_R1, STAR):
        earned = in_tiers(np.sort(ious), tiers)
        assert (np.diff(earned) >= 0).all() and (0 <= earned).all() and (earned <= 1).all()


def answer(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> Rollout:
    return made_rollout(
        PromptSet(tuple(Instance(positive_points=((1, 1),)) for _ in found)),
        target=encode_rle(np.logical_or.reduce(wanted) if wanted else NOTHING),
        instances=tuple(encode_rle(mask) for mask in wanted),
        prediction=encode_rle(np.logical_or.reduce(found) if found else NOTHING),
        predicted_instances=tuple(encode_rle(mask) for mask in found),
    )


@given(st.lists(MASKS, max_size=3), st.lists(MASKS, max_size=3))
@settings(max_examples=60, deadline=None)
def test_steps_lie_within_one_step_of_the_continuous_reward(
    found: list[np.ndarray], wanted: list[np.ndarray]
) -> None:
    rollout = answer(found, wanted)
    iou, tiered = mask_iou(rollout), tiered_mask_iou(rollout)
    assert iou is not None and tiered == in_tiers(iou, SAM_R1)
    matched, steps = instance_mask_iou(rollout), tiered_instance_iou(rollout)
    assert matched is not None and steps is not None
    # A pair of IoU x earns from x - 0.3 (just under the first step) to x + 0.1 (just over the last).
    assert matched - 0.3 - 1e-9 <= steps <= matched + 0.1 + 1e-9


@given(st.lists(MASKS, min_size=1, max_size=4), MASKS, st.none() | MASKS)
@settings(max_examples=60, deadline=None)
def test_what_is_covered_again_counts_against_an_answer(
    found: list[np.ndarray], wanted: np.ndarray, ignored: np.ndarray | None
) -> None:
    ignore = None if ignored is None else encode_rle(ignored)
    rollout = replace(answer(found, [wanted]), instances=(), ignore=ignore)
    counted = np.ones_like(wanted) if ignored is None else ~ignored
    both = either = 0
    for y, x in np.argwhere(counted):
        times = sum(int(mask[y, x]) for mask in found)
        both += int(times > 0 and wanted[y, x])
        either += max(times, int(wanted[y, x]))
    score, union = disjoint_mask_iou(rollout), mask_iou(rollout)
    assert score is not None and union is not None
    assert score == pytest.approx(both / either if either else 1.0)
    again = sum((mask & counted).astype(int) for mask in found)
    assert score == pytest.approx(union) if np.max(again) <= 1 else score <= union
    if union and (found[0] & counted).any():
        doubled = replace(answer([*found, found[0]], [wanted]), instances=(), ignore=ignore)
        assert mask_iou(doubled) == union and disjoint_mask_iou(doubled) < score  # type: ignore[operator]


def test_the_rules_of_the_continuous_rewards_hold() -> None:
    empty = encode_rle(NOTHING)
    assert disjoint_mask_iou(made_rollout(FAILURE)) == 0.0
    assert disjoint_mask_iou(made_rollout(prediction=None, executor_error="the actor died")) is None
    assert disjoint_mask_iou(made_rollout(PromptSet(), target=empty, prediction=empty)) == 1.0
    assert disjoint_mask_iou(made_rollout(target=empty)) == 0.0
    with pytest.raises(UserError, match="keep_instances"):
        disjoint_mask_iou(made_rollout())
    for reward in (tiered_mask_iou, tiered_instance_iou):
        assert reward(made_rollout(FAILURE)) == 0.0
        assert reward(made_rollout(prediction=None, executor_error="the actor died")) is None
        assert reward(made_rollout(PromptSet(), target=empty, prediction=empty)) == 1.0
        assert reward(made_rollout(target=empty)) == 0.0
        assert reward(made_rollout()) == 1.0, "a set that does not tell objects apart"
    two = [rectangle(0, 0, 3, 4), rectangle(6, 0, 9, 4)]
    assert tiered_instance_iou(answer([*two, two[0]], two)) == pytest.approx(2 / 3), "a doubled object costs"
    assert tiered_instance_iou(answer([rectangle(0, 0, 3, 3)], two[:1])) == pytest.approx(0.6), "IoU 0.75"


def test_only_the_one_of_objects_asks_for_their_masks() -> None:
    assert build_reward({"tiered_instance_iou": 1.0}).needs_instances
    assert not build_reward({"tiered_mask_iou": 1.0}).needs_instances
