"""Any text, in every dialect: no exception, and no more time than its length asks for."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompter.coords import Frame
from prompter.dialects import DIALECTS
from prompter.dialects.base import FREE
from prompter.parse import parse_completion
from prompter.types import ParseFailure, PromptSet
from tests.fixtures.clock import own_seconds

FRAME = Frame("thousandths", (500, 250), (64, 64))


@given(st.text(alphabet="<>/think answer[]{}\"bx_2d:1,0.`(|)\\'\n\ufeffnul", max_size=80), st.booleans())
def test_no_text_raises_in_any_dialect(text: str, cut: bool) -> None:
    for dialect in DIALECTS.values():
        answer = parse_completion(
            text,
            action_space=FREE,
            frame=FRAME,
            finish_reason="length" if cut else "stop",
            dialect=dialect,
            out_of_frame="clip",
            swapped_corners="sort",
        )
        assert isinstance(answer, PromptSet | ParseFailure)


@pytest.mark.parametrize(
    "text",
    [
        "[1" * 60_000,
        "[" * 60_000 + "]" * 60_000,
        '{"' + '\\"' * 60_000,
        "[1]," + " " * 60_000 + "{x" * 30_000,
        "(1," * 60_000,
        "(1,1)" * 40_000,
        "<|box_start|>" * 20_000,
        '{"bbox_2d":[1,1,2,2]}\n' * 5_000,
        "<think></think>" * 20_000,
        "```" * 60_000,
    ],
    ids=["open", "nested", "quotes", "gap", "half", "pairs", "tokens", "lines", "thoughts", "fences"],
)
def test_every_dialect_takes_time_in_proportion_to_the_length(text: str) -> None:
    for dialect in DIALECTS.values():
        read = partial(parse_completion, text, action_space=FREE, frame=FRAME, dialect=dialect)
        assert own_seconds(read) < 1.0, dialect.name
