"""A gain is split by what became of each query's answer; the parts add up, printed as well as exact."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.masks import encode_rle
from envs.rollout import Rollout
from eval.bootstrap import Bootstrap
from eval.comparison import answered_sentence, compare_tables, comparison_text, gain_rows, remarks
from eval.gain import Gain, Part, split_gain
from eval.metrics import compare
from eval.query_table import build_table
from prompter.errors import UserError
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet

WIDTH, HEIGHT = 12, 6
FEW = Bootstrap(rounds=20)
UNREADABLE = ParseFailure(FailureKind.NOT_JSON, "no answer", "")


def columns(width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[:, :width] = True
    return mask


def rollout(
    number: int, instances: int | None, width: int, target: int = 6, failed: bool = False, **changes: object
) -> Rollout:
    """An answer with so many instances (None: unreadable) whose mask covers `width` columns of `target`."""
    box = (0.0, 0.0, 3.0, 3.0)
    reading: PromptSet | ParseFailure = UNREADABLE
    prediction = None
    if instances is not None:
        reading = PromptSet(tuple(Instance(box=box) for _ in range(instances)))
        prediction = None if failed else encode_rle(columns(width if instances else 0))
    return Rollout(
        **{  # type: ignore[arg-type]
            "sample_id": f"s{number}",
            "dataset": "unit",
            "split": "test",
            "image_id": f"i{number // 2}",
            "image_wh": (WIDTH, HEIGHT),
            "query": "q",
            "target": encode_rle(columns(target)),
            "completion": "",
            "reading": reading,
            "prediction": prediction,
            "executor_error": "gone" if failed and instances is not None else None,
            **changes,
        }
    )


answers = st.tuples(st.sampled_from([None, 0, 1, 1, 2, 3]), st.integers(0, WIDTH), st.booleans())
queries = st.tuples(answers, answers, st.sampled_from([0, 5, 6, 7]))


def tables(cases: list) -> tuple:  # type: ignore[type-arg]
    sides = []
    for side in (0, 1):
        made = []
        for number, case in enumerate(cases):
            instances, width, failed = case[side]
            made.append(rollout(number, instances, width, case[2], failed and number % 5 == 4))
        sides.append(build_table(made))
    return tuple(sides)


def split(before: object, after: object) -> Gain:
    found = split_gain(before, after, FEW)  # type: ignore[arg-type]
    assert found is not None
    return found


@given(st.lists(queries, min_size=1, max_size=30))
@settings(max_examples=80, deadline=None)
def test_the_parts_add_up_and_swapping_the_runs_negates_them(cases: list) -> None:  # type: ignore[type-arg]
    before, after = tables(cases)
    counted = sum(
        not any(case[side][2] and number % 5 == 4 and case[side][0] is not None for side in (0, 1))
        for number, case in enumerate(cases)
    )
    if not counted:
        return
    gain, back = split(before, after), split(after, before)
    assert gain.queries == counted == sum(one.queries for one in gain.parts.values())
    exact = [one.exact for one in gain.parts.values()]
    assert sum(value for value in exact if value is not None) == gain.difference == -back.difference
    assert [one.exact for one in back.parts.values()] == [-(value or 0) for value in exact]
    metric = compare(before, after, ["gIoU"], bootstrap=FEW)["gIoU"]
    assert float(gain.difference) == pytest.approx(metric.difference, abs=1e-12)
    for decimals in (0, 1, 2, 5):
        total = f"{100 * float(gain.difference):+.{decimals}f}"
        printed = gain.rounded(total, decimals)
        assert sum(Decimal(text) for text in printed.values()) == Decimal(total)
        for part, text in printed.items():
            off = abs(Fraction(text) - 100 * (gain.parts[part].exact or 0))
            assert off < Fraction(1, 10**decimals)
            assert not (gain.parts[part].exact == 0) or off == 0, "a part without a change stays 0"
    stored = json.loads(json.dumps(gain.to_json(), allow_nan=False), parse_float=Decimal)
    assert sum(one["value"] for one in stored["parts"].values()) == stored["difference"]


@given(st.lists(queries, min_size=1, max_size=12))
@settings(max_examples=20, deadline=None)
def test_a_run_compared_with_itself_gains_nothing(cases: list) -> None:  # type: ignore[type-arg]
    before, _ = tables([(first, first, target) for first, _, target in cases])
    if not len(before.answered()):
        return
    gain = split(before, before)
    assert gain.difference == 0 and all(one.exact == 0 for one in gain.parts.values())
    assert all(one.better == one.worse == 0 for one in gain.parts.values())
    assert set(gain.rounded("+0.00", 2).values()) == {"+0.00"}


@pytest.mark.parametrize(
    ("before", "after", "target", "part", "change"),
    [
        ((None, 0), (1, 6), 6, Part.FORM, 1.0),
        ((1, 6), (None, 0), 6, Part.FORM, -1.0),
        ((None, 0), (0, 0), 0, Part.FORM, 1.0),
        ((None, 0), (0, 0), 6, Part.FORM, 0.0),
        ((None, 0), (None, 0), 6, Part.FORM, 0.0),
        ((2, 3), (0, 0), 0, Part.REFUSAL, 1.0),
        ((2, 3), (1, 9), 0, Part.REFUSAL, 0.0),
        ((0, 0), (1, 3), 6, Part.REFUSAL, 0.5),
        ((1, 3), (0, 0), 6, Part.REFUSAL, -0.5),
        ((0, 0), (0, 0), 6, Part.REFUSAL, 0.0),
        ((1, 3), (2, 6), 6, Part.COUNT, 0.5),
        ((3, 6), (1, 3), 6, Part.COUNT, -0.5),
        ((1, 3), (1, 6), 6, Part.LOCALISATION, 0.5),
        ((2, 6), (2, 12), 6, Part.LOCALISATION, -0.5),
    ],
)
def test_each_kind_of_change_is_in_its_part(
    before: tuple[int | None, int], after: tuple[int | None, int], target: int, part: Part, change: float
) -> None:
    unchanged = rollout(9, 1, 6)
    gain = split(
        build_table([rollout(0, *before, target), unchanged]),
        build_table([rollout(0, *after, target), unchanged]),
    )
    moved = {name: one.value for name, one in gain.parts.items() if one.value}
    assert moved == ({part: change / 2} if change else {})
    assert gain.parts[part].queries == (2 if part is Part.LOCALISATION else 1)
    assert (gain.parts[part].better, gain.parts[part].worse) == (int(change > 0), int(change < 0))


def test_both_answered_is_a_mean_over_its_own_queries() -> None:
    before = build_table([rollout(0, 1, 3), rollout(1, 1, 3), rollout(2, None, 0), rollout(3, 0, 0)])
    after = build_table([rollout(0, 1, 6), rollout(1, 3, 3), rollout(2, 1, 6), rollout(3, 1, 6)])
    gain = split(before, after)
    assert gain.both_answered.queries == 2 and gain.both_answered.value == 0.25
    assert gain.named == (1.0, 2.0)
    assert gain.parts[Part.LOCALISATION].value == 0.125 and gain.parts[Part.COUNT].value == 0
    found = compare_tables(before, after, FEW)
    assert "(2 queries): +25.00 points of IoU a query" in answered_sentence(found)
    assert "1.00 -> 2.00 instances an answer" in answered_sentence(found)
    nobody = compare_tables(build_table([rollout(0, None, 0)]), build_table([rollout(0, 1, 6)]), FEW)
    assert "No query" in answered_sentence(nobody)


def test_failures_of_the_segmenter_are_left_out_and_said() -> None:
    before = build_table([rollout(0, 1, 3), rollout(1, 1, 3), rollout(2, 1, 3), rollout(7, 1, 3)])
    after = build_table([rollout(0, 1, 6), rollout(1, 1, 6, failed=True), rollout(2, 1, 3)])
    found = compare_tables(before, after, FEW)
    assert found.gain is not None and found.gain.queries == 2 and found.gain.difference == Fraction(1, 4)
    assert (found.queries, found.left_out, found.only_before, found.only_after) == (2, 1, 1, 0)
    said = " ".join(remarks(found))
    assert "INCOMPLETE" in said and "the first holds 1 more, the second 0" in said


def test_other_targets_are_refused() -> None:
    one, other = build_table([rollout(0, 1, 3, 6)]), build_table([rollout(0, 1, 3, 7)])
    with pytest.raises(UserError, match="different targets"):
        split_gain(one, other)


def test_a_set_of_boxes_has_no_gain_to_split() -> None:
    boxed = replace(rollout(0, 1, 3), target=None, boxes=((0.0, 0.0, 3.0, 3.0),))
    table = build_table([boxed])
    found = compare_tables(table, table, FEW)
    assert found.gain is None and gain_rows(found) == [] and answered_sentence(found) == ""
    assert found.to_json()["gain"] is None
    assert any(line.startswith("T-acc") for line in comparison_text(found))


def test_tiles_are_drawn_whole_where_images_are_windows_of_them() -> None:
    def windows(gains: list[int]) -> list[Rollout]:
        return [
            rollout(n, 1, gains[n // 4], dataset="aerial-buildings", image_id=f"{90 + n // 4}_x{n % 4}_y0")
            for n in range(12)
        ]

    before, after = build_table(windows([3, 3, 3])), build_table(windows([3, 4, 6]))
    found = compare_tables(before, after)
    assert found.images == 12 and found.tiles == 3
    assert any("3 tiles only" in line and "Student" in line for line in remarks(found))
    main = found.metrics["gIoU"]
    assert main.by_tile is not None and main.by_image is not None
    assert main.by_tile.high - main.by_tile.low > main.by_image.high - main.by_image.low
    assert found.gain is not None and found.gain.parts[Part.LOCALISATION].by_tile == main.by_tile
    few = found.gain.by_few_tiles
    assert few[Part.LOCALISATION] == few["all"] and few[Part.FORM].to_json() == [0, 0]
    # Means of the tiles: 0, 1/6 and 1/2; their standard error times the t quantile of two degrees of freedom.
    error = np.std([0, 1 / 6, 1 / 2], ddof=1) / np.sqrt(3)
    assert few["all"].to_json() == pytest.approx([2 / 9 - 4.30265 * error, 2 / 9 + 4.30265 * error], abs=1e-5)
    assert few["all"].high - few["all"].low > main.by_tile.high - main.by_tile.low
    assert "drawing tiles" in "\n".join(comparison_text(found))
    plain = compare_tables(build_table([rollout(0, 1, 3)]), build_table([rollout(0, 1, 6)]), FEW)
    assert plain.tiles is None and plain.metrics["gIoU"].by_tile is None


def test_a_wrong_total_is_refused() -> None:
    gain = split(build_table([rollout(0, 1, 3)]), build_table([rollout(0, 1, 6)]))
    with pytest.raises(ValueError, match="add up to 50"):
        gain.rounded("+49.0", 1)
