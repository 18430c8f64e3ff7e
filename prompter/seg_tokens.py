"""How a policy that brings its own masks writes them into its text: `<p>phrase</p>[SEG]`, `[REJ]` for none.

The notation is SegEarth-R2's; `[REJ]` is GSVA's. A target's mask is decoded from the hidden states of its
query tokens: one `[SEG]`, or with k > 1 queries the sequence `[SEG1]` … `[SEGk]`, of whose masks one is
chosen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prompter.types import Completion, FailureKind, ParseFailure

REJECT = "[REJ]"
PHRASE_BEGIN, PHRASE_END = "<p>", "</p>"

_PHRASE = re.compile(
    re.escape(PHRASE_BEGIN) + r"((?:(?!<p>).)*?)" + re.escape(PHRASE_END) + r"\s*\Z", re.DOTALL
)


@dataclass(frozen=True)
class MarkedTargets:
    """What a completion marks.

    Args:
        phrases: of each target what stands between `<p>` and `</p>` before its mark; "" where nothing does.
        places: of each target the places of its query tokens, k of them, in the completion's token ids.
    """

    phrases: tuple[str, ...] = ()
    places: tuple[tuple[int, ...], ...] = ()


def query_tokens(queries: int) -> tuple[str, ...]:
    """The query tokens of one target: `[SEG]`, or `[SEG1]` … `[SEGk]` for `queries` k > 1."""
    return ("[SEG]",) if queries == 1 else tuple(f"[SEG{number}]" for number in range(1, queries + 1))


def mark_tokens(queries: int) -> tuple[str, ...]:
    """All tokens of the notation, in the order in which they are added to a vocabulary."""
    return (*query_tokens(queries), REJECT, PHRASE_BEGIN, PHRASE_END)


def add_mark_tokens(tokenizer: Any, queries: int) -> None:
    """Make each token of the notation one special token; those that a tokenizer has are left.

    Special, so that a question that spells one out is not taken for it (`prompter.chat.plain_question`).
    """
    from tokenizers import AddedToken

    added = [AddedToken(text, special=True, normalized=False) for text in mark_tokens(queries)]
    tokenizer.add_tokens(added, special_tokens=True)


def query_ids(tokenizer: Any, queries: int) -> list[int]:
    """Token ids of one target's query tokens, in their order.

    Raises:
        ValueError: if the tokenizer lacks one; see `add_mark_tokens`.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [text for text in mark_tokens(queries) if text not in vocabulary]
    if missing:
        raise ValueError(f"the tokenizer has no token {missing[0]!r}")
    return [vocabulary[text] for text in query_tokens(queries)]


def write_marked(phrases: Sequence[str], queries: int) -> str:
    """The answer that marks one target for each phrase, in order; `[REJ]` without any."""
    if not phrases:
        return REJECT
    marks = "".join(query_tokens(queries))
    return ", ".join(f"{PHRASE_BEGIN}{phrase}{PHRASE_END}{marks}" for phrase in phrases)


def marked_text(completion: Completion, tokenizer: Any) -> str:
    """A completion's text with the tokens of the notation, without its end token."""
    ids = list(completion.token_ids)
    if ids and completion.finish_reason == "stop":
        ids.pop()
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def read_marked(
    completion: Completion, tokenizer: Any, *, queries: int, most: int
) -> MarkedTargets | ParseFailure:
    """Read which targets a completion marks.

    A mark without a phrase counts (LISA's "It is [SEG]."), one of which tokens are missing does not.

    Args:
        completion: as a sampler drew it.
        tokenizer: the policy's.
        queries: query tokens of a target.
        most: targets that an answer may have.

    Returns:
        The targets, none for `[REJ]`; or why the completion is no answer.
    """
    text = marked_text(completion, tokenizer)

    def failure(kind: FailureKind, message: str) -> ParseFailure:
        return ParseFailure(kind, message, text)

    if completion.finish_reason == "length":
        return failure(FailureKind.TRUNCATED, f"the answer was cut after {len(completion.token_ids)} tokens")
    ids = query_ids(tokenizer, queries)
    rejects = completion.token_ids.count(tokenizer.get_vocab()[REJECT])
    found = [place for place, token in enumerate(completion.token_ids) if token in set(ids)]
    if not found and not rejects:
        return failure(
            FailureKind.NO_ANSWER, f"the answer has neither {query_tokens(queries)[0]} nor {REJECT}"
        )
    if found and rejects:
        return failure(FailureKind.AMBIGUOUS, f"the answer marks a target and says {REJECT}")
    places = [tuple(found[start : start + queries]) for start in range(0, len(found), queries)]
    for mark in places:
        if [completion.token_ids[place] for place in mark] != ids or mark[-1] - mark[0] != queries - 1:
            return failure(
                FailureKind.WRONG_SHAPE, f"a target's mark should be {''.join(query_tokens(queries))}"
            )
    if len(places) > most:
        return failure(FailureKind.TOO_MANY, f"the answer marks {len(places)} targets, more than {most}")
    starts = [0, *(mark[-1] + 1 for mark in places)]
    before = [
        str(tokenizer.decode(list(completion.token_ids[start : mark[0]]), skip_special_tokens=False))
        for start, mark in zip(starts, places, strict=False)
    ]
    phrases = [match[1].strip() if (match := _PHRASE.search(piece)) else "" for piece in before]
    return MarkedTargets(tuple(phrases), tuple(places))
