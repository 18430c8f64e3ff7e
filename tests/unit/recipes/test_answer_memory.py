"""Answers of earlier windows: which one joins which group, what it earns there, and what is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.executors import ExecutorConfig, open_executor
from prompter.errors import UserError
from prompter.types import Completion, Instance, PromptSet
from recipes.config import GroupConfig
from recipes.training.memory import MOST, AnswerMemory
from recipes.training.scoring import RolloutScorer, ScoredGroup
from rewards.registry import build_reward
from tests.fixtures.toy_task import SIDE, Squares, answer_with_iou, completion, toy_policy

SQUARES = Squares(10)
NOTHING = toy_policy().write_answer(PromptSet(), (SIDE, SIDE))


def scorer_of(*executors: str, **rewards: float) -> RolloutScorer:
    opened = {name: open_executor(ExecutorConfig(family="box")) for name in executors or ("box",)}
    return RolloutScorer(toy_policy(), opened, build_reward(rewards or {"mask_iou": 1.0}))


def window(scorer: RolloutScorer, answers: dict[int, Sequence[str]], step: int = 1) -> list[ScoredGroup]:
    """A window that asks the questions by number; 2 n and 2 n + 1 are about one image."""
    return scorer.score(
        list(answers),
        [SQUARES[number] for number in answers],
        [[completion(text) for text in texts] for texts in answers.values()],
        step,
    )


def note(memory: AnswerMemory, groups: Sequence[ScoredGroup]) -> None:
    memory.note(
        groups,
        [rollout.to_json() for group in groups for rollout in group.rollouts],
        {group.index: SQUARES[group.index] for group in groups},
    )


def joined(memory: AnswerMemory, group: ScoredGroup) -> tuple[ScoredGroup, list[float]]:
    (one,), rewards = memory.join([group], {group.index: SQUARES[group.index]})
    return one, rewards


def recalled(group: ScoredGroup) -> list[Completion]:
    return [one for one in group.completions if one.logprobs is None]


@pytest.mark.parametrize("memory", ["question", "image"])
def test_the_best_answer_of_before_takes_the_place_of_the_worst(memory: str) -> None:
    scorer = scorer_of()
    known = AnswerMemory(GroupConfig(memory=memory), scorer)
    note(known, window(scorer, {2: [answer_with_iou(2, 0.75), answer_with_iou(2, 0.5), "none"]}))
    (drawn,) = window(scorer, {2: ["none", answer_with_iou(2, 0.25), "neither"]}, step=9)
    group, rewards = joined(known, drawn)
    assert [one.text for one in group.completions] == [
        *(one.text for one in drawn.completions[:2]),
        answer_with_iou(2, 0.75),
    ]
    assert rewards == [group.rewards[2]] and group.rewards == pytest.approx([0, 0.25, 0.75], abs=0.02)
    assert group.rollouts[2].rewards["total"] == group.rewards[2] and group.rollouts[2].step == 9
    assert drawn.rewards[2] == 0, "what was drawn stays as it was"
    assert recalled(group) == [group.completions[2]]
    # Nothing joins a group that drew as good an answer.
    (good,) = window(scorer, {2: [answer_with_iou(2, 0.75), "none"]})
    assert joined(known, good) == (good, [])


def test_an_answer_to_another_question_about_the_image_is_right_here() -> None:
    scorer = scorer_of()
    for memory, expected in (("question", 0), ("image", 1)):
        known = AnswerMemory(GroupConfig(memory=memory), scorer)
        wrong = answer_with_iou(
            3, 1.0
        )  # of the neighbour, given to question 2, and to one about another image
        note(known, window(scorer, {2: [wrong, "none"], 6: [wrong, "none"]}))
        (drawn,) = window(scorer, {3: ["none", "neither"]})
        group, rewards = joined(known, drawn)
        assert len(rewards) == expected and len(recalled(group)) == expected
        if expected:
            assert rewards == [pytest.approx(1, abs=0.02)]
            assert group.rollouts[1].sample_id == "square-3" and group.rollouts[1].target == SQUARES[3].target


def test_an_answer_that_was_given_to_both_questions_is_known_to_both() -> None:
    scorer = scorer_of()
    known = AnswerMemory(GroupConfig(memory="question"), scorer)
    note(known, window(scorer, {2: [answer_with_iou(3, 1.0), "none"], 3: [answer_with_iou(3, 1.0), "none"]}))
    (drawn,) = window(scorer, {3: ["none", "neither"]})
    assert joined(known, drawn)[1] == [pytest.approx(1, abs=0.02)]


def test_a_thought_about_one_question_is_not_lent_to_another() -> None:
    scorer = scorer_of()
    known = AnswerMemory(GroupConfig(memory="image"), scorer)
    for tags in (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("", "</think>")):
        thought = f"{tags[0]}square 2 is there{tags[1]}{answer_with_iou(3, 1.0)}"
        note(known, window(scorer, {2: [thought, "none"]}))
    (drawn,) = window(scorer, {3: ["none", "neither"]})
    assert joined(known, drawn) == (drawn, [])


def test_a_refusal_of_before_is_recalled_where_nothing_is_there() -> None:
    scorer = scorer_of()
    known = AnswerMemory(GroupConfig(memory="image"), scorer)
    note(known, window(scorer, {5: [NOTHING, "none"]}))
    (drawn,) = window(scorer, {4: [answer_with_iou(5, 1.0), "none"]})  # question 4 has no target
    assert joined(known, drawn)[1] == [1.0]


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=6), st.integers(1, 4))
def test_no_group_gets_worse_and_none_changes_its_size(known: list[float], drawn: int) -> None:
    scorer = scorer_of()
    memory = AnswerMemory(GroupConfig(memory="image"), scorer)
    note(memory, window(scorer, {2: [answer_with_iou(2, one) for one in known]}))
    (group,) = window(scorer, {2: [answer_with_iou(2, 0.5)] * drawn})
    after, rewards = joined(memory, group)
    assert len(after.completions) == len(after.rewards) == len(after.rollouts) == drawn
    assert bool(rewards) == (max(known) > 0.5)
    assert max(one or 0 for one in after.rewards) == pytest.approx(max(*known, 0.5), abs=0.02)


def test_an_answer_counts_where_every_segmenter_of_the_group_has_shown_its_mask() -> None:
    both = scorer_of("one", "two")
    known = AnswerMemory(GroupConfig(memory="image"), both)
    note(known, window(scorer_of("one"), {2: [answer_with_iou(2, 1.0), "none"]}))
    (drawn,) = window(both, {2: ["none", "neither"]})
    assert joined(known, drawn) == (drawn, [])
    note(known, window(scorer_of("two"), {2: [answer_with_iou(2, 1.0), "none"]}))
    group, rewards = joined(known, drawn)
    assert rewards == [pytest.approx(1, abs=0.02)]
    assert [one.executor for one in group.rollouts] == ["one", "two"] * 2


def test_the_oldest_answers_to_an_image_are_forgotten() -> None:
    scorer = scorer_of()
    known = AnswerMemory(GroupConfig(memory="image"), scorer)
    note(known, window(scorer, {2: [answer_with_iou(2, 1.0), "none"]}))
    write = toy_policy().write_answer
    others = [
        write(PromptSet((Instance((x, 0, x + 3, y)),)), (SIDE, SIDE))
        for x in range(16)
        for y in (3, 6, 9, 12)
    ]
    assert len(set(others)) == MOST
    note(known, window(scorer, {3: others}))
    (drawn,) = window(scorer, {2: ["none", "neither"]})
    assert all(reward < 0.5 for reward in joined(known, drawn)[1])


def test_without_memory_nothing_is_kept_and_a_reward_of_groups_is_refused() -> None:
    scorer = scorer_of()
    known: Any = AnswerMemory(GroupConfig(), scorer)
    note(known, window(scorer, {2: [answer_with_iou(2, 1.0), "none"]}))
    (drawn,) = window(scorer, {2: ["none", "neither"]})
    assert joined(known, drawn) == (drawn, [])
    agreeing = scorer_of(agreement=1.0)
    AnswerMemory(GroupConfig(), agreeing)
    with pytest.raises(UserError, match="none, or take that reward out"):
        AnswerMemory(GroupConfig(memory="image"), agreeing)
