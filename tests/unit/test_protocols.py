"""Every profile agrees with a plain re-statement of its reference rule on 10,000 random cases.

The re-statements below loop over queries and masks and share nothing with `eval/protocols`. Masks
are drawn at the protocol's own resolution; resizing is tested apart, against index arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from envs.masks import encode_rle
from envs.rollout import Rollout
from eval.protocols import PROTOCOLS, apply, get_protocols
from eval.queries import Areas, QueryTable, build_table
from eval.views import MaskPair, View, count, resize_long_side, resize_square
from prompter.errors import UserError
from prompter.types import Box, FailureKind, Instance, ParseFailure, PromptSet

SIDE = 6
CASES, PER_SET = 10_000, 50


@dataclass
class Case:
    """One query: what was asked for, what was answered, what the segmenter made of it."""

    target: np.ndarray
    ignore: np.ndarray | None
    answer: PromptSet | ParseFailure
    prediction: np.ndarray  # all False unless the answer names an instance

    @property
    def parsed(self) -> bool:
        return isinstance(self.answer, PromptSet)

    @property
    def instances(self) -> int:
        return len(self.answer) if isinstance(self.answer, PromptSet) else -1

    @property
    def box(self) -> Box:
        assert isinstance(self.answer, PromptSet)
        box = self.answer.instances[0].box
        assert box is not None
        return box

    def rollout(self, number: int) -> Rollout:
        return Rollout(
            sample_id=str(number),
            dataset="random",
            split="test",
            image_id=str(number // 2),
            image_size=(SIDE, SIDE),
            query="",
            target=encode_rle(self.target),
            completion="",
            answer=self.answer,
            prediction=encode_rle(self.prediction) if self.parsed else None,
            ignore=None if self.ignore is None else encode_rle(self.ignore),
        )


def draw_case(generator: np.random.Generator) -> Case:
    """Draw a query: empty and full masks, ignores, failed parses, all combinations."""
    density = generator.choice([0.0, 0.1, 0.5, 1.0], p=[0.3, 0.2, 0.4, 0.1])
    target = generator.random((SIDE, SIDE)) < density
    ignore = generator.random((SIDE, SIDE)) < 0.3 if generator.random() < 0.3 else None
    prediction = np.zeros((SIDE, SIDE), dtype=bool)
    kind = generator.choice(["targets", "none", "failed"], p=[0.6, 0.25, 0.15])
    if kind == "failed":
        return Case(target, ignore, ParseFailure(FailureKind.NOT_JSON, "", ""), prediction)
    if kind == "none":
        return Case(target, ignore, PromptSet(), prediction)
    style = generator.choice(["random", "exact", "nothing"], p=[0.6, 0.3, 0.1])
    if style == "random":
        prediction = generator.random((SIDE, SIDE)) < generator.choice([0.1, 0.5, 0.9])
    elif style == "exact":
        prediction = target.copy()
    x1, y1 = generator.uniform(-1, SIDE - 1.5, 2)
    box = (x1, y1, *(np.array([x1, y1]) + generator.uniform(0.5, SIDE, 2)))
    return Case(target, ignore, PromptSet((Instance(box=tuple(float(v) for v in box)),)), prediction)


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
        )
        areas: dict[View, Areas] = dict(table.areas)
        areas.update({view: table.areas[stand_in] for view, stand_in in plain.items()})
        made.append((cases, replace(table, areas=areas)))
    return made


def restate_strict(cases: list[Case]) -> dict[str, float | None]:
    scores, both_sum, either_sum = [], 0, 0
    right_none = right_some = empties = targeted = 0
    for case in cases:
        counted = np.ones((SIDE, SIDE), bool) if case.ignore is None else ~case.ignore
        both = int((case.prediction & case.target & counted).sum())
        either = int(((case.prediction | case.target) & counted).sum())
        both_sum, either_sum = both_sum + both, either_sum + either
        if case.target.any():
            targeted += 1
            right_some += case.instances > 0
            if case.parsed:
                scores.append(both / either if either else 1.0)
            else:
                scores.append(0.0)
        else:
            empties += 1
            right_none += case.instances == 0
            scores.append(1.0 if case.instances == 0 else 0.0)
    result: dict[str, float | None] = {
        "gIoU": sum(scores) / len(scores),
        "cIoU": both_sum / either_sum if either_sum else None,
        "N-acc": right_none / empties if empties else None,
        "T-acc": right_some / targeted if targeted else None,
    }
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        result[f"P@{threshold}"] = sum(score >= threshold for score in scores) / len(scores)
    return result


def two_class_counts(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Background and foreground intersection and union; pixels of value 255 leave both images."""
    output = case.prediction.astype(int)
    target = case.target.astype(int)
    if case.ignore is not None:
        target[case.ignore] = 255
        output[case.ignore] = 255
    agree = output[output == target]
    both = np.array([(agree == 0).sum(), (agree == 1).sum()], float)
    area_output = np.array([(output == 0).sum(), (output == 1).sum()], float)
    area_target = np.array([(target == 0).sum(), (target == 1).sum()], float)
    return both, area_output + area_target - both


def restate_lisa(cases: list[Case]) -> dict[str, float | None]:
    both_sum, either_sum, iou_sum, sentences = np.zeros(2), np.zeros(2), np.zeros(2), 0
    for first in range(0, len(cases), 2):  # two sentences share an image and are averaged first
        image = cases[first : first + 2]
        accumulated = np.zeros(2)
        for case in image:
            both, either = two_class_counts(case)
            both_sum += both
            either_sum += either
            accumulated += both / (either + 1e-5)
            accumulated[either == 0] += 1.0
        iou_sum += accumulated / len(image) * len(image)
        sentences += len(image)
    return {
        "gIoU": (iou_sum / (sentences + 1e-5))[1],
        "cIoU": (both_sum / (either_sum + 1e-10))[1],
    }


def restate_segearth(cases: list[Case]) -> dict[str, float | None]:
    both_sum, either_sum, ious = np.zeros(2), np.zeros(2), []
    hits = dict.fromkeys((0.5, 0.6, 0.7, 0.8, 0.9), 0)
    for case in cases:
        both, either = two_class_counts(case)
        iou = both / (either + 1e-5)
        iou[either == 0] = 1.0
        both_sum += both
        either_sum += either
        ious.append(iou[1])
        for threshold in hits:
            hits[threshold] += bool(iou[1] > threshold)
    return {
        "gIoU": sum(ious) / len(ious),
        "cIoU": (both_sum / (either_sum + 1e-10))[1],
        **{f"P@{threshold}": count / len(cases) for threshold, count in hits.items()},
    }


def restate_rmsin(cases: list[Case]) -> dict[str, float | None]:
    cumulated_both = cumulated_either = 0
    ious = []
    for case in cases:
        both = np.sum(np.logical_and(case.prediction, case.target))
        either = np.sum(np.logical_or(case.prediction, case.target))
        ious.append(0.0 if either == 0 else both * 1.0 / either)
        cumulated_both += both
        cumulated_either += either
    return {
        "gIoU": float(np.mean(ious)),
        "cIoU": cumulated_both / cumulated_either if cumulated_either else None,
        **{f"P@{t}": sum(iou >= t for iou in ious) / len(ious) for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
    }


def restate_think2seg(cases: list[Case]) -> dict[str, float | None]:
    reward_sum = 0.0
    both_sum = either_sum = valid = predictions = hits = 0
    for case in cases:
        no_target = not case.target.any()
        mask = both = either = None
        reward = 0.0
        if no_target:
            if case.parsed:
                reward = 1.0 if case.instances == 0 else 0.0
                mask = np.zeros_like(case.target)
        elif case.instances > 0:
            mask = case.prediction
            both, either = (mask & case.target).sum(), (mask | case.target).sum()
            reward = both / either if either > 0 else 0.0
        reward_sum += reward
        if mask is not None and both is not None and either is not None:
            both_sum, either_sum, valid = both_sum + both, either_sum + either, valid + 1
        elif mask is not None and not mask.sum():
            valid += 1
        else:
            either_sum += case.target.sum()
        if mask is not None:
            predictions += 1
            hits += reward >= 0.5
    return {
        "gIoU": reward_sum / len(cases) if valid else 0.0,
        "cIoU": both_sum / either_sum if valid and either_sum > 0 else 0.0,
        "P@0.5": hits / predictions if predictions else 0.0,
    }


def restate_geo(cases: list[Case]) -> dict[str, float | None]:
    ious, both_sum, either_sum = [], 0, 0
    for case in cases:
        both, either = 0, int(case.target.sum())
        if case.instances > 0:
            clipped = np.zeros_like(case.prediction)
            x1, y1, x2, y2 = (int(value) for value in case.box)
            x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, SIDE), min(y2, SIDE)
            if x1 < x2 and y1 < y2:
                clipped[y1:y2, x1:x2] = case.prediction[y1:y2, x1:x2]
            both, either = int((clipped & case.target).sum()), int((clipped | case.target).sum())
        ious.append(both / either if either > 0 else 0)
        both_sum, either_sum = both_sum + both, either_sum + either
    return {"gIoU": float(np.mean(ious)), "cIoU": both_sum / either_sum if either_sum > 0 else 0}


def restate_visionreasoner(cases: list[Case]) -> dict[str, float | None]:
    ious, both_sum, either_sum = [], 0, 0
    for case in cases:
        if case.parsed:
            both = int((case.prediction & case.target).sum())
            either = int((case.prediction | case.target).sum())
        else:
            both, either = 0, int(case.target.sum())
        ious.append(both / either if either > 0 else 0)
        both_sum, either_sum = both_sum + both, either_sum + either
    return {"gIoU": float(np.mean(ious)), "cIoU": both_sum / either_sum if either_sum > 0 else 0}


def restate_rela(cases: list[Case]) -> dict[str, float | None]:
    iou_sum, both_sum, either_sum, empties, targeted = 0.0, 0, 0, 0, 0
    right_none = right_some = 0
    hits = {0.7: 0, 0.8: 0, 0.9: 0}
    for case in cases:
        both = int((case.prediction & case.target).sum())
        either = int((case.prediction | case.target).sum())
        says_none = case.instances == 0
        if not case.target.any():
            empties += 1
            if says_none:
                right_none += 1
                iou_sum += 1
            else:
                either_sum += either
        else:
            targeted += 1
            if says_none:
                both = 0
            elif case.parsed:
                right_some += 1
            iou = both / either
            iou_sum += iou
            both_sum, either_sum = both_sum + both, either_sum + either
            for threshold in hits:
                hits[threshold] += iou >= threshold
    return {
        "gIoU": iou_sum / len(cases),
        "cIoU": both_sum / either_sum if either_sum else None,
        "T-acc": right_some / targeted if empties and targeted else 0,
        "N-acc": right_none / empties if empties else 0,
        **{f"P@{t}": count / targeted if targeted else None for t, count in hits.items()},
    }


RESTATEMENTS: dict[str, Callable[[list[Case]], dict[str, float | None]]] = {
    "strict": restate_strict,
    "lisa": restate_lisa,
    "segearth-r1": restate_segearth,
    "rmsin": restate_rmsin,
    "think2seg": restate_think2seg,
    "geo-r1": restate_geo,
    "visionreasoner": restate_visionreasoner,
    "rela": restate_rela,
}


def test_every_protocol_has_a_restatement() -> None:
    assert set(RESTATEMENTS) == set(PROTOCOLS)


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
    values = {name: apply(PROTOCOLS[name], table)["gIoU"].value() for name in PROTOCOLS}
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
    table = build_table([good, failed], list(View))
    for name, protocol in PROTOCOLS.items():
        assert apply(protocol, table)["gIoU"].value() == pytest.approx(1.0, abs=1e-4), name


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
    names = list(PROTOCOLS)
    rows = ["| case | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, case in documented_cases().items():
        rollout = replace(case.rollout(0), image_size=(10, 10))
        plain = build_table([rollout], (View.NATIVE, View.NATIVE_WITH_IGNORED, View.NATIVE_CLIPPED))
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
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for row in documented_table():
        assert row in page, f"docs/protocols.md lacks or contradicts: {row}"
    for protocol in PROTOCOLS.values():
        for quirk in protocol.quirks:
            assert quirk in page, f"docs/protocols.md lacks: {quirk}"
