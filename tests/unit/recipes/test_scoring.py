"""Scoring groups: rewards stay with their completions, executors are combined, failures fail alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from envs.executors.base import Embedding, ExecutorFailure, Segmentation
from envs.executors.families.box import BoxSegmenter
from envs.executors.serving.local import LocalExecutor
from envs.sample import RGB
from prompter.types import FailureKind, PromptSet
from recipes.training.metrics import describe_groups
from recipes.training.scoring import RolloutScorer, ScoredGroup
from rewards.registry import build_reward
from tests.fixtures.toy_task import Squares, answer_with_iou, completion, toy_policy

BAD = "no idea"


class Shrunk(BoxSegmenter):
    """Fills only every second row: half the IoU of a box inside its target."""

    fingerprint = "shrunk"

    def decode(self, *args: Any, **kwargs: Any) -> list[Segmentation | ExecutorFailure]:
        results = super().decode(*args, **kwargs)
        for result in results:
            assert isinstance(result, Segmentation)
            result.mask[::2] = False
        return results


class FailsOn(BoxSegmenter):
    """Cannot decode a prompt set of two instances; cannot encode the image of one grey level."""

    fingerprint = "fails"

    def __init__(self, level: int = -1) -> None:
        self.level = level

    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        if any(int(image[0, 0, 0]) == self.level for image in images):
            raise RuntimeError("this image is not to my taste")
        return super().encode(images)

    def decode(
        self, embeddings: Sequence[Embedding], prompts: Sequence[PromptSet], **kwargs: Any
    ) -> list[Segmentation | ExecutorFailure]:
        results = super().decode(embeddings, prompts, **kwargs)
        return [
            ExecutorFailure("two are too many") if len(one) == 2 else result
            for one, result in zip(prompts, results, strict=True)
        ]


def scorer(aggregate: str = "mean", seed: int = 0, **executors: BoxSegmenter) -> RolloutScorer:
    opened = {name: LocalExecutor(one, name=name) for name, one in executors.items()}
    reward = build_reward({"mask_iou": 1.0})
    return RolloutScorer(toy_policy(), opened, reward, aggregate=aggregate, seed=seed)


def score(by: RolloutScorer, texts: dict[int, list[str]], step: int = 3) -> list[ScoredGroup]:
    source = Squares(40)
    groups = [[completion(text) for text in group] for group in texts.values()]
    return by.score(list(texts), [source[index] for index in texts], groups, step)


TEXTS = {
    6: [answer_with_iou(6, 0.25), BAD, answer_with_iou(6, 1.0), "[]"],
    4: ["[]", BAD, answer_with_iou(3, 1.0), "[]"],  # question 4 has no target
    7: [answer_with_iou(7, 0.5), answer_with_iou(7, 0.75), BAD, BAD],
}
REWARDS = [[0.25, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [0.5, 0.75, 0.0, 0.0]]


def test_rewards_stay_with_their_completions() -> None:
    groups = score(scorer(box=BoxSegmenter()), TEXTS)
    assert [group.index for group in groups] == [6, 4, 7]
    assert [group.rewards for group in groups] == REWARDS
    for group, texts in zip(groups, TEXTS.values(), strict=True):
        assert [one.text for one in group.completions] == texts
        assert [one.completion for one in group.rollouts] == texts
        assert [one.rewards["total"] for one in group.rollouts] == group.rewards
        assert {one.sample_id for one in group.rollouts} == {f"square-{group.index}"}
        assert {(one.step, one.executor) for one in group.rollouts} == {(3, "box")}
        assert [one.completion_tokens for one in group.rollouts] == [len(text) for text in texts]


def test_each_image_is_encoded_once_and_each_answer_decoded_once() -> None:
    by = scorer(box=BoxSegmenter())
    source = Squares(40)
    groups = [[completion(text) for text in group] for group in TEXTS.values()]
    by.score(list(TEXTS), [source[index] for index in TEXTS], groups, 1)
    assert by.counters().encodes == 2, "questions 6 and 7 share an image"
    assert by.counters().decodes == 12 - 4, "parse failures never reach the segmenter"
    assert by.counters().failures == 0
    assert source.loads == {2: 1, 3: 1}


@pytest.mark.parametrize(("aggregate", "share"), [("mean", 0.75), ("min", 0.5)])
def test_several_executors_are_combined(aggregate: str, share: float) -> None:
    by = scorer(aggregate, box=BoxSegmenter(), shrunk=Shrunk())
    groups = score(by, {6: [answer_with_iou(6, 0.5), answer_with_iou(6, 1.0), BAD]})
    assert groups[0].rewards == [0.5 * share, share, 0.0]
    assert [one.executor for one in groups[0].rollouts] == ["box", "shrunk"] * 3
    assert [one.rewards["total"] for one in groups[0].rollouts] == [0.5, 0.25, 1.0, 0.5, 0.0, 0.0]


def test_drawing_gives_each_group_one_executor_and_depends_on_seed_and_step_only() -> None:
    texts = {index: [answer_with_iou(index, 1.0)] * 3 for index in range(20) if index % 5 != 4}

    def drawn(seed: int, step: int) -> list[str]:
        groups = score(scorer("draw", seed, box=BoxSegmenter(), shrunk=Shrunk()), texts, step)
        for group in groups:
            assert len({one.executor for one in group.rollouts}) == 1 and len(group.rollouts) == 3
            assert group.rewards == [1.0 if group.rollouts[0].executor == "box" else 0.5] * 3
        return [group.rollouts[0].executor for group in groups]

    assert set(drawn(0, 1)) == {"box", "shrunk"}
    assert drawn(0, 1) == drawn(0, 1)
    assert drawn(0, 1) != drawn(0, 2) and drawn(0, 1) != drawn(1, 1)


def test_a_failed_prompt_set_fails_alone() -> None:
    two = answer_with_iou(6, 1.0).replace("]</answer>", ',{"bbox_2d":[0,0,9,9]}]</answer>')
    texts = {6: [TEXTS[6][0], two, *TEXTS[6][2:]], 4: TEXTS[4], 7: TEXTS[7]}
    by = scorer(box=FailsOn())
    groups = score(by, texts)
    assert groups[0].rewards == [0.25, None, 1.0, 0.0]
    assert [group.rewards for group in groups[1:]] == REWARDS[1:]
    assert groups[0].rollouts[1].executor_error == "two are too many"
    assert (by.counters().failures, by.counters().decodes) == (1, 8)


def test_an_image_that_cannot_be_encoded_costs_its_own_answers_only() -> None:
    groups = score(scorer(box=FailsOn(level=3)), TEXTS)  # the image of questions 6 and 7
    assert groups[0].rewards == [None, 0.0, None, None], "an answer that did not parse is 0 all the same"
    assert groups[1].rewards == REWARDS[1]
    assert groups[2].rewards == [None, None, 0.0, 0.0]
    error = groups[0].rollouts[0].executor_error
    assert error is not None and "this image is not to my taste" in error


def test_a_completion_that_one_of_two_executors_failed_on_is_not_scored() -> None:
    groups = score(scorer(box=BoxSegmenter(), fails=FailsOn(level=3)), TEXTS)
    assert groups[0].rewards == [None, 0.0, None, None]
    assert groups[0].rollouts[0].rewards["total"] == 0.25, "what the other said is kept on record"
    assert groups[1].rewards == REWARDS[1]


@pytest.mark.parametrize(
    ("rewards", "spread"),
    [
        ([0.0, 0.5], True),
        ([0.5, 0.5], False),
        ([0.5, 0.5 + 1e-9], False),
        ([None, 0.5], False),
        ([None, 0.5, 0.6], True),
        ([None, None], False),
        ([], False),
    ],
)
def test_spread(rewards: list[float | None], spread: bool) -> None:
    assert ScoredGroup(0, [], rewards, []).has_spread is spread


def test_the_description_adds_up() -> None:
    texts = {**TEXTS, 9: [BAD, "[1]", '[{"bbox_2d":[0,0,0,5]}]', ""]}
    groups = score(scorer(box=FailsOn(level=2)), texts)  # the image of question 4
    told = describe_groups(groups, dict(enumerate(Squares(40))))
    assert (told["groups"], told["completions"], told["rollouts"], told["images"]) == (4, 16, 16, 3)
    assert told["parse_failure_kinds"] == {"no_answer": 6, "wrong_shape": 1, "degenerate_box": 1}
    assert told["parse_failures"] == 8 == sum(told["parse_failure_kinds"].values())
    assert told["parse_failure_rate"] == 0.5
    known = [0.25, 0, 1, 0, 0, 0.5, 0.75, 0, 0, 0, 0, 0, 0]
    assert told["unscored_completions"] == told["executor_failures"] == 3
    assert told["reward"] == told["gIoU"] == pytest.approx(np.mean(known))
    assert told["frac_reward_zero_std"] == 0.5, "question 4, of which one answer is scored, and question 9"
    assert told["empty_answers"] == pytest.approx(3 / 8)
    assert told["share_with_box"] == 1.0 and told["share_with_points"] == 0.0
    assert FailureKind.NO_ANSWER in told["parse_failure_kinds"]


def test_the_description_of_nothing_divides_by_nothing() -> None:
    told = describe_groups([], {})
    assert told["reward"] is None and told["parse_failure_rate"] == 0.0 and told["groups"] == 0
