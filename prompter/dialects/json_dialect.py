"""Dialects that answer in JSON: which keys hold boxes and points, and what else is taken for an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prompter.dialects.base import Dialect, Entry, Found, Refused
from prompter.dialects.json_values import Value, scalar, scan
from prompter.dialects.region import without_fences
from prompter.types import FailureKind

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_NUMBERS_AS_TEXT = re.compile(rf"[\[(]?\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*[\])]?")


@dataclass(frozen=True)
class JsonDialect(Dialect):
    """Answers in JSON: a list of objects, one object, or objects in lines; `[]` or `null` for no target.

    Args:
        boxes: keys of a box, [x1, y1, x2, y2].
        positive: keys of a point [x, y] or of a list of points on the object.
        negative: keys of the same off the object.
        bare_boxes: take a list of four numbers for a box.
        text_numbers: take "10" for 10, and "10, 20" for [10, 20].
        single_quotes: take single quotes for double ones.
        special_tokens: see `Dialect`.
    """

    boxes: tuple[str, ...] = ("bbox_2d",)
    positive: tuple[str, ...] = ("positive_points",)
    negative: tuple[str, ...] = ("negative_points",)
    bare_boxes: bool = False
    text_numbers: bool = False
    single_quotes: bool = False

    def find(self, text: str, *, tagged: bool) -> Found:
        """See `Dialect.find`."""
        found = Found()
        body = without_fences(text)
        if body == "null" or (tagged and body and body[0] not in "[{"):
            is_value, value = scalar(body)
            if is_value:
                (found.answers if value is None else found.others).append([] if value is None else value)
                return found
        # A label may hold a fence: what is one value as a whole is not cut up.
        whole = "```" not in text or scan(text, single_quotes=self.single_quotes).is_all
        pieces = [text] if whole else text.split("```")
        for piece in pieces:
            seen = scan(piece, single_quotes=self.single_quotes)
            if seen.values or seen.problem:
                found.unfinished, found.open_end = seen.unfinished, False
                found.problem, found.spoils = seen.problem, seen.spoils
            if seen.spoils:
                continue
            gathered = list(self._gathered(seen.values))
            for answer, _ in gathered:
                is_answer = not answer or any(map(self._speaks, answer))
                (found.answers if is_answer else found.others).append(answer)
            if piece.strip():
                found.open_end = seen.bare_end and gathered[-1][1]
        return found

    def entry(self, raw: Any, where: str) -> Entry:
        """See `Dialect.entry`."""
        if self._is_bare_box(raw):
            return Entry(boxes=(("the box", self._numbers(raw)),))
        if not isinstance(raw, dict):
            raise Refused(
                FailureKind.WRONG_SHAPE, f"expected an object at {where}, but got a {type(raw).__name__}"
            )
        return Entry(
            self._under(raw, self.boxes), self._under(raw, self.positive), self._under(raw, self.negative)
        )

    def _gathered(self, values: Iterable[Value]) -> Iterable[tuple[list[Any], bool]]:
        """Lists as they are; objects that only blanks or commas part are one answer, each once.

        Yields an answer's entries, and whether it was gathered from several values.
        """
        line: list[Any] = []
        for one in values:
            if isinstance(one.value, list) and not self._is_bare_box(one.value):
                if line:
                    yield self._each_once(line), len(line) > 1
                line = []
                yield one.value, False
            elif one.adjacent or not line:
                line.append(one.value)
            else:
                yield self._each_once(line), len(line) > 1
                line = [one.value]
        if line:
            yield self._each_once(line), len(line) > 1

    def _each_once(self, values: list[Any]) -> list[Any]:
        """The values without later ones that say the same."""
        if len(values) < 2:
            return values
        try:
            return list({self._meaning(value): value for value in reversed(values)}.values())[::-1]
        except (RecursionError, ValueError, OverflowError):
            return values

    def _meaning(self, value: Any) -> str:
        """A text that is the same for values that say the same; labels do not count."""
        try:
            entry = self.entry(value, "")
        except Refused:
            return json.dumps(value)
        pairs = (entry.boxes, entry.positive, entry.negative)
        return json.dumps([[_as_floats(said) for _, said in part] for part in pairs])

    def _speaks(self, raw: Any) -> bool:
        """Whether a raw entry says anything in this dialect."""
        if isinstance(raw, dict):
            return any(key in raw for key in (*self.boxes, *self.positive, *self.negative))
        return self._is_bare_box(raw)

    def _is_bare_box(self, raw: Any) -> bool:
        return (
            self.bare_boxes
            and isinstance(raw, list)
            and len(raw) == 4
            and not any(isinstance(item, list | dict) for item in raw)
        )

    def _under(self, raw: dict[str, Any], keys: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
        return tuple((key, self._numbers(raw[key])) for key in keys if raw.get(key) is not None)

    def _numbers(self, value: Any) -> Any:
        """The value with numbers in the place of their texts, if this dialect takes those."""
        if not self.text_numbers:
            return value
        if isinstance(value, list):
            return [self._numbers(item) for item in value]
        if isinstance(value, str) and _NUMBERS_AS_TEXT.fullmatch(value.strip()):
            numbers = [float(number) for number in re.findall(_NUMBER, value)]
            return numbers if len(numbers) > 1 else numbers[0]
        return value


def _as_floats(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
