"""Every profile agrees with a plain re-statement of its reference rule on 10,000 random cases.

The re-statements are in `tests/fixtures/restatements.py`. Resizing is tested apart, against index
arithmetic. Rules that look at boxes alone are in `test_box_protocols.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.mask_views import MaskPair, View, count, resize_long_side, resize_square
from eval.protocols import PROTOCOLS, apply, get_protocols, needs
from eval.query_table import Areas, QueryTable, build_table
from prompter.errors import UserError
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet
from tests.fixtures.restatements import RESTATEMENTS, SIDE, Case, draw_case

CASES, PER_SET = 10_000, 50
MASK_RULES = {
    name: protocol for name, protocol in PROTOCOLS.items() if protocol.needs_masks or name == "strict"
}
JUDGES = needs(MASK_RULES.values())[1]


@pytest.fixture(scope="module")
def sets() -> list[tuple[list[Case], QueryTable]]:
    """10,000 cases in sets of 50, with their tables; each view's counts are of the masks as drawn."""
    generator = np.random.default_rng(0)
    plain = {View.PADDED_1024: View.NATIVE, View.SQUARE_480: View.NATIVE_WITH_IGNORED}
    plain[View.SQUARE_840] = View.NATIVE_WITH_IGNORED
    made = []
    for _ in range(CASES // PER_SET):
        cases = [draw_case(generator) for _ in range(PER_SET)]
        table = build_table(
            (case.rollout(number) for number, case in enumerate(cases)),
            (View.NATIVE, View.NATIVE_WITH_IGNORED, View.NATIVE_CLIPPED),
            JUDGES,
        )
        areas: dict[View, Areas] = dict(table.areas)
        areas.update({view: table.areas[stand_in] for view, stand_in in plain.items()})
        made.append((cases, replace(table, areas=areas)))
    return made


def test_every_protocol_has_a_restatement() -> None:
    assert set(RESTATEMENTS) == set(MASK_RULES)


@pytest.mark.parametrize("name", sorted(RESTATEMENTS))
def test_agrees_with_the_reference_rule(name: str, sets: list[tuple[list[Case], QueryTable]]) -> None:
    assert sum(len(cases) for cases, _ in sets) == CASES
    for cases, table in sets:
        ratios = apply(PROTOCOLS[name], table)
        for metric, wanted in RESTATEMENTS[name](cases).items():
            found = ratios[metric].value()
            if wanted is None:
                assert found is None, metric
            else:
                assert found == pytest.approx(float(wanted), abs=1e-12), metric


@pytest.mark.parametrize("name", sorted(RESTATEMENTS))
def test_agrees_on_single_queries(name: str, sets: list[tuple[list[Case], QueryTable]]) -> None:
    """One query a set: every corner (no targeted query, no empty one, nothing parsed) is met."""
    cases, table = sets[0]
    for number, case in enumerate(cases):
        ratios = apply(PROTOCOLS[name], table.select(np.array([number])))
        for metric, wanted in RESTATEMENTS[name]([case]).items():
            found = ratios[metric].value()
            assert found == (None if wanted is None else pytest.approx(float(wanted), abs=1e-12)), metric


def test_the_profiles_really_differ(sets: list[tuple[list[Case], QueryTable]]) -> None:
    _, table = sets[0]
    values = {name: apply(protocol, table)["gIoU"].value() for name, protocol in MASK_RULES.items()}
    assert len({round(value, 6) for value in values.values() if value is not None}) >= 5


class TestViews:
    shapes = ((7, 5), (5, 7), (9, 9), (30, 11), (1, 40), (1500, 1100))

    @pytest.mark.parametrize("shape", shapes)
    def test_long_side_1024(self, shape: tuple[int, int]) -> None:
        mask = np.random.default_rng(1).random(shape) < 0.5
        height, width = shape
        scale = 1024 / max(shape)
        rows, columns = (1024 if n == max(shape) else max(1, int(n * scale)) for n in shape)
        picked_rows = np.minimum((np.arange(rows) * (1 / (rows / height))).astype(int), height - 1)
        picked_columns = np.minimum((np.arange(columns) * (1 / (columns / width))).astype(int), width - 1)
        assert np.array_equal(resize_long_side(mask, 1024), mask[np.ix_(picked_rows, picked_columns)])

    @pytest.mark.parametrize("shape", shapes)
    @pytest.mark.parametrize("side", [480, 840])
    def test_square(self, shape: tuple[int, int], side: int) -> None:
        mask = np.random.default_rng(2).random(shape) < 0.5
        rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in shape)
        assert np.array_equal(resize_square(mask, side), mask[np.ix_(rows, columns)])

    def test_ignored_pixels_count_only_where_the_reference_code_counts_them(self) -> None:
        ones, none = np.ones((4, 4), bool), np.zeros((4, 4), bool)
        pair = MaskPair(prediction=ones, target=none, ignore=ones)
        assert count(pair, View.NATIVE).union == 0
        assert count(pair, View.PADDED_1024).union == 0
        assert count(pair, View.NATIVE_WITH_IGNORED).union == 16
        assert count(pair, View.SQUARE_480).union == 480 * 480
        assert count(pair, View.SQUARE_840).union == 840 * 840

    def test_each_instance_is_cut_to_its_own_box(self) -> None:
        ones, none = np.ones((4, 4), bool), np.zeros((4, 4), bool)
        boxes = [(0.0, 0.0, 2.9, 2.0), (2.0, 2.0, 9.0, 9.0)]
        kept = MaskPair(ones, none, instances=[(ones, boxes[0]), (none, boxes[1])], boxes=boxes)
        assert count(kept, View.NATIVE_CLIPPED).predicted == 4
        assert count(MaskPair(ones, none, boxes=boxes), View.NATIVE_CLIPPED).predicted == 8
        assert count(MaskPair(ones, none), View.NATIVE_CLIPPED).predicted == 16


def test_names_are_checked() -> None:
    assert [one.name for one in get_protocols(["rela", "strict", "rela"])] == ["rela", "strict"]
    with pytest.raises(UserError, match="Did you mean 'think2seg'"):
        get_protocols(["think2sgeg"])
    with pytest.raises(UserError, match="at least one protocol"):
        get_protocols([])


def test_a_failed_segmenter_leaves_the_query_out_everywhere() -> None:
    case = Case(
        np.ones((SIDE, SIDE), bool), None, PromptSet((Instance(box=(0, 0, 6, 6)),)), np.ones((6, 6), bool)
    )
    good = case.rollout(0)
    failed = replace(case.rollout(1), prediction=None, executor_error="the actor died")
    table = build_table([good, failed], *needs(PROTOCOLS.values()))
    for name, protocol in MASK_RULES.items():
        assert apply(protocol, table)["gIoU"].value() == pytest.approx(1.0, abs=1e-4), name
    for name, protocol in PROTOCOLS.items():
        assert all(len(ratio.numerator) == 1 for ratio in apply(protocol, table).values()), name


def documented_cases() -> dict[str, Case]:
    """The cases of docs/protocols.md: a 10 x 10 image, a target of 40 pixels, a prediction of 20."""
    target, prediction, none = (np.zeros((10, 10), bool) for _ in range(3))
    target[0:4] = True  # 40 pixels
    prediction[3:5] = True  # 20 pixels, 10 of them on the target
    ignore = np.zeros((10, 10), bool)
    ignore[4] = True  # the 10 pixels of the prediction that miss the target
    some = PromptSet((Instance(box=(0, 0, 10, 10)),))
    tight = PromptSet((Instance(box=(0, 0, 10, 4)),))
    failed = ParseFailure(FailureKind.NOT_JSON, "", "")
    return {
        "target, 20 pixels predicted, 10 right": Case(target, None, some, prediction),
        "the same, the 10 wrong ones under ignore": Case(target, ignore, some, prediction),
        "the same, outside the answer's box": Case(target, None, tight, prediction),
        "target, answer `[]`": Case(target, None, PromptSet(), none),
        "target, completion does not parse": Case(target, None, failed, none),
        "no target, answer `[]`": Case(none, None, PromptSet(), none),
        "no target, 20 pixels predicted": Case(none, None, some, prediction),
        "no target, an answer whose mask is empty": Case(none, None, some, none),
        "no target, completion does not parse": Case(none, None, failed, none),
    }


def documented_table() -> list[str]:
    """One Markdown row a case: IoU, and what enters the sums of intersections and unions."""
    names = list(MASK_RULES)
    rows = ["| case | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, case in documented_cases().items():
        rollout = replace(case.rollout(0), image_wh=(10, 10))
        views = (View.NATIVE, View.NATIVE_WITH_IGNORED, View.NATIVE_CLIPPED)
        plain = build_table([rollout], views, JUDGES)
        areas = dict(plain.areas)
        areas[View.PADDED_1024] = areas[View.NATIVE]
        areas[View.SQUARE_480] = areas[View.SQUARE_840] = areas[View.NATIVE_WITH_IGNORED]
        cells = []
        for name in names:
            ratios = apply(PROTOCOLS[name], replace(plain, areas=areas))
            both, either = ratios["cIoU"].numerator[0], ratios["cIoU"].denominator[0]
            cells.append(f"{ratios['gIoU'].numerator[0]:.2f}, {both:.0f}/{either:.0f}")
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return rows


def test_the_documentation_says_what_the_code_does() -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for row in documented_table():
        assert row in page, f"docs/protocols.md lacks or contradicts: {row}"
    for protocol in PROTOCOLS.values():
        for quirk in protocol.quirks:
            assert quirk in page, f"docs/protocols.md lacks: {quirk}"
