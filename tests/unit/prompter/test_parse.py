"""Reading answers: what was rendered is read back, wrapping is forgiven, faults have one kind each."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompter.action import ActionSpace, write_answer
from prompter.coords import Frame
from prompter.dialects import DIALECTS
from prompter.dialects.base import FREE
from prompter.parse import parse_completion
from prompter.types import (
    FailureKind,
    Instance,
    ParseFailure,
    PromptSet,
    reading_from_json,
    reading_to_json,
)
from tests.fixtures.clock import own_seconds

SPACE = ActionSpace(kind="any", positive_points=2, negative_points=1, max_instances=3)
FRAME = Frame("thousandths", (500, 250), (64, 64))
BOX = '{"bbox_2d":[100,100,200,300]}'
READ_BOX = PromptSet((Instance((50.0, 25.0, 100.0, 75.0)),))
POINT = '{"positive_points":[[100,100]]}'
READ_POINT = PromptSet((Instance(None, ((50.0, 25.0),)),))


def read(
    text: str, *, space: ActionSpace = SPACE, frame: Frame = FRAME, cut: bool = False
) -> PromptSet | ParseFailure:
    return parse_completion(text, action_space=space, frame=frame, finish_reason="length" if cut else "stop")


sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
frames = st.builds(Frame, st.sampled_from(["absolute", "thousandths"]), sizes, sizes)


@st.composite
def cases(draw: st.DrawFn) -> tuple[ActionSpace, Frame, PromptSet]:
    """An action space, a frame, and a prompt set of whole model-frame numbers that the space allows."""
    space = ActionSpace(
        kind=draw(st.sampled_from(["box", "points", "box+points", "any"])),
        positive_points=draw(st.integers(1, 3)),
        negative_points=draw(st.integers(0, 2)),
        max_instances=draw(st.integers(1, 4)),
    )
    frame = draw(frames)
    width, height = frame.extent

    def points(least: int, most: int) -> tuple[tuple[float, float], ...]:
        pair = st.tuples(st.integers(0, width), st.integers(0, height))
        drawn = draw(st.lists(pair, min_size=least, max_size=most))
        return tuple(frame.point_to_image(point) for point in drawn)

    def instance() -> Instance:
        form = draw(st.sampled_from(["box", "points", "box+points"])) if space.kind == "any" else space.kind
        box = None
        if form != "points":
            x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
            corner = (draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))
            box = frame.box_to_image((x1, y1, *corner))
        positive = () if form == "box" else points(1, space.positive_points)
        return Instance(box, positive, points(0, space.negative_points))

    count = draw(st.integers(0, space.max_instances))
    return space, frame, PromptSet(tuple(instance() for _ in range(count)))


@settings(max_examples=200)
@given(cases(), st.none() | st.text())
def test_what_is_rendered_is_read_back(case: tuple[ActionSpace, Frame, PromptSet], think: str | None) -> None:
    space, frame, prompts = case
    text = write_answer(prompts, frame, think=think)
    assert read(text, space=space, frame=frame) == prompts
    # Sampling may stop at the limit just after the answer was closed: it is an answer all the same.
    assert read(text, space=space, frame=frame, cut=True) == prompts


@given(cases(), st.data())
def test_a_cut_answer_is_truncated_or_an_answer_and_never_raises(
    case: tuple[ActionSpace, Frame, PromptSet], data: st.DataObject
) -> None:
    space, frame, prompts = case
    text = write_answer(prompts, frame)
    shortened = text[: data.draw(st.integers(0, len(text)))]
    answer = read(shortened, space=space, frame=frame, cut=True)
    if isinstance(answer, ParseFailure):
        assert answer.kind is FailureKind.TRUNCATED
        assert answer.text == shortened
    else:  # only the closing tag is missing
        assert answer == prompts


@pytest.mark.parametrize(
    "text",
    [
        f"<answer>[{BOX}]</answer>",
        f"<think>two roofs, one is red</think><answer>[{BOX}]</answer>",
        f"<think>an <answer> tag, [1, 2] and {{x}}</think>\n<answer>\n[{BOX}]\n</answer>\n",
        f"<think>left over</think>[{BOX}]",
        f"<answer>{BOX}</answer>",
        f"[{BOX}]",
        BOX,
        f"```json\n[{BOX}]\n```",
        f"```\n{BOX}```",
        f"<answer>```json\n[{BOX}]\n```</answer>",
        f"<answer>``` [{BOX}] ```</answer>",
        f"Here it is:\n```json\n[{BOX}]\n```\nI hope this helps.",
        f"<answer>[{BOX}]",
        f"<answer>[{BOX}]</answer> and so on",
        '<answer>[{"label":"roof","bbox_2d":[100,100.0,2e2,300],"score":null}]</answer>',
        f"<answer>[{BOX}]</answer> again: <answer>{BOX}</answer>",
        f"[{BOX}] {BOX}",
        '[{"label":"``` \n```","bbox_2d":[100,100,200,300]}]',
        f"```json\n[{BOX}]\n```\nIt is by the pier.",
        f"<think>or []</think>```json\n[{BOX}]\n```\nIt is by the pier.",
        f"<answer>```json\n[{BOX}]\n```\nIt is by the pier.</answer>",
        f"It is [1] by the {{north}} pier: [{BOX}], as [see above] said.",
        f"\ufeff[{BOX}]",
        f"{BOX}\n{BOX}",
        f"[{BOX}][{BOX}]",
        '[{"bbox_2d":[100,100,200,300],"label":"a\nb"}]',
        f"<think>the form is <answer>[]</answer></think>[{BOX}]",
        f"the form is <answer>[]</answer></think>[{BOX}]",
        f"<think>{POINT}</think>[{BOX}]<think>or {POINT}",
        f'As [{{"bbox_2d":[x1,y1,x2,y2]}}] asks: [{BOX}]',
        f"\\boxed{{[{BOX}]}}",
        '[{"bbox_2d":[100,100,200,300],"positive_points":null,"negative_points":[]}]',
    ],
)
def test_harmless_wrapping_is_forgiven(text: str) -> None:
    assert read(text) == READ_BOX


@pytest.mark.parametrize("text", [f"[{POINT}]", '{"positive_points":[100,100]}'])
def test_one_point_may_stand_without_its_list(text: str) -> None:
    assert read(text) == READ_POINT


@pytest.mark.parametrize(
    "text",
    [
        "<answer>[]</answer>",
        "[]",
        "```\n[]\n```",
        "<think>nothing</think>[]",
        "null",
        "<answer>null</answer>",
    ],
)
def test_an_empty_list_says_no_target(text: str) -> None:
    assert read(text) == PromptSet()


TWO_POINTS = '{"positive_points":[[1,1],[2,2]]}'

FAULTS: dict[FailureKind, list[str]] = {
    FailureKind.NO_ANSWER: [
        "",
        "   \n",
        "I see no roof.",
        "<answer></answer>",
        "<answer>``````</answer>",
        f"<think>[{BOX}]",
        f"[{BOX}]</think>",
        f"<think>```json\n[{BOX}]\n```",
        f"<think>so <answer>[{BOX}]</answer>",
        "It is near [1] or [2].",
        "````",
    ],
    FailureKind.NOT_JSON: [
        "<answer>the red roof</answer>",
        f"<answer>[{BOX}</answer>",
        f"<answer>[{BOX},]</answer>",
        "[{'bbox_2d':[1,1,2,2]}]",
        f"[{BOX}]]",
        f"{BOX}, {POINT}]",
        f'{BOX}\n{{"bbox_2d":[1,1,2}}\n{POINT}',
        '{"bbox_2d":[1,1,2,2]',
        '[{"bbox_2d":[01,1,2,2]}]',
        "[" * 100_000,
        '{"bbox_2d":[0,0,1,' + "9" * 5000 + "]}",
    ],
    FailureKind.WRONG_SHAPE: [
        "<answer>7</answer>",
        '<answer>"[]"</answer>',
        "[[]]",
        "[1,2,3]",
        "[{}]",
        '[{"box":[1,1,2,2]}]',
        '[{"bbox_2d":[1,1,2]}]',
        '[{"bbox_2d":[[1,1],[2,2]]}]',
        '[{"bbox_2d":[1,1,"2",2]}]',
        '[{"bbox_2d":[1,1,true,2]}]',
        '[{"bbox_2d":{"x1":1}}]',
        '[{"positive_points":[]}]',
        '[{"positive_points":7}]',
        '[{"positive_points":[[1,2,3]]}]',
        '[{"positive_points":[1,2,3]}]',
        '[{"positive_points":[null,null]}]',
        '[{"negative_points":[[1,1]]}]',
    ],
    FailureKind.WRONG_ACTION: [
        '[{"positive_points":[[1,1],[2,2],[3,3]]}]',
        '[{"bbox_2d":[1,1,2,2],"negative_points":[[1,1],[2,2]]}]',
    ],
    FailureKind.NOT_FINITE: [
        '[{"bbox_2d":[NaN,1,2,2]}]',
        '[{"positive_points":[[Infinity,1]]}]',
        '[{"positive_points":[[-Infinity,1]]}]',
        '[{"bbox_2d":[1,1,1e999,2]}]',
        '[{"bbox_2d":[1,1,2,2],"score":NaN}]',
    ],
    FailureKind.OUT_OF_FRAME: [
        '[{"bbox_2d":[1,1,2,1001]}]',
        '[{"bbox_2d":[-1,1,2,2]}]',
        '[{"positive_points":[[1,1000.5]]}]',
        '[{"positive_points":[[1,1]],"negative_points":[1,-1]}]',
        '{"bbox_2d":[0,0,1,' + "9" * 400 + "]}",
    ],
    FailureKind.DEGENERATE_BOX: [
        '[{"bbox_2d":[5,5,5,9]}]',
        '[{"bbox_2d":[5,5,9,5]}]',
        '[{"bbox_2d":[9,5,5,9]}]',
        '[{"bbox_2d":[0,0,5e-324,9]}]',
    ],
    FailureKind.AMBIGUOUS: [
        f"<answer>[]</answer> no, wait: <answer>[{BOX}]</answer>",
        f"[{BOX}][]",
        f"[{BOX}]\n[{POINT}]",
        f"One is {BOX}, another is {POINT}.",
        '[{"bbox_2d":[1,1,2,2],"bbox_2d":[1,1,2,3]}]',
    ],
    FailureKind.TOO_MANY: [f"[{BOX},{BOX},{BOX},{BOX}]"],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FAULTS.items() for text in texts])
def test_each_fault_has_its_kind(kind: FailureKind, text: str) -> None:
    answer = read(text)
    assert isinstance(answer, ParseFailure)
    assert (answer.kind, answer.text) == (kind, text)
    assert 0 < len(answer.message) < 300
    assert json.loads(json.dumps(answer.to_json()))["kind"] == kind.value


def test_every_kind_is_reached() -> None:
    assert set(FAULTS) | {FailureKind.TRUNCATED} == set(FailureKind)


@pytest.mark.parametrize("kind", FAULTS)
def test_only_what_may_be_an_unfinished_answer_counts_as_truncated(kind: FailureKind) -> None:
    unfinished = kind in (FailureKind.NO_ANSWER, FailureKind.NOT_JSON)
    answer = read(FAULTS[kind][0], cut=True)
    assert isinstance(answer, ParseFailure)
    assert answer.kind is (FailureKind.TRUNCATED if unfinished else kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("box", POINT), ("points", BOX), ("box+points", BOX), ("box+points", POINT), ("points", TWO_POINTS)],
)
def test_an_answer_of_another_action_space_is_a_wrong_action(kind: str, text: str) -> None:
    space = ActionSpace.model_validate({"kind": kind, "positive_points": 1})
    answer = read(text, space=space)
    assert isinstance(answer, ParseFailure) and answer.kind is FailureKind.WRONG_ACTION


def test_a_message_names_the_entry() -> None:
    answer = read(f'[{BOX},{BOX},{{"bbox_2d":[1,2]}}]')
    assert isinstance(answer, ParseFailure)
    assert answer.message == "expected 4 numbers in bbox_2d of entry 2, but got [1, 2]"


@given(st.text())
def test_no_text_raises(text: str) -> None:
    for wrapped in (text, f"<answer>{text}</answer>", f'[{{"bbox_2d":{text}}}]', json.dumps(text)):
        assert isinstance(read(wrapped), PromptSet | ParseFailure)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2000, 2000) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["bbox_2d", "positive_points", "negative_points", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(json_values)
def test_no_json_raises_and_what_is_read_lies_in_the_image(value: object) -> None:
    answer = read(json.dumps(value))
    if isinstance(answer, PromptSet):
        width, height = FRAME.image_wh
        for instance in answer.instances:
            assert SPACE.violation(instance) is None
            for x, y in (*instance.positive_points, *instance.negative_points):
                assert 0 <= x <= width and 0 <= y <= height
            if instance.box is not None:
                x1, y1, x2, y2 = instance.box
                assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


@pytest.mark.parametrize(
    "text",
    [
        f"<answer>[{' ' * 200_000}]</answer>",
        f"<answer>```{' ' * 200_000}x</answer>",
        "<answer>" * 30_000,
        "`" * 200_000,
        "</think>" * 30_000,
    ],
    ids=["blanks", "fence", "tags", "ticks", "thoughts"],
)
def test_reading_takes_time_in_proportion_to_the_length(text: str) -> None:
    assert own_seconds(lambda: read(text)) < 1.0


def test_objects_in_lines_are_one_answer() -> None:
    answer = read(f"{BOX}\n{POINT}\n")
    assert isinstance(answer, PromptSet)
    assert answer.instances == (*READ_BOX.instances, *READ_POINT.instances)
    # Lines have no last sign: cut off, more of them may have followed; within <answer> none can.
    cut = read(f"{BOX}\n{POINT}\n", cut=True)
    assert isinstance(cut, ParseFailure) and cut.kind is FailureKind.TRUNCATED
    assert read(f"<answer>{BOX}\n{POINT}</answer>", cut=True) == answer


@pytest.mark.parametrize(
    ("text", "reading", "clipped"),
    [
        ('[{"bbox_2d":[-3,20,1004,400]}]', Instance((0.0, 5.0, 500.0, 100.0)), 1),
        (
            '[{"bbox_2d":[0,20,1050,400],"positive_points":[[-1,1001]]}]',
            Instance((0.0, 5.0, 500.0, 100.0), ((0.0, 250.0),)),
            2,
        ),
        ('[{"bbox_2d":[0,20,1051,400]}]', FailureKind.OUT_OF_FRAME, 0),
        ('[{"bbox_2d":[1001,20,1004,400]}]', FailureKind.DEGENERATE_BOX, 0),
    ],
)
def test_clipping_takes_what_is_a_little_outside_and_counts_it(
    text: str, reading: Instance | FailureKind, clipped: int
) -> None:
    refused = read(text)
    assert isinstance(refused, ParseFailure) and refused.kind is FailureKind.OUT_OF_FRAME
    answer = parse_completion(text, action_space=SPACE, frame=FRAME, out_of_frame="clip")
    if isinstance(answer, ParseFailure):
        assert answer.kind is reading
    else:
        assert (answer, answer.clipped, answer.sorted) == (PromptSet((reading,)), clipped, 0)  # type: ignore[arg-type]
        stored = json.loads(json.dumps(reading_to_json(answer)))
        assert stored["mended"] == {"clipped": clipped}
        again = reading_from_json(stored, text)
        assert isinstance(again, PromptSet) and again.clipped == clipped
    assert "mended" not in reading_to_json(READ_BOX)


def test_two_numbers_of_one_box_may_be_named_twice_only_if_they_agree() -> None:
    dialect = DIALECTS["seg-zero"]
    for second, right in (("[100,100,200,300]", True), ("[100,100,200,301]", False)):
        text = f'{{"bbox":[100,100,200,300],"bbox_2d":{second},"points_1":[150,150],"points_2":[160,160]}}'
        answer = parse_completion(text, action_space=FREE, frame=FRAME, dialect=dialect)
        assert isinstance(answer, PromptSet) is right
        assert right or (isinstance(answer, ParseFailure) and answer.kind is FailureKind.AMBIGUOUS)
