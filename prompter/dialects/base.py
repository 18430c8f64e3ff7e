"""What a dialect is: how a family of models writes its answers, and how it is asked.

A dialect finds the answers in a block of text and says what is a box and what is a point in them; it
checks no number. `prompter.parse` does that, for all dialects alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prompter.action import ActionSpace
from prompter.coords import FrameKind
from prompter.types import FailureKind


class Refused(Exception):
    """An answer that cannot be read; becomes a `ParseFailure` of this kind with this message."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Entry:
    """One instance of an answer as it was written: (key, value) pairs, nothing checked, in the model frame.

    Args:
        boxes: under each key four numbers XYXY, if the answer is right.
        positive: under each key one point [x, y] or a list of points on the object.
        negative: the same for points off the object.
    """

    boxes: tuple[tuple[str, Any], ...] = ()
    positive: tuple[tuple[str, Any], ...] = ()
    negative: tuple[tuple[str, Any], ...] = ()


@dataclass
class Found:
    """What a dialect found in one block of text.

    Args:
        answers: complete answers, each a list of raw entries for `Dialect.entry`.
        others: complete values that are no answer, such as a list of words.
        problem: what is wrong with something that looks like an answer but is none; "" if nothing is.
        spoils: that problem belongs to the last answer, so that nothing before it counts.
        unfinished: the text ends within something that looks like an answer.
        open_end: the last answer has no closing sign; cut off, more may have followed.
    """

    answers: list[list[Any]] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)
    problem: str = ""
    spoils: bool = False
    unfinished: bool = False
    open_end: bool = False


@dataclass(frozen=True)
class Dialect(ABC):
    """How answers are written and asked for.

    Args:
        name: as in the setting `reads`.
        source: where this is known from.
        prompt: how it is asked where `prompt_file` gives no other text (the form of
            `prompter.prompt_text`), in our words; "" for Prompter's own system prompt.
        frame: coordinates it speaks; None for those of the model's family.
        side: square in pixels to which its public code resizes images; None keeps the ratio.
        action_space: what its answers may hold; None for Prompter's default.
        max_new_tokens: longest completion in its public code; None for Prompter's default.
        lower: whether its public code asks in lower case.
        strip: signs its public code takes off both ends of a question.
        special_tokens: tokens that carry the answer, which decoding without special tokens would drop.
        out_of_frame, swapped_corners: defaults of the settings of these names.
        tell: a regular expression for signs that tell its answers from those of dialects that would read
            them alike; "" if there are none. Only `eval.probe` looks at it.
        form: what an answer is made of, as messages say it.
    """

    name: str
    source: str
    prompt: str = ""
    frame: FrameKind | None = None
    side: int | None = None
    action_space: ActionSpace | None = None
    max_new_tokens: int | None = None
    lower: bool = False
    strip: str = ""
    special_tokens: tuple[str, ...] = ()
    out_of_frame: Literal["refuse", "clip"] = "refuse"
    swapped_corners: Literal["refuse", "sort"] = "refuse"
    tell: str = ""
    form: str = "JSON"

    @abstractmethod
    def find(self, text: str, *, tagged: bool) -> Found:
        """Find the answers in one block; `tagged` if it stood within `<answer>`."""

    @abstractmethod
    def entry(self, raw: Any, where: str) -> Entry:
        """Say what is a box and what a point in one raw entry; raise `Refused` if it is of a wrong shape."""

    def question(self, query: str) -> str:
        """The query as this dialect's public code puts it into its prompt."""
        return (query.lower() if self.lower else query).strip(self.strip or None)


FREE = ActionSpace(kind="any", positive_points=16, negative_points=16, max_instances=256)
"""Action space of other people's models: whatever they answer with is taken."""


def same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two answers are equal as they were written (10 equals 10.0)."""
    try:
        return bool(first == second)
    except RecursionError:
        return False
