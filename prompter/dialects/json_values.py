"""Complete JSON values in running text, and what is wrong with the others."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from prompter.dialects.base import Refused
from prompter.dialects.region import BLANK
from prompter.types import FailureKind

_BRACKET = re.compile(r"[\[\]{}]")
_JSONISH = re.compile(r"""\[\s*(?:[\[\]{"'\d-]|true|false|null|NaN|Infinity)|\{\s*["'}]""")
_NESTING = re.compile(r"""[\[\]{}]|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)""", re.DOTALL)
_SEPARATOR = re.compile(rf"[{BLANK},]*")


@dataclass(frozen=True)
class Value:
    """A complete JSON list or object.

    Args:
        value: what it holds.
        adjacent: whether only blanks and commas part it from the value before.
    """

    value: Any
    adjacent: bool


@dataclass
class Scan:
    """What `scan` found.

    Args:
        values: complete lists and objects, outermost ones, in order.
        problem: what is wrong with something that begins as JSON does; "" if nothing is.
        spoils: that something touches the last value, so that this may be a part of it.
        unfinished: the text ends within it.
        bare_end: nothing but blanks follows the last value.
        is_all: one value is the whole text, but for blanks.
    """

    values: list[Value] = field(default_factory=list)
    problem: str = ""
    spoils: bool = False
    unfinished: bool = False
    bare_end: bool = False
    is_all: bool = False


def scan(text: str, *, single_quotes: bool = False) -> Scan:
    """Find the outermost complete JSON lists and objects in a text.

    Args:
        text: without code fences.
        single_quotes: read `{'a': 1}`, too, where no double quote stands in it.

    Brackets that do not begin as JSON does are prose. Nothing is ever read from inside something that
    begins as JSON does but is none: a part of a broken list is no answer. Strings may hold raw line breaks.
    Takes time in proportion to the text.

    Raises:
        Refused: if a number is not finite, or a key stands twice in one object with different values.
    """
    found = Scan()
    position = opened = 0
    first = _after_separator(text, 0)
    reach = -1  # where the blanks and commas behind the last value end
    while bracket := _BRACKET.search(text, position):
        start, position = bracket.start(), bracket.end()
        touches = start <= reach
        if bracket.group() in "]}":
            if opened:
                opened -= 1
            elif touches:  # a closing sign of something whose beginning is missing
                found.problem, found.spoils = f"{bracket.group()!r} at character {start} closes nothing", True
                return found
            continue
        if not _JSONISH.match(text, start):
            opened += 1
            continue
        value, end, problem = _decode(text, start, single_quotes)
        if not problem:
            found.values.append(Value(value, touches))
            position, reach = end, _after_separator(text, end)
            found.is_all = start == first and reach == len(text)
            continue
        closing = _closing(text, start)
        found.problem, found.unfinished = problem, closing is None
        # What touches a broken value may be a part of the same answer.
        found.spoils = touches or (closing is not None and _opens(text, _after_separator(text, closing)))
        if closing is None or found.spoils:
            return found
        position = closing
    found.bare_end = bool(found.values) and reach == len(text)
    return found


def _after_separator(text: str, position: int) -> int:
    match = _SEPARATOR.match(text, position)
    return position if match is None else match.end()


def _opens(text: str, position: int) -> bool:
    return text[position : position + 1] in ("[", "{")


def scalar(text: str) -> tuple[bool, Any]:
    """Whether a whole text is one JSON value, and which."""
    try:
        return True, json.loads(text, parse_constant=_not_finite)
    except (ValueError, RecursionError):
        return False, None


def _decode(text: str, start: int, single_quotes: bool) -> tuple[Any, int, str]:
    """Return (value, its end, "") or (None, start, what is wrong)."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        return value, end, ""
    except (ValueError, RecursionError) as error:
        # json raises ValueError too for integers of thousands of digits.
        problem = str(error)[:120]
    if single_quotes and (closing := _closing(text, start)) is not None and '"' not in text[start:closing]:
        try:
            value, end = _DECODER.raw_decode(text[start:closing].replace("'", '"'))
            return value, start + end, ""
        except (ValueError, RecursionError) as error:
            problem = str(error)[:120]
    return None, start, problem or "it cannot be decoded"


def _closing(text: str, start: int) -> int | None:
    """Where the brackets opened at `start` are closed again (its end), or None; strings are skipped."""
    depth = 0
    for sign in _NESTING.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(sign.group(), 0)
        if depth == 0:
            return sign.end()
    return None


def _not_finite(name: str) -> Any:
    raise Refused(FailureKind.NOT_FINITE, f"expected finite numbers, but got {name}")


def _one_value_a_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for key, value in pairs:
        if key in read and read[key] != value:
            raise Refused(
                FailureKind.AMBIGUOUS,
                f"the key {key!r:.60} stands twice in one object, with different values",
            )
        read[key] = value
    return read


_DECODER = json.JSONDecoder(strict=False, parse_constant=_not_finite, object_pairs_hook=_one_value_a_key)
