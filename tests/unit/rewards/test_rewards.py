"""The reward is IoU, failures are told apart, and files of rollouts score the same again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from envs.boxes import pairwise_box_iou
from envs.executors.base import ExecutorFailure, Segmentation, SegmentRequest
from envs.masks import decode_rle, encode_rle
from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from envs.sample import Sample
from prompter.errors import UserError
from prompter.runs.jsonl import write_lines
from prompter.types import Answer, FailureKind, Instance, ParseFailure, PromptSet
from rewards.box import box_iou
from rewards.form import tag_format, valid_answer
from rewards.instances import instance_mask_iou
from rewards.mask import mask_iou
from rewards.registry import build_reward
from rewards.replay import read_rollouts, replay

SIZE = (12, 8)  # width, height
BOX = PromptSet((Instance(box=(2, 1, 6, 5)),))
FAILURE = ParseFailure(FailureKind.NOT_JSON, "expected JSON, but found prose", "no idea")


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


NOTHING = rectangle(0, 0, 0, 0)


def rollout(answer: PromptSet | ParseFailure = BOX, **changes: object) -> Rollout:
    base = Rollout(
        sample_id="s0",
        dataset="unit",
        split="test",
        image_id="i0",
        image_wh=SIZE,
        query="the square",
        target=encode_rle(rectangle(2, 1, 6, 5)),
        completion="",
        reading=answer,
        prediction=None if isinstance(answer, ParseFailure) else encode_rle(rectangle(2, 1, 6, 5)),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class TestMaskIoU:
    def test_perfect_and_partial(self) -> None:
        assert mask_iou(rollout()) == 1.0
        assert mask_iou(rollout(prediction=encode_rle(rectangle(4, 1, 8, 5)))) == pytest.approx(8 / 24)

    def test_a_parse_failure_is_zero_and_an_executor_failure_is_none(self) -> None:
        assert mask_iou(rollout(FAILURE)) == 0.0
        assert mask_iou(rollout(prediction=None, executor_error="the actor died")) is None

    def test_no_target(self) -> None:
        empty = encode_rle(NOTHING)
        assert mask_iou(rollout(PromptSet(), target=empty, prediction=empty)) == 1.0
        assert mask_iou(rollout(target=empty)) == 0.0
        assert mask_iou(rollout(FAILURE, target=empty)) == 0.0
        # The policy claimed an object where there is none; the segmenter's silence does not excuse it.
        assert mask_iou(rollout(target=empty, prediction=empty)) == 0.0

    def test_a_false_negative_is_zero(self) -> None:
        assert mask_iou(rollout(PromptSet(), prediction=encode_rle(NOTHING))) == 0.0

    def test_ignored_pixels_count_nowhere(self) -> None:
        spill = rollout(
            prediction=encode_rle(rectangle(2, 1, 8, 5)), ignore=encode_rle(rectangle(6, 0, 12, 8))
        )
        assert mask_iou(spill) == 1.0

    def test_a_box_only_sample_says_which_reward_to_use(self) -> None:
        with pytest.raises(UserError, match="box_iou"):
            mask_iou(rollout(target=None, boxes=((2.0, 1.0, 6.0, 5.0),)))

    @given(
        hnp.arrays(bool, (8, 12)),
        hnp.arrays(bool, (8, 12)),
        st.none() | hnp.arrays(bool, (8, 12)),
    )
    @settings(max_examples=80, deadline=None)
    def test_agrees_with_counting_pixels(
        self, found: np.ndarray, wanted: np.ndarray, ignored: np.ndarray | None
    ) -> None:
        ignore = None if ignored is None else encode_rle(ignored)
        score = mask_iou(rollout(prediction=encode_rle(found), target=encode_rle(wanted), ignore=ignore))
        if not wanted.any():
            assert score == 0.0
            return
        both = either = 0
        for y in range(8):
            for x in range(12):
                if ignored is not None and ignored[y, x]:
                    continue
                both += int(found[y, x] and wanted[y, x])
                either += int(found[y, x] or wanted[y, x])
        assert score == pytest.approx(1.0 if either == 0 else both / either)


class TestInstanceReward:
    two = (rectangle(0, 0, 3, 4), rectangle(6, 0, 9, 4))

    def made(self, found: Sequence[np.ndarray]) -> Rollout:
        answer = PromptSet(tuple(Instance(positive_points=((1, 1),)) for _ in found))
        return rollout(
            answer,
            target=encode_rle(self.two[0] | self.two[1]),
            instances=tuple(encode_rle(mask) for mask in self.two),
            prediction=encode_rle(np.logical_or.reduce(found) if found else NOTHING),
            predicted_instances=tuple(encode_rle(mask) for mask in found),
        )

    def test_order_does_not_matter(self) -> None:
        assert instance_mask_iou(self.made(self.two)) == 1.0
        assert instance_mask_iou(self.made(self.two[::-1])) == 1.0

    def test_merging_doubling_missing_and_inventing_cost_where_the_union_mask_sees_nothing(self) -> None:
        merged = self.made([self.two[0] | self.two[1]])
        assert mask_iou(merged) == 1.0
        assert instance_mask_iou(merged) == pytest.approx(0.25)
        doubled = self.made([*self.two, self.two[0]])
        assert mask_iou(doubled) == 1.0
        assert instance_mask_iou(doubled) == pytest.approx(2 / 3)
        assert instance_mask_iou(self.made(self.two[:1])) == pytest.approx(0.5)
        assert instance_mask_iou(self.made([])) == 0.0

    def test_sets_without_instances_fall_back_to_the_union(self) -> None:
        assert instance_mask_iou(rollout()) == 1.0
        assert instance_mask_iou(rollout(FAILURE)) == 0.0

    def test_missing_instance_masks_are_reported(self) -> None:
        with pytest.raises(UserError, match="keep_instances"):
            instance_mask_iou(replace(self.made(self.two), predicted_instances=()))


class TestBoxReward:
    def test_boxes_are_matched_whatever_their_order(self) -> None:
        boxes = ((0.0, 0.0, 2.0, 2.0), (5.0, 5.0, 8.0, 8.0))
        answer = PromptSet(tuple(Instance(box=box) for box in boxes[::-1]))
        assert box_iou(rollout(answer, target=None, boxes=boxes)) == 1.0
        assert box_iou(rollout(answer, target=None, boxes=boxes[:1])) == 0.5

    def test_the_target_mask_stands_in_for_missing_boxes(self) -> None:
        assert box_iou(rollout()) == 1.0
        assert box_iou(rollout(PromptSet((Instance(positive_points=((3, 3),)),)))) == 0.0

    def test_empty_targets(self) -> None:
        assert box_iou(rollout(PromptSet(), target=encode_rle(NOTHING))) == 1.0
        assert box_iou(rollout(target=encode_rle(NOTHING))) == 0.0

    @given(st.tuples(*[st.integers(0, 9)] * 8))
    @settings(max_examples=60, deadline=None)
    def test_box_iou_agrees_with_rasterised_boxes(self, numbers: tuple[int, ...]) -> None:
        boxes = []
        for x, y, width, height in (numbers[:4], numbers[4:]):
            boxes.append((x, y, x + width + 1, y + height + 1))
        masks = []
        for x1, y1, x2, y2 in boxes:
            mask = np.zeros((20, 20), dtype=bool)
            mask[y1:y2, x1:x2] = True
            masks.append(mask)
        expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert pairwise_box_iou(boxes[:1], boxes[1:])[0, 0] == pytest.approx(expected)


def test_form_rewards_look_at_the_text_alone() -> None:
    assert valid_answer(rollout(FAILURE)) == 0.0
    assert valid_answer(rollout(PromptSet(), prediction=encode_rle(NOTHING))) == 1.0
    assert tag_format(rollout(completion="<think>left</think>\n<answer>[]</answer>")) == 1.0
    assert tag_format(rollout(completion="<answer>[]</answer>")) == 0.0
    assert tag_format(rollout(completion="<think>a</think><answer>[]</answer><answer>[]</answer>")) == 0.0


class TestWeightedReward:
    def test_sum_and_parts(self) -> None:
        breakdown = build_reward({"mask_iou": 1.0, "valid_answer": 0.5})(rollout())
        assert breakdown.total == 1.5
        assert breakdown.to_json() == {"total": 1.5, "mask_iou": 1.0, "valid_answer": 1.0}

    def test_none_is_not_zero(self) -> None:
        failed = rollout(prediction=None, executor_error="timeout")
        assert build_reward({"mask_iou": 1.0, "valid_answer": 0.5})(failed).total is None

    def test_unknown_names_and_bad_weights_are_the_users_to_mend(self) -> None:
        with pytest.raises(UserError, match="Did you mean 'mask_iou'"):
            build_reward({"mask_iuo": 1.0})
        with pytest.raises(UserError, match="finite number"):
            build_reward({"mask_iou": float("inf")})
        with pytest.raises(UserError, match="no reward"):
            build_reward({})

    def test_only_the_instance_reward_asks_for_instances(self) -> None:
        assert not build_reward({"mask_iou": 1.0, "box_iou": 0.1}).needs_instances
        assert build_reward({"instance_mask_iou": 1.0}).needs_instances


def test_replay_scores_a_file_as_training_did(tmp_path: Path) -> None:
    reward = build_reward({"mask_iou": 1.0, "valid_answer": 0.1})
    scored = [
        reward.score(one)
        for one in (
            rollout(tags={"granularity": "part"}, predicted_ious=(0.5,)),
            rollout(FAILURE, completion=FAILURE.text),
            rollout(prediction=None, executor_error="timeout"),
        )
    ]
    path = tmp_path / "step-00000001.jsonl"
    write_lines(path, [one.to_json() for one in scored])
    assert list(read_rollouts(path)) == scored
    assert list(replay(path, reward)) == scored
    only_mask = [one.rewards["total"] for one in replay(path, build_reward({"mask_iou": 2.0}))]
    assert only_mask == [2.0, 0.0, None]


def test_a_line_that_is_not_a_rollout_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    write_lines(path, [rollout().to_json(), {"sample_id": "x"}])
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2"):
        list(read_rollouts(path))


class FakeSegmenter:
    """Fills boxes; fails on images whose first pixel is 255; records what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, PromptSet, str]] = []

    def segment(
        self,
        requests: Sequence[SegmentRequest],
        *,
        keep_instances: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        results: list[Segmentation | ExecutorFailure] = []
        for request in requests:
            image, prompt, key = request.image, request.prompts, request.image_key
            self.seen.append((id(image), prompt, key))
            if image[0, 0, 0] == 255:
                results.append(ExecutorFailure("the actor died"))
                continue
            masks = [rectangle(*(int(v) for v in one.box or (0, 0, 0, 0))) for one in prompt.instances]
            union = np.logical_or.reduce(masks) if masks else NOTHING
            scores = np.full(len(masks), 0.75, np.float32)
            kept = tuple(masks) if keep_instances else None
            results.append(Segmentation(union, scores, instance_masks=kept))
        return results


class TestMakeRollouts:
    def samples(self) -> tuple[list[Sample], dict[str, int]]:
        loads: dict[str, int] = {"a": 0, "b": 0}

        def loader(name: str, value: int):  # type: ignore[no-untyped-def]
            def load() -> Image.Image:
                loads[name] += 1
                return Image.new("RGB", SIZE, (value, 0, 0))

            return load

        made = {
            name: Sample(
                sample_id=name,
                dataset="unit",
                split="test",
                image_id=name,
                image_wh=SIZE,
                load_image=loader(name, value),
                query="q",
                target=encode_rle(rectangle(2, 1, 6, 5)),
            )
            for name, value in (("a", 0), ("b", 255))
        }
        return [made["a"], made["a"], made["a"], made["b"], made["b"]], loads

    def test_one_image_is_loaded_once_and_failures_stay_with_their_sample(self) -> None:
        samples, loads = self.samples()
        segmenter = FakeSegmenter()
        texts = ["one", "two", "three", "four", "five"]
        readings = [BOX, PromptSet(), FAILURE, BOX, FAILURE]
        answers = [Answer(text, one, n) for n, (text, one) in enumerate(zip(texts, readings, strict=True), 1)]
        made = make_rollouts(samples, answers, segmenter, name="fake", step=7)
        assert loads == {"a": 1, "b": 1}
        assert len({identity for identity, _, key in segmenter.seen if key.endswith("/a")}) == 1
        assert [prompt for _, prompt, _ in segmenter.seen] == [BOX, PromptSet(), BOX]
        assert [mask_iou(one) for one in made] == [1.0, 0.0, 0.0, None, 0.0]
        assert [one.completion for one in made] == texts
        assert [one.completion_tokens for one in made] == [1, 2, 3, 4, 5]
        assert made[0].step == 7 and made[0].executor == "fake" and made[0].predicted_ious == (0.75,)
        assert made[3].executor_error == "the actor died" and made[3].prediction is None

    def test_masks_on_their_way_to_the_reward_are_not_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        decoded: list[Any] = []
        monkeypatch.setattr(
            "envs.rollout.decode_rle", lambda rle, hw: decoded.append(rle) or decode_rle(rle, hw)
        )
        samples, _ = self.samples()
        made = make_rollouts(samples[:3], [Answer("t", BOX)] * 3, FakeSegmenter(), keep_instances=True)
        assert [mask_iou(one) for one in made] == [1.0] * 3
        assert decoded == [samples[0].target], "the target once for its group, predictions never"
        for one in made:
            assert np.array_equal(one.prediction_mask, decode_rle(one.prediction))
            assert np.array_equal(one.predicted_instance_masks[0], decode_rle(one.predicted_instances[0]))
            assert np.array_equal(one.target_mask, decode_rle(one.target))
        again = Rollout.from_json(made[0].to_json())
        assert again == made[0] and mask_iou(again) == 1.0 and len(decoded) > 1

    def test_masks_that_answers_brought_along_need_no_executor(self) -> None:
        samples, loads = self.samples()
        brought = Answer("t", BOX, masks=(encode_rle(rectangle(2, 1, 6, 5)),), scores=(0.5,))
        (made,) = make_rollouts(samples[:1], [brought], None, name="own-masks", keep_instances=True)
        assert mask_iou(made) == 1.0 and made.predicted_ious == (0.5,) and len(made.predicted_instances) == 1
        assert loads == {"a": 0, "b": 0}
        with pytest.raises(UserError, match="name an executor other than own-masks"):
            make_rollouts(samples[:1], [Answer("t", BOX)], None, name="own-masks")

    def test_instances_are_kept_when_asked_for(self) -> None:
        samples, _ = self.samples()
        made = make_rollouts(samples[:1], [Answer("t", BOX)], FakeSegmenter(), keep_instances=True)
        assert np.array_equal(decode_rle(made[0].predicted_instances[0]), rectangle(2, 1, 6, 5))
        assert not make_rollouts(samples[:1], [Answer("t", BOX)], FakeSegmenter())[0].predicted_instances

    def test_lengths_must_agree(self) -> None:
        samples, _ = self.samples()
        with pytest.raises(ValueError, match="equally many"):
            make_rollouts(samples, [Answer("t", BOX)], FakeSegmenter())
