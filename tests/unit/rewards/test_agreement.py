"""Agreement within a group: no target is looked at, refusing pays nothing, and the order does not matter."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.masks import encode_rle, iou
from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.types import FailureKind, ParseFailure, PromptSet
from rewards.agreement import agreement
from rewards.grouped import needs_group
from rewards.registry import WeightedReward, build_reward
from rewards.replay import score_again
from tests.fixtures.made_rollouts import NOTHING, SIDE, made_rollout, rectangle

FAILURE = ParseFailure(FailureKind.NOT_JSON, "expected JSON, but found prose", "no idea")


def answer(mask: np.ndarray) -> Rollout:
    return made_rollout(prediction=encode_rle(mask))


def refusal() -> Rollout:
    return made_rollout(PromptSet(), prediction=encode_rle(NOTHING))


MASKS = st.tuples(*[st.integers(0, 6)] * 4).map(
    lambda one: rectangle(one[0], one[1], one[0] + one[2], one[1] + one[3])  # empty where a side is 0
)
ROLLOUTS = st.one_of(
    MASKS.map(answer),
    st.just(refusal()),
    st.just(made_rollout(FAILURE)),
    st.just(made_rollout(prediction=None, executor_error="the actor died")),
)
GROUPS = st.lists(ROLLOUTS, min_size=1, max_size=10)


def voters(group: list[Rollout]) -> list[Rollout]:
    return [one for one in group if one.prediction is not None and not one.reading.is_empty]  # type: ignore[union-attr]


@given(GROUPS)
@settings(max_examples=100, deadline=None)
def test_it_is_the_mean_iou_with_the_others_that_name_something(group: list[Rollout]) -> None:
    scores = agreement(group)
    answers = voters(group)
    refused = sum(one.prediction is not None and one.reading.is_empty for one in group)  # type: ignore[union-attr]
    for place, (rollout, score) in enumerate(zip(group, scores, strict=True)):
        if isinstance(rollout.reading, ParseFailure):
            assert score == 0.0
        elif rollout not in answers or len(answers) < 2 or len(answers) <= refused:
            assert score is None
        else:
            others = [one for i, one in enumerate(group) if i != place and one in answers]
            mine = rollout.prediction_mask
            assert mine is not None
            ious = [iou(mine, one.prediction_mask) if mine.any() else 0.0 for one in others]
            assert score == pytest.approx(np.mean(ious))


@given(GROUPS, MASKS, st.none() | MASKS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_no_label_is_looked_at_and_no_order(
    group: list[Rollout], target: np.ndarray, ignore: np.ndarray | None, rng: random.Random
) -> None:
    scores = agreement(group)
    other = {
        "target": encode_rle(target),
        "instances": (encode_rle(target),),
        "ignore": None if ignore is None else encode_rle(ignore),
        "boxes": ((0.0, 0.0, 1.0, 1.0),),
    }
    assert agreement([replace(one, **other) for one in group]) == scores  # type: ignore[arg-type]
    unlabelled = [replace(one, target=None, instances=(), ignore=None, boxes=()) for one in group]
    assert agreement(unlabelled) == scores
    order = rng.sample(range(len(group)), len(group))
    shuffled = agreement([group[place] for place in order])
    for place, score in zip(order, shuffled, strict=True):
        assert score == pytest.approx(scores[place])


@given(st.integers(0, 16), st.integers(0, 16))
def test_refusing_is_never_paid_nor_does_it_pay_to_refuse_more(answers: int, refusals: int) -> None:
    """The collapse of a plain vote: all refuse, and agree perfectly."""
    group = [answer(rectangle(0, 0, 4, 4))] * answers + [refusal()] * refusals
    scores = agreement(group) if group else []
    assert scores[answers:] == [None] * refusals
    assert scores[:answers] == [1.0 if answers > max(refusals, 1) else None] * answers


def test_the_medoid_earns_most_and_an_empty_mask_agrees_with_nothing() -> None:
    scores = agreement([answer(rectangle(0, 0, 4, width)) for width in (2, 4, 6)] + [answer(NOTHING)] * 2)
    assert scores == pytest.approx([(1 / 2 + 1 / 3) / 4, (1 / 2 + 2 / 3) / 4, (1 / 3 + 2 / 3) / 4, 0, 0])


def test_it_is_one_part_of_a_weighted_reward_and_alone_a_rollout_has_none() -> None:
    reward = build_reward({"agreement": 1.0, "valid_answer": 0.5})
    assert reward.needs_group and not reward.needs_instances
    same = [answer(rectangle(0, 0, 4, 4))] * 2
    scored = reward.score_group([*same, made_rollout(FAILURE), refusal()])
    assert [one.rewards["total"] for one in scored] == [1.5, 1.5, 0.0, None]
    assert scored[0].rewards == {"total": 1.5, "agreement": 1.0, "valid_answer": 1.0}
    assert reward(same[0]).total is None


def test_a_file_is_scored_again_by_question_and_segmenter() -> None:
    masks = [rectangle(0, 0, 4, 4), rectangle(0, 0, 4, 2), rectangle(0, 0, SIDE, SIDE)]
    record = [
        replace(answer(masks[completion + (name == "b")]), sample_id=question, executor=name)
        for question in ("x", "y")
        for completion in range(2)
        for name in ("a", "b")
    ]
    reward = build_reward({"agreement": 1.0})
    scored = list(score_again(iter(record), reward))
    assert [before for before, _ in scored] == record
    assert [after.rewards["total"] for _, after in scored] == pytest.approx([0.5, 8 / 400] * 4)
    alone = build_reward({"mask_iou": 1.0})
    assert [after for _, after in score_again(record, alone)] == [alone.score(one) for one in record]


def test_a_reward_of_groups_has_to_give_one_number_each() -> None:
    @needs_group
    def short(rollouts: object) -> list[float]:
        return [1.0]

    with pytest.raises(UserError, match="1 rewards for a group of 2"):
        WeightedReward({"short": (short, 1.0)}).score_group([refusal(), refusal()])
