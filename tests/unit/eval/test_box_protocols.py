"""Rules about boxes: what the original code gave for the same texts, and what must hold of any rollouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.masks import encode_rle
from envs.rollout import Rollout
from eval.box_cases import BoxCase, BoxJudge
from eval.protocols import PROTOCOLS, apply, lmms_eval_refcoco, needs, vrsbench
from eval.query_table import QueryTable, build_table
from prompter.action import ActionSpace
from prompter.coords import Frame
from prompter.parse import parse_completion
from prompter.types import Box, PromptSet

WH, TARGET = (200, 100), (20.0, 10.0, 60.0, 50.0)
JUDGES: dict[str, BoxJudge] = {
    name: protocol.judge for name, protocol in PROTOCOLS.items() if protocol.judge is not None
}
TEXT_RULES = ("lmms-eval-refcoco", "lmms-eval-groundingme", "lmms-eval-multihop", "vlmevalkit-refcoco")
UNREAD = None
# Text -> the IoU that the originals gave, run at the commits the profiles name, on an image of 200 x 100 and
# a target of 20, 10, 60, 50; UNREAD where their mean leaves the answer out. In the order of TEXT_RULES.
BY_THE_ORIGINALS: dict[str, tuple[float | None, ...]] = {
    '[{"bbox_2d":[100,100,300,500]}]': (1.0, 0.9965, 1.0, 1.0),
    '[{"bbox_2d":[20,10,60,50]}]': (1.0, 1.0, 0.0, 0.0),
    '[{"bbox_2d":[0.1,0.1,0.3,0.5]}]': (0.0, 1.0, 1.0, 1.0),
    '[{"bbox_2d":[700,700,900,900]},{"bbox_2d":[100,100,300,500]}]': (1.0, 0.9965, 0.0, 0.0),
    '[{"bbox_2d":[100,100,300,500]},{"bbox_2d":[700,700,900,900]}]': (1.0, 0.0, 1.0, 1.0),
    '[{"bbox_2d":[300,500,100,100]}]': (0.0, 0.0, UNREAD, 1.0),
    '[{"bbox_2d":[100,100,300,500': (1.0, 0.9965, UNREAD, 0.0),
    "it lies at 100, 100, 300, 500": (1.0, 0.9965, UNREAD, 1.0),
    "it is at (150,300).": (0.0, 0.0, UNREAD, 0.0),
    "[]": (0.0, 0.0, UNREAD, 0.0),
}


def strictly(text: str) -> float:
    """The IoU that `strict-boxes` counts, of a policy that speaks thousandths."""
    return float(np.nan_to_num(table_of([rollout_of(0, text, TARGET)]).box_ious[0]))


def rollout_of(number: int, text: str, target: Box | None, wh: tuple[int, int] = WH) -> Rollout:
    """A rollout of a policy that speaks thousandths; its mask is its boxes, filled."""
    reading = parse_completion(text, action_space=ActionSpace(kind="box"), frame=Frame("thousandths", wh, wh))
    target_mask, mask = (np.zeros(wh[::-1], dtype=bool) for _ in range(2))
    if target is not None:
        x1, y1, x2, y2 = (round(value) for value in target)
        target_mask[y1:y2, x1:x2] = True
    for instance in reading.instances if isinstance(reading, PromptSet) else ():
        assert instance.box is not None
        x1, y1, x2, y2 = (round(value) for value in instance.box)
        mask[y1:y2, x1:x2] = True
    return Rollout(
        sample_id=str(number),
        dataset="random",
        split="test",
        image_id=str(number // 2),
        image_wh=wh,
        query="",
        target=encode_rle(target_mask),
        completion=text,
        reading=reading,
        prediction=encode_rle(mask) if isinstance(reading, PromptSet) else None,
    )


def table_of(rollouts: list[Rollout]) -> QueryTable:
    return build_table(rollouts, *needs(PROTOCOLS.values()))


@pytest.mark.parametrize("text", BY_THE_ORIGINALS)
def test_the_originals_give_the_same(text: str) -> None:
    for name, wanted in zip(TEXT_RULES, BY_THE_ORIGINALS[text], strict=True):
        verdict = JUDGES[name](BoxCase(text, None, WH, TARGET))
        assert verdict.iou == pytest.approx(wanted or 0.0, abs=1e-4), name
        if name == "lmms-eval-multihop":
            assert verdict.read == (wanted is not UNREAD)


def test_a_rejection_is_right_without_four_numbers() -> None:
    judge = JUDGES["lmms-eval-groundingme"]
    for text, right in [
        ("[]", 1),
        ("I cannot say, 12", 1),
        ('{"bbox_2d": null}', 1),
        ("[1,2,3,4]", 0),
        ('{"bbox_2d": null} 1 2 3 4', 1),
        ('"bbox_2d": null, 1 2 3 4', 0),
    ]:
        assert judge(BoxCase(text, None, WH, None)).iou == right, text


def test_nonobj_takes_an_unreadable_answer_for_no_target() -> None:
    texts = ["[]", "nothing of the kind", '[{"bbox_2d":[100,100,300,500]}]']
    table = table_of([rollout_of(number, text, None) for number, text in enumerate(texts)])
    lenient = apply(PROTOCOLS["visionreasoner-nonobj"], table)
    assert lenient["gIoU"].numerator.tolist() == [1, 1, 0]
    assert lenient["N-acc"].value() == pytest.approx(2 / 3)
    assert apply(PROTOCOLS["strict"], table)["N-acc"].value() == pytest.approx(1 / 3)


def test_vrsbench_counts_the_last_unit_in() -> None:
    """Two boxes of 2 x 2 hundredths that share a column: 1/3 of them truly, 6/12 by that rule."""
    first, second = np.array([10, 10, 12, 12]), np.array([11, 10, 13, 12])
    assert vrsbench.inclusive_iou(first, second) == pytest.approx(6 / 12)
    case = BoxCase("", [(20.0, 10.0, 24.0, 12.0)], WH, (22.0, 10.0, 26.0, 12.0))
    assert vrsbench.judge(case).iou == pytest.approx(6 / 12)


def test_a_set_of_boxes_without_masks_is_scored() -> None:
    text = '[{"bbox_2d":[100,100,300,500]}]'
    table = table_of([replace(rollout_of(0, text, TARGET), target=None, boxes=(TARGET,))])
    for name, protocol in PROTOCOLS.items():
        counted = max(ratio.denominator.sum() for ratio in apply(protocol, table).values())
        assert counted == (0 if protocol.needs_masks else 1), name
        if not protocol.needs_masks and name not in ("strict",):
            assert apply(protocol, table)["box-IoU"].value() == pytest.approx(1.0, abs=0.01), name


def test_without_the_judge_a_table_is_refused() -> None:
    table = build_table([rollout_of(0, "[]", TARGET)])
    with pytest.raises(ValueError, match="without the judge"):
        apply(PROTOCOLS["lmms-eval-refcoco"], table)


numbers = st.one_of(
    st.integers(-20, 1100).map(str),
    st.floats(0, 1).map(lambda value: f"{value:.3f}"),
    st.sampled_from(["1e400", "-1e400", "NaN", "Infinity", "9" * 400, "'3'", '"7"', "null", "true", "[1]"]),
)
lists = st.lists(numbers, min_size=3, max_size=5).map(lambda parts: f"[{','.join(parts)}]")
answers = st.lists(
    st.tuples(st.sampled_from(['{"bbox_2d":%s}', '{"box":%s}', '{"a":{"bbox":%s}}', "%s"]), lists).map(
        lambda pair: pair[0] % pair[1]
    ),
    max_size=3,
).map(",".join)
texts = st.one_of(
    answers.map(lambda text: f"[{text}]"),
    answers.map(lambda text: f"```json\n[{text}]\n``` and {text}"),
    answers,
    st.text(),
    st.just("[" * 5000),
    st.just('{"a":' * 3000),
)
extents = st.tuples(st.integers(1, 60), st.integers(1, 60))
corners = st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(1, 100), st.integers(1, 100)).map(
    lambda one: (one[0], one[1], one[0] + one[2], one[1] + one[3])
)


@pytest.mark.parametrize("name", sorted(JUDGES))
@settings(max_examples=60, deadline=None)
@given(text=texts, wh=st.tuples(st.integers(1, 3000), st.integers(1, 3000)), empty=st.booleans())
def test_any_text_gets_a_verdict_within_bounds(
    name: str, text: str, wh: tuple[int, int], empty: bool
) -> None:
    target = None if empty else (0.0, 0.0, wh[0] / 2, wh[1] / 2)
    for boxes in (None, [], [(0.0, 0.0, 1.0, 1.0)]):
        verdict = JUDGES[name](BoxCase(text, boxes, wh, target))
        assert 0.0 <= verdict.iou <= 1.0


def written(boxes: list[tuple[int, int, int, int]]) -> str:
    return "[" + ",".join(f'{{"bbox_2d":[{a},{b},{c},{d}]}}' for a, b, c, d in boxes) + "]"


@settings(max_examples=60, deadline=None)
@given(boxes=st.lists(corners, min_size=1, max_size=4), more=corners, seed=st.integers(0, 99))
def test_best_of_both_frames_never_minds_order_or_more_boxes(
    boxes: list[tuple[int, int, int, int]], more: tuple[int, int, int, int], seed: int
) -> None:
    def score(chosen: list[tuple[int, int, int, int]]) -> float:
        return lmms_eval_refcoco.judge(BoxCase(written(chosen), None, WH, TARGET)).iou

    shuffled = np.random.default_rng(seed).permutation(len(boxes))
    assert score([boxes[index] for index in shuffled]) == score(boxes)
    assert score([*boxes, more]) >= score(boxes)
    # Of one box, the reading in the policy's own frame is among those that are tried.
    assert score(boxes[:1]) >= strictly(written(boxes[:1])) - 1e-12


def random_rollouts(seed: int, count: int = 24) -> list[Rollout]:
    """Rollouts near and far from their targets, with several boxes, none, and answers that do not parse."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        x1, y1 = (int(value) for value in generator.integers(0, 80, 2))
        across, down = (int(value) for value in generator.integers(2, 20, 2))
        target = None if generator.random() < 0.2 else (x1, y1, x1 + across, y1 + down)
        near = [5 * x1, 10 * y1, 5 * (x1 + across), 10 * (y1 + down)]
        boxes = []
        for _ in range(generator.choice([0, 1, 1, 1, 2, 3])):
            moved = np.clip(np.array(near) + generator.integers(-30, 31, 4), 0, 1000)
            boxes.append((*np.minimum(moved[:2], moved[2:] - 1).tolist(), *moved[2:].tolist()))
        text = written([tuple(max(0, int(value)) for value in box) for box in boxes])  # type: ignore[misc]
        broken: list[Callable[[str], str]] = [str, str, str, lambda one: one[:-3], lambda one: f"so {one} it"]
        text = broken[int(generator.integers(len(broken)))](text)
        made.append(rollout_of(number, text, target))
    return made


@pytest.mark.parametrize("seed", range(12))
def test_figures_are_bounded_and_do_not_mind_the_order(seed: int) -> None:
    table = table_of(random_rollouts(seed))
    order = np.random.default_rng(seed).permutation(len(table))
    for name, protocol in PROTOCOLS.items():
        figures, other = apply(protocol, table), apply(protocol, table.select(order))
        for metric, ratio in figures.items():
            value = ratio.value()
            assert value is None or 0.0 <= value <= 1.0, (name, metric)
            assert other[metric].value() == (None if value is None else pytest.approx(value, abs=1e-12))
        for row in range(len(table)):
            for metric, ratio in apply(protocol, table.select(np.array([row]))).items():
                value = ratio.value()
                assert value is None or 0.0 <= value <= 1.0, (name, metric, row)


@pytest.mark.parametrize("seed", range(12))
def test_lenient_rules_are_never_below_what_they_loosen(seed: int) -> None:
    table = table_of(random_rollouts(100 + seed))

    def value(name: str, metric: str) -> float:
        return apply(PROTOCOLS[name], table)[metric].value() or 0.0

    slack = 1e-9
    assert value("star", "gIoU") >= value("strict", "gIoU") - slack  # nothing is ignored here
    assert value("star", "gIoU") >= value("visionreasoner-nonobj", "gIoU") - slack
    assert value("visionreasoner-nonobj", "gIoU") >= value("visionreasoner", "gIoU") - slack
    assert value("visionreasoner-nonobj", "N-acc") >= value("strict", "N-acc") - slack
    counted = apply(PROTOCOLS["lmms-eval-multihop"], table)["box-IoU"]
    assert counted.value() is not None
    everyone = counted.numerator.sum() / (table.objects == 1).sum()
    assert value("lmms-eval-multihop", "box-IoU") >= everyone - slack
    # Whatever multihop can read, the rule that digs for boxes can read too.
    read = {name: table.verdicts[name].read for name in ("lmms-eval-refcoco", "lmms-eval-multihop")}
    assert (read["lmms-eval-refcoco"] >= read["lmms-eval-multihop"]).all()


def test_several_objects_are_left_to_the_rules_that_know_them() -> None:
    text = '[{"bbox_2d":[100,100,300,500]}]'
    one = rollout_of(0, text, TARGET)
    assert one.target is not None
    table = table_of([one, replace(one, instances=(one.target, one.target))])
    assert table.objects.tolist() == [1, 2]
    for name in ("strict-boxes", *TEXT_RULES, "vrsbench"):
        assert apply(PROTOCOLS[name], table)["box-acc@0.5"].denominator.sum() == 1, name


@settings(max_examples=60, deadline=None)
@given(first=corners, second=corners)
def test_a_unit_on_every_side_never_lowers_an_overlap(
    first: tuple[int, int, int, int], second: tuple[int, int, int, int]
) -> None:
    one, other = np.array(first), np.array(second)
    sides = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    both = float(np.prod(sides))
    plain = both / (float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - both)
    assert vrsbench.inclusive_iou(one, other) >= plain - 1e-12


def documented_rows() -> list[str]:
    """One Markdown row a text: the IoU under each rule, and under `strict-boxes`."""
    rows = ["| text of the answer | strict-boxes | " + " | ".join(TEXT_RULES) + " |"]
    rows.append("|---" * (len(TEXT_RULES) + 2) + "|")
    for text in BY_THE_ORIGINALS:
        verdicts = [JUDGES[name](BoxCase(text, None, WH, TARGET)) for name in TEXT_RULES]
        cells = [f"{strictly(text):.2f}"]
        for name, verdict in zip(TEXT_RULES, verdicts, strict=True):
            left_out = name == "lmms-eval-multihop" and not verdict.read
            cells.append("left out" if left_out else f"{verdict.iou:.2f}")
        rows.append(f"| `{text}` | " + " | ".join(cells) + " |")
    return rows


def test_the_documentation_says_what_the_code_does() -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for row in documented_rows():
        assert row in page, f"docs/protocols.md lacks or contradicts: {row}"
