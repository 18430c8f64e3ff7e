"""The contract of everything that can be evaluated: samples in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from envs.masks import RLE
from envs.sample import Sample
from prompter.types import ParseFailure, PromptSet


class Answer(NamedTuple):
    """One answer.

    Args:
        text: the completion.
        prompts: what the parser read, image frame, or why it could not.
        tokens: number of sampled tokens, or 0 if unknown.
        masks: one mask (RLE) per instance, from an answerer that segments by itself; None from all
            others. The executor `own-masks` takes them as they are.
        scores: the answerer's own score of each of these masks.
    """

    text: str
    prompts: PromptSet | ParseFailure
    tokens: int
    masks: tuple[RLE, ...] | None = None
    scores: tuple[float, ...] = ()


class Answerer(Protocol):
    """Answers questions, deterministically: equal batches get equal answers."""

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        ...

    def close(self) -> None:
        """Release what it holds. Safe to call twice."""
        ...
