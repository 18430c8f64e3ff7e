"""Action spaces: what an instance may hold, and that the text of an answer says exactly that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prompter.action import ActionSpace, write_answer
from prompter.coords import Frame
from prompter.types import Instance, PromptSet

FRAME = Frame("thousandths", (1000, 1000), (64, 64))
BOX = (10.0, 20.0, 30.0, 40.0)
ONE, TWO = ((15.0, 25.0),), ((15.0, 25.0), (16.0, 26.0))

kinds = st.sampled_from(["box", "points", "box+points", "any"])


@pytest.mark.parametrize(
    ("kind", "instance", "complaint"),
    [
        ("box", Instance(BOX), None),
        ("box", Instance(BOX, ONE), "positive_points are not allowed"),
        ("box", Instance(None, ONE), "a bbox_2d is required"),
        ("points", Instance(None, ONE), None),
        ("points", Instance(BOX, ONE), "a bbox_2d is not allowed"),
        ("points", Instance(BOX), "a bbox_2d is not allowed"),
        ("box+points", Instance(BOX, ONE), None),
        ("box+points", Instance(BOX), "positive_points are required"),
        ("box+points", Instance(None, ONE), "a bbox_2d is required"),
        ("any", Instance(BOX), None),
        ("any", Instance(None, ONE), None),
        ("any", Instance(BOX, ONE), None),
        ("any", Instance(BOX, TWO), "at most 1 positive_points are allowed"),
        ("any", Instance(BOX, ONE, ONE), "negative_points are not allowed"),
    ],
)
def test_violations(kind: str, instance: Instance, complaint: str | None) -> None:
    space = ActionSpace.model_validate({"kind": kind, "positive_points": 1})
    assert space.violation(instance) == complaint


def test_negative_points_are_counted() -> None:
    space = ActionSpace(kind="box", negative_points=1)
    assert space.violation(Instance(BOX, (), ONE)) is None
    assert space.violation(Instance(BOX, (), TWO)) == "at most 1 negative_points are allowed"


@given(kinds, st.integers(1, 4), st.integers(0, 3))
def test_the_schema_names_exactly_the_keys_an_instance_may_hold(
    kind: str, positive: int, negative: int
) -> None:
    space = ActionSpace.model_validate(
        {"kind": kind, "positive_points": positive, "negative_points": negative}
    )
    schema, limits = space.schema_text(), space.limits_text()
    point = ((1.0, 1.0),)
    # What an answer of this space holds at most.
    box = None if kind == "points" else BOX
    fullest = Instance(box, () if kind == "box" else point, point if negative else ())
    assert space.violation(fullest) is None
    assert ("bbox_2d" in schema) == (fullest.box is not None)
    assert ("positive_points" in schema) == bool(fullest.positive_points)
    assert ("negative_points" in schema) == bool(fullest.negative_points)
    assert ("Give bbox_2d, positive_points, or both." in limits) == (kind == "any")
    if kind != "box":
        assert f"at most {positive} point" in limits


def test_answers_by_hand() -> None:
    prompts = PromptSet((Instance(BOX, ONE, TWO), Instance(None, TWO)))
    assert write_answer(prompts, FRAME) == (
        '<answer>[{"bbox_2d":[10,20,30,40],"positive_points":[[15,25]],"negative_points":[[15,25],[16,26]]},'
        '{"positive_points":[[15,25],[16,26]]}]</answer>'
    )
    assert write_answer(PromptSet(), FRAME) == "<answer>[]</answer>"
    assert (
        write_answer(PromptSet(), FRAME, think="none seen") == "<think>none seen</think><answer>[]</answer>"
    )


def test_unknown_keys_and_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'positive_points'"):
        ActionSpace.model_validate({"positive_point": 1})
    for bad in ({"kind": "boxes"}, {"positive_points": 0}, {"negative_points": -1}, {"max_instances": 0}):
        with pytest.raises(ValidationError):
            ActionSpace.model_validate(bad)
