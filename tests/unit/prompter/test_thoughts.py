"""What is thought is never read, however it is marked, and whoever opened the thought."""

from __future__ import annotations

from typing import Literal

import pytest

from prompter.action import ActionSpace
from prompter.coords import Frame
from prompter.dialects.region import outside_thought, split_thought
from prompter.parse import parse_completion
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet

SPACE = ActionSpace(kind="any", positive_points=2)
FRAME = Frame("thousandths", (500, 250), (64, 64))
BOX = '{"bbox_2d":[100,100,200,300]}'
READ_BOX = PromptSet((Instance((50.0, 25.0, 100.0, 75.0)),))
POINT = '{"positive_points":[[100,100]]}'


def read(text: str) -> PromptSet | ParseFailure:
    return parse_completion(text, action_space=SPACE, frame=FRAME)


@pytest.mark.parametrize(
    "name",
    [
        *("think", "thinking", "rethink", "thought", "thoughts", "reason", "reasoning"),
        *("reflection", "analysis", "scratchpad", "seed:think"),
    ],
)
@pytest.mark.parametrize("form", ["{0}", "{0} ", '{0} budget="3"'])
def test_a_thought_by_any_name_is_never_read(name: str, form: str) -> None:
    opening, closing = f"<{form.format(name.upper())}>", f"</{name}>"
    assert read(f"{opening}perhaps [{POINT}]{closing}[{BOX}]") == READ_BOX
    assert read(f"perhaps [{POINT}]{closing}[{BOX}]") == READ_BOX
    unended = read(f"{opening}perhaps [{BOX}]")
    assert isinstance(unended, ParseFailure) and unended.kind is FailureKind.NO_ANSWER


def test_thoughts_in_signs_that_are_no_tags_are_never_read() -> None:
    assert read(f"[THINK]perhaps [{POINT}][/THINK][{BOX}]") == READ_BOX
    assert read(f"◁think▷perhaps [{POINT}]◁/think▷[{BOX}]") == READ_BOX
    assert isinstance(read(f"[THINK]perhaps [{POINT}]"), ParseFailure)


def test_a_prompt_may_have_opened_the_thought() -> None:
    draft, thought = f"perhaps [{BOX}]", f"perhaps [{POINT}]</think>[{BOX}]"

    def opened(text: str, reason: Literal["stop", "length"]) -> PromptSet | ParseFailure:
        return parse_completion(
            text, action_space=SPACE, frame=FRAME, finish_reason=reason, thought_opened=True
        )

    assert opened(thought, "stop") == READ_BOX == read(draft)
    for reason, kind in (("stop", FailureKind.NO_ANSWER), ("length", FailureKind.TRUNCATED)):
        answer = opened(draft, reason)  # type: ignore[arg-type]
        assert isinstance(answer, ParseFailure) and answer.kind is kind


@pytest.mark.parametrize(
    ("text", "opened", "thought", "rest"),
    [
        ("[1]", False, "", "[1]"),
        ("<think>a roof</think>[1]", False, "a roof", "\n[1]"),
        ("a roof</think>[1]", False, "a roof\n", "[1]"),
        ("a roof</think>[1]", True, "a roof", "[1]"),
        ("a roof", True, "a roof", ""),
        ("before <think>a<think>b</think> then <reason>c</reason> after", False, "a<think>b\nc", None),
        ("one</think>two</think>three", False, "one\n\ntwo", "three"),
    ],
)
def test_a_completion_parts_into_thought_and_rest(
    text: str, opened: bool, thought: str, rest: str | None
) -> None:
    found = split_thought(text, opened=opened)
    assert "\n".join(line for line in found[0].splitlines() if line) == thought.replace("\n\n", "\n").strip()
    assert found[1] == outside_thought(text, opened=opened)
    assert rest is None or found[1] == rest
