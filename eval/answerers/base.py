"""The contract of everything that can be evaluated: samples in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from envs.sample import Sample
from prompter.types import Answer


class Answerer(Protocol):
    """Answers questions, deterministically: equal batches get equal answers."""

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        ...

    def close(self) -> None:
        """Release what it holds. Safe to call twice."""
        ...
