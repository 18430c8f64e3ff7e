"""What can be wrong with foreign files, kind by kind, and how it reaches the one who asked.

A fault that cannot be read past is raised: `Fault` where the value is looked at, `BadRecord` once the
place is known (`envs.datasets.reading.records.blaming`). What is read past by a stated rule is told with
`note`, and heard by whoever listens (`hearing`): a source counts it, `prompter data check` prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prompter.errors import UserError

KINDS: dict[str, str] = {
    "unreadable": "records that are missing a part or cannot be read",
    "depth": "images of more than 8 bits a channel, which no rule says how to show",
    "huge": "images of more pixels than the limit",
    "thin": "images whose sides differ more than 200 times, which models see widened",
    "mask_size": "masks of another size than their image",
    "mask_values": "label images that do not say which of their values is the object",
    "part": "parts of shapes that have no area, left out or drawn as a line",
    "nothing_drawn": "objects whose shapes draw nothing",
    "shape": "shapes of a type that has no inside",
    "units": "coordinates that are not pixels, or boxes that are not corner to corner",
    "contradiction": "records whose parts contradict each other",
    "count": "sizes that differ from those published",
    "empty_mask": 'empty masks that the set does not call "no target"',
    "box": "boxes that have no area or leave their image",
    "duplicate_question": "questions asked twice about one image",
    "duplicate_image": "images with the same pixels as another",
}
"""What is wrong, and makes a set one to look at."""

NOTES: dict[str, str] = {
    "turned": "images turned by their orientation tag",
    "stretched": "images of more than 8 bits a channel, stretched by the rule that was given",
    "pages": "files of several pictures, of which the first is read",
    "resized": "masks brought to the size of their image",
    "copied_image": "images that lie there under several names, which is how the set is published",
    "full_mask": "masks that cover their whole image",
}
"""What a rule of reading did, or what is unusual; told and no fault."""


class Fault(ValueError):
    """A foreign value that is refused; `kind` is a key of `KINDS`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Fault], tuple[str, str]]:
        return type(self), (self.kind, str(self))


class BadRecord(UserError):
    """A `UserError` about foreign data, with its kind."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, str]]:
        return type(self), (str(self), self.kind)


class NothingUsable(UserError):
    """A split whose records are all bad; `faults` says why, (kind, sentence) each."""

    def __init__(self, message: str, faults: list[tuple[str, str]]) -> None:
        super().__init__(message)
        self.faults = faults


def kind_of(error: BaseException | str) -> str:
    """The kind of an error, a key of `KINDS`; "unreadable" for those that carry none, and for sentences."""
    return getattr(error, "kind", "unreadable")


_EARS: ContextVar[tuple[Callable[[str, str], None], ...]] = ContextVar("_EARS", default=())
_PLACES: ContextVar[tuple[str, ...]] = ContextVar("_PLACES", default=())


def note(kind: str, message: str, *, innermost: bool = False) -> None:
    """Tell all who listen that something was read past, with the places that `at` names before it.

    Args:
        kind: a key of `KINDS` or `NOTES`.
        message: a sentence; the same one twice is the same finding.
        innermost: name the innermost place only, for what many records share.
    """
    places = _PLACES.get()
    sentence = ": ".join((*(places[-1:] if innermost else places), message))
    for ear in _EARS.get():
        ear(kind, sentence)


@contextmanager
def at(place: str) -> Iterator[None]:
    """Put `place` before what is noted within; nested, the outer place comes first."""
    token = _PLACES.set((*_PLACES.get(), place))
    try:
        yield
    finally:
        _PLACES.reset(token)


@contextmanager
def hearing(ear: Callable[[str, str], None]) -> Iterator[None]:
    """Have `ear(kind, sentence)` called for what is noted within, beside those who listen already."""
    token = _EARS.set((*_EARS.get(), ear))
    try:
        yield
    finally:
        _EARS.reset(token)
