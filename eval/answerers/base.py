"""The contract of everything that can be evaluated: samples in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

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


@dataclass(frozen=True)
class LookSettings:
    """How several looks at one question are drawn; part of a run's identity.

    Args:
        samples: completions drawn per question; one more is taken greedily.
        temperature: at which they are drawn; above 0 unless the image is moved.
        top_p: share of the probability that is drawn from, above 0 and up to 1.
        seed: completion j of a question follows from it, the question's name and j alone.
        shift: the most by which the image is moved for each drawn completion (`envs.views`), as a
            share of its sides, in [0, 0.5]; 0 shows all of them the image as it is.
    """

    samples: int
    temperature: float = 0.8
    top_p: float = 1.0
    seed: int = 0
    shift: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, for a run's config; without `shift` where it is 0, as runs before it were."""
        return {name: value for name, value in asdict(self).items() if name != "shift" or value}


@dataclass(frozen=True)
class LookedAnswers:
    """What several looks at a batch of questions gave.

    Args:
        answers: one list per question: the greedy answer, then the sampled ones in order.
        greedy_seconds, sampled_seconds: wall time of the whole batch.
    """

    answers: list[list[Answer]]
    greedy_seconds: float
    sampled_seconds: float


@runtime_checkable
class Looker(Protocol):
    """An answerer that can look several times, because it samples."""

    def look(self, samples: Sequence[Sample], settings: LookSettings) -> LookedAnswers:
        """Return a greedy answer and `settings.samples` sampled ones for each question, in order; with
        `settings.shift` the latter about moved images, and read back."""
        ...
