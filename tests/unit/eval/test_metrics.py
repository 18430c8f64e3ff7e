"""Tables, ratios, intervals and comparisons mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.masks import encode_rle
from envs.rollout import Rollout
from eval.bootstrap import Bootstrap, Ratio, intervals, paired_difference
from eval.instance_scores import rollout_instance_score, score_from_counts
from eval.mask_views import View
from eval.metrics import SIZE_TAG, compare, score_file, summarise
from eval.protocols import PROTOCOLS, apply, get_protocols
from eval.query_table import build_table
from prompter.errors import UserError
from prompter.runs.jsonl import write_lines
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet
from rewards.mask import mask_iou

WIDTH, HEIGHT = 10, 8
FAILURE = ParseFailure(FailureKind.TRUNCATED, "cut off", "")


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return mask


def rollout(
    number: int = 0,
    box: tuple[int, int, int, int] | None = (0, 0, 4, 4),
    target: np.ndarray | None = None,
    image: int | None = None,
    failed: bool = False,
    **changes: object,
) -> Rollout:
    """One answer with one box, filled exactly; `box=None` answers "no target"."""
    wanted = rectangle(0, 0, 4, 4) if target is None else target
    answer: PromptSet | ParseFailure = PromptSet(() if box is None else (Instance(box=box),))
    made = Rollout(
        sample_id=f"s{number}",
        dataset="unit",
        split="test",
        image_id=f"i{number if image is None else image}",
        image_wh=(WIDTH, HEIGHT),
        query="q",
        target=encode_rle(wanted),
        completion="",
        reading=FAILURE if failed else answer,
        prediction=None if failed else encode_rle(rectangle(*(box or (0, 0, 0, 0)))),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


boxes = st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(1, 8), st.integers(1, 6)).map(
    lambda v: (v[0], v[1], min(WIDTH, v[0] + v[2]), min(HEIGHT, v[1] + v[3]))
)


@given(
    st.lists(st.tuples(st.none() | boxes, st.none() | boxes, st.none() | boxes, st.booleans()), max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_strict_giou_is_the_mean_training_reward(cases: list) -> None:  # type: ignore[type-arg]
    made = [
        rollout(
            number,
            box,
            rectangle(*(target or (0, 0, 0, 0))),
            failed=failed,
            ignore=None if ignore is None else encode_rle(rectangle(*ignore)),
        )
        for number, (box, target, ignore, failed) in enumerate(cases)
    ]
    table = build_table(made)
    rewards = [mask_iou(one) for one in made]
    assert table.scores.tolist() == rewards
    found = apply(PROTOCOLS["strict"], table)["gIoU"].value()
    assert found == (pytest.approx(np.mean(rewards)) if made else None)  # type: ignore[arg-type]


def test_strict_rates() -> None:
    nothing = rectangle(0, 0, 0, 0)
    made = [
        rollout(0),
        rollout(1, (0, 0, 4, 2)),  # half of the target: IoU 0.5
        rollout(2, None),  # missed
        rollout(3, failed=True),
        rollout(4, None, nothing),  # correct "no target"
        rollout(5, (0, 0, 2, 2), nothing),  # false positive
        rollout(6, failed=True, target=nothing),
        rollout(7, prediction=None, executor_error="gone"),
    ]
    ratios = apply(PROTOCOLS["strict"], build_table(made))
    values = {name: ratio.value() for name, ratio in ratios.items()}
    assert values["gIoU"] == pytest.approx(2.5 / 7)
    assert values["cIoU"] == pytest.approx((16 + 8) / (16 + 16 + 16 + 16 + 0 + 4 + 0))
    assert values["P@0.5"] == pytest.approx(3 / 7)
    assert values["P@0.6"] == pytest.approx(2 / 7)
    assert values["N-acc"] == pytest.approx(1 / 3)
    assert values["T-acc"] == pytest.approx(2 / 4)
    assert values["parse-failures"] == pytest.approx(2 / 7)
    assert values["no-target-answers"] == pytest.approx(2 / 7)
    assert values["box-acc@0.5"] == pytest.approx(2 / 4)


def test_box_only_sets_are_scored_by_their_boxes_alone() -> None:
    made = [
        rollout(0, (0, 0, 4, 4), target=None, boxes=((0.0, 0.0, 4.0, 4.0),)),
        rollout(1, (0, 0, 4, 4), target=None, boxes=((4.0, 4.0, 8.0, 8.0),)),
    ]
    table = build_table((replace(one, target=None) for one in made), View)
    values = {name: ratio.value() for name, ratio in apply(PROTOCOLS["strict"], table).items()}
    assert values["box-acc@0.5"] == 0.5
    assert values["gIoU"] is None and values["cIoU"] is None and values["P@0.5"] is None
    assert values["T-acc"] == 1.0
    assert apply(PROTOCOLS["rmsin"], table)["gIoU"].value() is None


def test_points_are_boxed_by_their_mask() -> None:
    answer = PromptSet((Instance(positive_points=((1.0, 1.0),)),))
    table = build_table([rollout(0, reading=answer, prediction=encode_rle(rectangle(0, 0, 4, 3)))])
    assert table.box_ious[0] == pytest.approx(12 / 16)


class TestIntervals:
    def test_agrees_with_the_normal_approximation(self) -> None:
        generator = np.random.default_rng(3)
        values = generator.random(400)
        found = intervals({"mean": Ratio.of(values, 1.0)}, settings=Bootstrap(rounds=2000))["mean"]
        assert found is not None
        half = 1.96 * values.std() / np.sqrt(len(values))
        assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
        assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)

    def test_queries_of_one_image_count_once_when_images_are_drawn(self) -> None:
        generator = np.random.default_rng(4)
        per_image = generator.random(50)
        values = np.repeat(per_image, 8)
        images = np.repeat(np.arange(50), 8)
        ratio = {"mean": Ratio.of(values, 1.0)}
        by_query, by_image = intervals(ratio)["mean"], intervals(ratio, images)["mean"]
        alone = intervals({"mean": Ratio.of(per_image, 1.0)})["mean"]
        assert by_query is not None and by_image is not None and alone is not None
        assert (by_image.high - by_image.low) / (by_query.high - by_query.low) == pytest.approx(
            np.sqrt(8), rel=0.15
        )
        assert by_image.to_json() == pytest.approx(alone.to_json())

    def test_draws_whole_ratios_not_means_of_ratios(self) -> None:
        """With one query the metric is constant, whatever the weights."""
        found = intervals({"cIoU": Ratio.of([3.0], [4.0])})["cIoU"]
        assert found is not None and found.to_json() == [0.75, 0.75]

    def test_undefined_metrics_have_no_interval(self) -> None:
        ratio = Ratio.of(np.zeros(5), np.zeros(5))
        assert ratio.value() is None
        assert intervals({"x": ratio})["x"] is None
        assert intervals({"x": Ratio.of(np.zeros(0), np.zeros(0))})["x"] is None

    def test_same_seed_same_interval_other_seed_another(self) -> None:
        ratio = {"x": Ratio.of(np.random.default_rng(0).random(60), 1.0)}
        first, again, other = (intervals(ratio, settings=Bootstrap(seed=seed))["x"] for seed in (1, 1, 2))
        assert first == again != other


class TestComparison:
    def test_a_constant_gain_has_no_spread(self) -> None:
        generator = np.random.default_rng(5)
        before = generator.random(100)
        images = np.arange(100) // 4
        found = paired_difference(Ratio.of(before, 1.0), Ratio.of(before + 0.1, 1.0), images)
        assert found.difference == pytest.approx(0.1)
        assert found.by_query is not None and found.by_image is not None
        assert [*found.by_query.to_json(), *found.by_image.to_json()] == pytest.approx([0.1] * 4)

    def test_noise_without_gain_covers_zero(self) -> None:
        generator = np.random.default_rng(6)
        before, after = generator.random(200), generator.random(200)
        found = paired_difference(Ratio.of(before, 1.0), Ratio.of(after, 1.0), np.arange(200))
        assert found.by_query is not None and found.by_query.low < 0 < found.by_query.high

    def test_runs_are_joined_by_sample_whatever_their_order(self) -> None:
        before = build_table([rollout(number, (0, 0, 4, 2)) for number in range(6)])
        after = build_table([rollout(number) for number in (5, 3, 1, 9)])
        found = compare(before, after)
        assert found["gIoU"].before == pytest.approx(0.5) and found["gIoU"].after == 1.0
        assert found["cIoU"].difference == pytest.approx(0.5)

    def test_what_cannot_be_compared_is_refused(self) -> None:
        one, other = build_table([rollout(1)]), build_table([rollout(2)])
        with pytest.raises(UserError, match="share no query"):
            compare(one, other)
        with pytest.raises(UserError, match="twice"):
            compare(build_table([rollout(1), rollout(1)]), one)


class TestSelection:
    def test_counts(self) -> None:
        score = score_from_counts(2, 3, 4)
        assert (score.precision, score.recall, score.f1) == pytest.approx((2 / 3, 0.5, 4 / 7))
        assert score_from_counts(0, 0, 0).f1 == 1.0
        assert score_from_counts(0, 1, 0).precision == 0.0
        assert score_from_counts(0, 0, 3).recall == 0.0

    def test_f1_is_the_harmonic_mean(self) -> None:
        score = score_from_counts(3, 5, 4)
        assert score.f1 == pytest.approx(2 / (1 / score.precision + 1 / score.recall))

    def test_objects_are_found_once(self) -> None:
        two = (rectangle(0, 0, 4, 4), rectangle(6, 0, 10, 4))
        instances = tuple(encode_rle(mask) for mask in two)
        answer = PromptSet(tuple(Instance(box=box) for box in ((0, 0, 4, 4), (0, 0, 4, 3), (5, 0, 10, 4))))
        score = rollout_instance_score(
            rollout(0, target=two[0] | two[1], instances=instances, reading=answer)
        )
        assert score is not None
        assert (score.precision, score.recall, score.f1) == pytest.approx((2 / 3, 1.0, 0.8))

    def test_nothing_to_compare(self) -> None:
        assert rollout_instance_score(rollout(0)) is None  # objects are not told apart
        nothing = rectangle(0, 0, 0, 0)
        correct = rollout_instance_score(rollout(0, None, nothing))
        assert correct is not None and correct.f1 == 1.0
        failed = rollout_instance_score(rollout(0, failed=True, target=nothing))
        assert failed is not None and failed.f1 == 0.0


def test_summary_counts_and_breaks_down(tmp_path: Path) -> None:
    made = [
        rollout(number, (0, 0, 4, 4 - 2 * (number % 2)), image=number // 2, tags={"level": "ab"[number % 2]})
        for number in range(8)
    ]
    made.append(rollout(8, failed=True, tags={"level": "b"}))
    made.append(rollout(9, prediction=None, executor_error="gone"))
    path = tmp_path / "box.jsonl"
    write_lines(path, [one.to_json() for one in made])
    protocols = get_protocols(["strict", "rmsin", "think2seg"])
    summary = summarise(score_file(path, protocols), protocols, Bootstrap(rounds=50))
    assert summary["queries"] == 10 and summary["images"] == 6
    assert summary["executor_failures"] == 1 and summary["parse_failures"] == {"truncated": 1}
    assert list(summary["protocols"]) == ["strict", "rmsin", "think2seg"]
    strict = summary["protocols"]["strict"]["metrics"]["gIoU"]
    assert strict["value"] == pytest.approx((4 * 1 + 4 * 0.5) / 9)
    assert strict["by_image"][0] <= strict["value"] <= strict["by_image"][1]
    level = summary["breakdown"]["level"]
    assert level["a"] == {"queries": 4, "gIoU": 1.0, "cIoU": 1.0, "P@0.5": 1.0, "box-acc@0.5": 1.0}
    assert level["b"]["gIoU"] == pytest.approx(0.4)
    assert summary["breakdown"][SIZE_TAG]["over 10 %"]["queries"] == 10
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(UserError, match="no rollouts"):
        score_file(empty, protocols)
