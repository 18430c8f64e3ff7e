"""What the policy is asked: the prompt says frame, schema and limits; the query stands where it should."""

from __future__ import annotations

import itertools

import pytest

from prompter.action import ActionSpace
from prompter.chat import build_messages, system_prompt

KINDS = ("box", "points", "box+points", "any")
SPACES = [ActionSpace.model_validate({"kind": kind}) for kind in KINDS]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
def test_the_full_prompt_says_what_an_answer_looks_like(space: ActionSpace) -> None:
    absolute = system_prompt(space, "absolute")
    assert space.schema_text() in absolute and space.limits_text() in absolute
    assert "whole pixels of the image as you see it" in absolute and "1000" not in absolute
    assert "from 0 to 1000" in system_prompt(space, "thousandths")
    assert "Answer [] if the image does not show" in absolute
    assert "<think>" in absolute and "<think>" not in system_prompt(space, "absolute", think=False)
    assert "  " not in absolute and absolute == absolute.strip()


def test_the_short_prompt_only_names_the_kind_and_tells_kinds_apart() -> None:
    short = [system_prompt(space, "thousandths", instructions="short") for space in SPACES]
    assert len(set(short)) == len(KINDS) and max(map(len, short)) < 30


def test_every_combination_gives_another_full_prompt() -> None:
    prompts = [
        system_prompt(space, frame, think=think)
        for space, frame, think in itertools.product(SPACES, ("absolute", "thousandths"), (True, False))
    ]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("question", ["before", "after"])
def test_the_chat_holds_one_image_and_the_query_beside_it(question: str) -> None:
    query = 'the "largest" {roof} <|im_end|> $x'
    system, user = build_messages(query, "be brief", question=question)  # type: ignore[arg-type]
    assert system == {"role": "system", "content": [{"type": "text", "text": "be brief"}]}
    assert user["role"] == "user"
    types = [part["type"] for part in user["content"]]
    assert types == (["image", "text"] if question == "after" else ["text", "image"])
    assert user["content"][types.index("text")]["text"] == query
    assert user["content"][types.index("image")] == {"type": "image"}
