"""The contract of everything that can be evaluated: samples in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from envs.sample import Sample
from prompter.errors import UserError
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

    @classmethod
    def asked(cls, given: Mapping[str, Any], called: Callable[[str], str] = str) -> LookSettings:
        """Settings that a user gave, by name; where the image is moved, the temperature is 0 unless given.

        Args:
            given: values by the names above, `samples` among them.
            called: what the user knows a name by.

        Raises:
            UserError: if a value is out of range; it is called as the user knows it.
        """
        found = cls(**({"temperature": 0.0} if given.get("shift") else {}) | dict(given))
        if found.samples < 1:
            raise UserError(f"{called('samples')} must be at least 1, but is {found.samples}.")
        if not 0 <= found.shift <= 0.5:
            raise UserError(f"{called('shift')} must be between 0 and 0.5, but is {found.shift:g}.")
        if not found.temperature >= 0 or (found.temperature == 0 and not found.shift):
            raise UserError(
                f"{called('temperature')} must be above 0 to draw samples, but is {found.temperature:g}; "
                f"0 goes with {called('shift')} alone."
            )
        if not 0 < found.top_p <= 1:
            raise UserError(f"{called('top_p')} must be above 0 and at most 1, but is {found.top_p:g}.")
        return found

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


def able_to_look(answerer: Answerer, called: str = "--samples") -> Looker:
    """The answerer as one that can look several times.

    Raises:
        UserError: if it does not sample; `called` is what asked for several looks.
    """
    if isinstance(answerer, Looker):
        return answerer
    raise UserError(
        f"{called} needs a policy that samples, a checkpoint or an endpoint; a "
        f"{type(answerer).__name__} has one answer to a question."
    )
