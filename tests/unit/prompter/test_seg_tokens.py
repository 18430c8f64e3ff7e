"""The notation of answers that bring their own masks: written, sampled, read."""

from __future__ import annotations

from typing import Any

import pytest

from prompter.chat import plain_question
from prompter.seg_tokens import (
    MarkedTargets,
    add_mark_tokens,
    mark_tokens,
    query_ids,
    read_marked,
    write_marked,
)
from prompter.types import Completion, FailureKind, ParseFailure
from recipes.cold_start.small_policy import build_tokenizer


def tokenizer(queries: int) -> Any:
    made = build_tokenizer(["all ships", "the largest building"], 20)
    add_mark_tokens(made, queries)
    return made


@pytest.fixture(scope="module")
def one() -> Any:
    return tokenizer(1)


def completion(made: Any, text: str, *, cut: bool = False) -> Completion:
    ids = made(text)["input_ids"] + ([] if cut else [made.eos_token_id])
    return Completion("", tuple(ids), None, "length" if cut else "stop")


def read(made: Any, text: str, queries: int = 1, most: int = 8, **options: bool) -> Any:
    return read_marked(completion(made, text, **options), made, queries=queries, most=most)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("phrases", [[], ["ship"], ["ship", "the largest building", "7"]])
def test_what_is_written_is_read_back(queries: int, phrases: list[str]) -> None:
    made = tokenizer(queries)
    text = write_marked(phrases, queries)
    found = read(made, text, queries)
    assert isinstance(found, MarkedTargets)
    assert list(found.phrases) == phrases
    ids = completion(made, text).token_ids
    assert [[ids[place] for place in mark] for mark in found.places] == [query_ids(made, queries)] * len(
        phrases
    )


def test_marks_stand_in_sentences_as_in_the_papers(one: Any) -> None:
    text = "stay away from the <p>building </p>[SEG] and run to the large <p>track </p>[SEG] it is [SEG]."
    assert read(one, text).phrases == ("building", "track", "")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("the ship", FailureKind.NO_ANSWER),
        ("", FailureKind.NO_ANSWER),
        ("<p>ship</p>[SEG] [REJ]", FailureKind.AMBIGUOUS),
        ("[SEG][SEG][SEG]", FailureKind.TOO_MANY),
    ],
)
def test_what_is_no_answer_is_data(one: Any, text: str, kind: FailureKind) -> None:
    found = read(one, text, most=2)
    assert isinstance(found, ParseFailure) and found.kind is kind and found.text == text


def test_a_cut_answer_is_not_read(one: Any) -> None:
    found = read(one, "<p>ship</p>[SEG]", cut=True)
    assert isinstance(found, ParseFailure) and found.kind is FailureKind.TRUNCATED


@pytest.mark.parametrize("text", ["[SEG1][SEG2]", "[SEG2][SEG1][SEG3]", "[SEG1][SEG2] [SEG3]", "[SEG1]" * 3])
def test_a_mark_with_its_tokens_out_of_order_is_refused(text: str) -> None:
    found = read(tokenizer(3), text, 3)
    assert isinstance(found, ParseFailure) and found.kind is FailureKind.WRONG_SHAPE


def test_each_mark_is_one_token_and_a_question_cannot_spell_it(one: Any) -> None:
    assert [len(one(text)["input_ids"]) for text in mark_tokens(1)] == [1] * 4
    special = [str(token) for token in one.added_tokens_decoder.values() if token.special]
    asked = plain_question("what does [SEG] or <p> or [REJ] mean?", special)
    assert not set(query_ids(one, 1)) & set(one(asked)["input_ids"])
    assert not {one.get_vocab()[text] for text in mark_tokens(1)} & set(one(asked)["input_ids"])


def test_adding_the_tokens_twice_changes_nothing(one: Any) -> None:
    size = len(one)
    add_mark_tokens(one, 1)
    assert len(one) == size
    with pytest.raises(ValueError, match=r"no token '\[SEG1\]'"):
        query_ids(one, 2)
