"""Systems side by side: figures, paired differences, axes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eval.metrics import SIZE_TAG
from eval.query_table import QueryTable, build_table
from eval.report.systems_page import (
    axis_rows,
    difference_rows,
    gain_rows,
    how_to_read,
    system_rows,
    systems_page,
)
from eval.systems import BASE, METRICS, Cost, SystemAnswers, compare_systems
from prompter.errors import UserError
from tests.fixtures.hostile import HOSTILE
from tests.unit.eval.test_metrics import rectangle, rollout

NOTHING = np.zeros((8, 10), dtype=bool)
SAYS = {"grpo": ("prompter train", ""), "other": ("prompter elisa", "questions")}


def table(widths: list[int], *, numbers: list[int] | None = None, failed: int | None = None) -> QueryTable:
    """A question an entry: odd ones ask for nothing, and a box of width 0 says that there is nothing."""
    made = []
    for place, width in enumerate(widths):
        number = place if numbers is None else numbers[place]
        none = number % 2 == 1
        one = rollout(
            number,
            (0, 0, width, 4) if width else None,
            NOTHING if none else rectangle(0, 0, 4, 4),
            image=number // 2,
            tags={"multiplicity": "none" if none else "one", "length": "short"},
        )
        made.append(replace(one, executor_error="gone") if place == failed else one)
    return build_table(made)


def answers(seed: int, one: QueryTable, minutes: float | None = 1.0) -> SystemAnswers:
    return SystemAnswers(seed, one, Cost(minutes, 320, 0, None, 2.0, None))


def test_figures_are_means_over_seeds_and_differences_are_paired_with_the_same_seed() -> None:
    full, half, mixed = table([4, 0, 4, 0]), table([2, 0, 2, 0]), table([4, 0, 2, 3])
    found = compare_systems(
        {"grpo": [answers(0, half), answers(1, full)], "other": [answers(1, mixed, None)]}, "grpo", SAYS, half
    )
    base, grpo, other = found.systems
    assert (base.name, base.kind, base.seeds, base.cost) == (BASE, "untrained", (), None)
    assert grpo.metrics["gIoU"].value == pytest.approx(0.875) and grpo.metrics["gIoU"].by_seed == (0.75, 1.0)
    assert grpo.against is None and grpo.equal == "" and grpo.cost is not None and grpo.cost.minutes == 1.0
    # Against seed 1 of the reference alone, not against its mean.
    assert other.against is not None and other.against["gIoU"].value == pytest.approx(0.625 - 1.0)
    assert other.metrics["N-acc"].value == 0.5 and other.against["N-acc"].value == -0.5
    assert other.cost is not None and other.cost.minutes is None
    assert base.against is not None and base.against["gIoU"].value == pytest.approx(-0.125)
    assert (found.questions, found.images, found.no_target, found.left_out) == (4, 2, 2, 0)


def test_axes_split_the_questions_and_those_that_do_not_differ_are_told() -> None:
    found = compare_systems({"grpo": [answers(0, table([4, 0, 2, 4]))]}, "grpo", SAYS)
    (axis,) = found.axes
    assert axis.tag == "multiplicity"
    values = {one.value: one for one in axis.values}
    assert {name: (one.questions, one.images) for name, one in values.items()} == {
        "none": (2, 2),
        "one": (2, 2),
    }
    assert values["one"].systems["grpo"].value == 0.75 and values["none"].systems["grpo"].value == 0.5
    assert values["one"].systems["grpo"].interval == pytest.approx((0.5, 1.0))
    told = dict(zip(["granularity", "reasoning", "length", SIZE_TAG], found.remarks, strict=True))
    assert all(sentence.startswith(tag) for tag, sentence in told.items())
    assert "do not say it" in told["granularity"] and "are short" in told["length"]
    # Questions without a target have no size.
    assert "are over 10 %" in told[SIZE_TAG]


def test_a_gain_over_the_base_is_split_into_its_parts() -> None:
    half, full = table([2, 0, 2, 3]), table([4, 0, 0, 0])
    found = compare_systems(
        {"grpo": [answers(0, full), answers(1, half)], "other": [answers(0, full)]}, "grpo", SAYS, half
    )
    grpo, other = found.gains
    assert (grpo.name, grpo.seeds, other.seeds) == ("grpo", (0, 1), (0,))
    # A better box (+0.5), a target refused (-0.5), nothing refused (+1), of four questions.
    assert other.from_start.difference == pytest.approx(0.25)
    assert {part: one.difference for part, one in other.parts.items()} == {
        "form": 0.0,
        "refusal": pytest.approx(0.125),
        "count": 0.0,
        "localisation": pytest.approx(0.125),
    }
    assert grpo.parts["localisation"].by_seed == (pytest.approx(0.125), 0.0)
    heading, first, _ = gain_rows(found)
    assert heading[:2] == ["system", "gIoU"] and first[0] == "grpo" and len(first) == len(heading)
    assert (
        first[1].startswith("+12.50 [") and first[heading.index("localisation, each seed")] == "+12.50 +0.00"
    )
    assert "Gained over the base, and where" in systems_page("t", found, "", "", [])
    unasked = compare_systems({"grpo": [answers(0, full)]}, "grpo", SAYS)
    assert unasked.gains == () and "Gained over" not in systems_page("t", unasked, "", "", [])


def test_one_image_has_no_interval() -> None:
    found = compare_systems({"grpo": [answers(0, table([4, 0]))]}, "grpo", SAYS)
    assert found.systems[0].metrics["gIoU"].interval is None


def test_a_question_whose_segmenter_failed_for_one_is_left_out_for_all() -> None:
    whole, broken = table([4, 0, 4, 0]), table([4, 0, 4, 0], failed=2)
    found = compare_systems({"grpo": [answers(0, whole)], "other": [answers(0, broken)]}, "grpo", SAYS)
    assert (found.questions, found.left_out) == (3, 1)
    assert "1 further questions are in no figure" in how_to_read(found, "")[-1]


def test_different_questions_and_no_answers_are_refused() -> None:
    one, other = table([4, 0]), table([4, 0, 4])
    with pytest.raises(UserError, match="'grpo' and 'other' were asked different questions"):
        compare_systems({"grpo": [answers(0, one)], "other": [answers(0, other)]}, "grpo", SAYS)
    with pytest.raises(UserError, match="no run of this study is finished"):
        compare_systems({"grpo": []}, "grpo", SAYS)


def test_the_reference_may_be_unfinished() -> None:
    found = compare_systems({"grpo": [], "other": [answers(3, table([4, 0, 4, 0]))]}, "grpo", SAYS)
    (other,) = found.systems
    assert other.against is None and difference_rows(found) == [difference_rows(found)[0]]


def test_order_of_questions_in_a_file_does_not_matter() -> None:
    first, turned = table([4, 0, 2, 3]), table([3, 2, 0, 4], numbers=[3, 2, 1, 0])
    found = compare_systems({"grpo": [answers(0, first)], "other": [answers(0, turned)]}, "grpo", SAYS)
    grpo, other = found.systems
    assert grpo.metrics == other.metrics
    assert other.against is not None and other.against["gIoU"].interval == (0.0, 0.0)


def test_the_page_is_made_of_the_figures_and_escapes_what_it_is_told() -> None:
    full, half = table([4, 0, 4, 0]), table([2, 0, 2, 0])
    found = compare_systems({"grpo": [answers(0, full)], "other": [answers(0, half)]}, "grpo", SAYS)
    assert system_rows(found)[1][:4] == ["grpo", "prompter train", "-", "1"]
    assert len(system_rows(found)[0]) == 4 + len(METRICS)
    assert difference_rows(found)[1][4] == "-25.00 [-25.00, -25.00]"
    assert axis_rows(found, found.axes[0])[0] == ["system", "none (2 on 2)", "one (2 on 2)"]
    page = systems_page(HOSTILE, found, HOSTILE, HOSTILE, [])
    assert HOSTILE not in page and "-25.00<small>[-25.00, -25.00]</small>" in page
