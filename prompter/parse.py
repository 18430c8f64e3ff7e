"""Reading an answer: tolerant of how it is wrapped, strict about what it says.

What was thought is never read. One complete answer outside of it (within `<answer>`, where there is one)
is the answer, whatever stands around it; two that differ are `AMBIGUOUS`; equal ones count once. How an
answer is written is its dialect's (`prompter.dialects`), whether its numbers are right is decided here.
No input raises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prompter.action import ActionSpace
from prompter.coords import Frame
from prompter.dialects.base import Dialect, Entry, Found, Refused, same
from prompter.dialects.prompter import PROMPTER
from prompter.dialects.region import answer_blocks, outside_thought, without_fences
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet

OutOfFrame = Literal["refuse", "clip"]
SwappedCorners = Literal["refuse", "sort"]

CLIP_MARGIN = 0.05
"""How far outside the frame `clip` still takes a number, as a share of the frame's side."""


def parse_completion(
    text: str,
    *,
    action_space: ActionSpace,
    frame: Frame,
    finish_reason: Literal["stop", "length"] = "stop",
    dialect: Dialect = PROMPTER,
    out_of_frame: OutOfFrame = "refuse",
    swapped_corners: SwappedCorners = "refuse",
    thought_opened: bool = False,
) -> PromptSet | ParseFailure:
    """Read one completion into image-frame prompts.

    Args:
        text: the completion, special tokens removed but for those that the dialect reads.
        action_space: what an instance may hold; a violation is `WRONG_ACTION`.
        frame: the frame the completion's coordinates are in.
        finish_reason: "length" if sampling was cut off; an answer that cannot be read is then
            `TRUNCATED`.
        dialect: how answers are written.
        out_of_frame: what becomes of numbers up to `CLIP_MARGIN` of a side outside the frame: `refuse`
            makes them `OUT_OF_FRAME` like those further out, `clip` moves them to the edge.
        swapped_corners: what becomes of a box whose corners are swapped: `refuse` makes it
            `DEGENERATE_BOX`, `sort` puts them in order.
        thought_opened: whether the prompt ended in `<think>`.

    Returns:
        A `PromptSet` (empty for `[]`) that counts what was clipped and sorted, or a `ParseFailure`.
    """
    is_cut = finish_reason == "length"
    try:
        answers = _answers(outside_thought(text, opened=thought_opened), dialect, is_cut)
        reader = _Reader(dialect, action_space, frame, out_of_frame, swapped_corners)
        readings = [reader.read(answer) for answer in answers]
        if any(reading != readings[0] for reading in readings[1:]):
            raise Refused(FailureKind.AMBIGUOUS, f"{len(answers)} answers stand side by side that differ")
        return readings[0]
    except Refused as refused:
        cut_off = is_cut and refused.kind in (FailureKind.NO_ANSWER, FailureKind.NOT_JSON)
        kind = FailureKind.TRUNCATED if cut_off else refused.kind
        return ParseFailure(kind, str(refused), text)


def _answers(region: str, dialect: Dialect, is_cut: bool) -> list[list[Any]]:
    """The answers in what was not thought, at least one, each different from the first; raw entries each."""
    found: list[Found] = []
    blocks = answer_blocks(region)
    for block in blocks:
        seen = dialect.find(block.text, tagged=block.tagged)
        if seen.answers or seen.others or seen.problem:
            found.append(seen)
    tagged, last = blocks[-1].tagged, found[-1] if found else Found()
    answers = [answer for seen in found if not seen.spoils for answer in seen.answers]
    if answers and not last.spoils:
        if is_cut and (last.unfinished or (last.open_end and not blocks[-1].closed)):
            raise Refused(FailureKind.NO_ANSWER, "the completion was cut off while more was being said")
        return [answers[0], *(answer for answer in answers[1:] if not same(answer, answers[0]))]
    if last.problem:
        raise Refused(FailureKind.NOT_JSON, f"the answer cannot be read: {last.problem}")
    bodies = [without_fences(block.text) for block in blocks]
    if not any(bodies):
        raise Refused(FailureKind.NO_ANSWER, "the completion holds no answer")
    if last.others and (tagged or bodies[-1].startswith(("[", "{"))):
        return [last.others[-1]]
    if tagged:
        problem = f"the answer is none of the dialect {dialect.name!r}: {bodies[-1]!r:.80}"
        raise Refused(FailureKind.NOT_JSON, problem)
    problem = f"the completion holds neither <answer> tags nor an answer of the dialect {dialect.name!r}"
    raise Refused(FailureKind.NO_ANSWER, problem)


@dataclass
class _Reader:
    """Checks raw entries and turns them into image-frame prompts."""

    dialect: Dialect
    action_space: ActionSpace
    frame: Frame
    out_of_frame: OutOfFrame
    swapped_corners: SwappedCorners
    clipped: int = 0
    sorted: int = 0

    def read(self, answer: Any) -> PromptSet:
        """Read one answer's raw entries."""
        if not isinstance(answer, list):
            raise Refused(
                FailureKind.WRONG_SHAPE, f"expected a list of objects, but got a {type(answer).__name__}"
            )
        if len(answer) > self.action_space.max_instances:
            raise Refused(
                FailureKind.TOO_MANY,
                f"expected at most {self.action_space.max_instances} instances, but got {len(answer)}",
            )
        self.clipped = self.sorted = 0
        instances = tuple(self._instance(raw, f"entry {number}") for number, raw in enumerate(answer))
        return PromptSet(instances, self.clipped, self.sorted)

    def _instance(self, raw: Any, where: str) -> Instance:
        entry = self.dialect.entry(raw, where)
        box = self._box(entry, where)
        points = {
            name: tuple(
                point
                for key, value in getattr(entry, name)
                for point in self._points(value, f"{key} of {where}")
            )
            for name in ("positive", "negative")
        }
        if box is None and not points["positive"]:
            raise Refused(FailureKind.WRONG_SHAPE, f"{where} has neither {self._names()}")
        instance = Instance(box, points["positive"], points["negative"])
        violation = self.action_space.violation(instance)
        if violation is not None:
            raise Refused(FailureKind.WRONG_ACTION, f"{violation} at {where}")
        return instance

    def _names(self) -> str:
        boxes, points = (
            getattr(self.dialect, "boxes", ("a box",)),
            getattr(self.dialect, "positive", ("a point",)),
        )
        return " nor ".join((*boxes, *points))

    def _box(self, entry: Entry, where: str) -> tuple[float, float, float, float] | None:
        if not entry.boxes:
            return None
        if any(value != entry.boxes[0][1] for _, value in entry.boxes[1:]):
            raise Refused(FailureKind.AMBIGUOUS, f"{where} has two boxes that differ")
        key, value = entry.boxes[0]
        x1, y1, x2, y2 = self._numbers(value, 4, f"{key} of {where}")
        if self.swapped_corners == "sort" and (x2 < x1 or y2 < y1):
            x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            self.sorted += 1
        box = self.frame.box_to_image((x1, y1, x2, y2))
        # In the image frame: two numbers a rounding error apart may fall together there.
        if box[2] <= box[0] or box[3] <= box[1]:
            raise Refused(FailureKind.DEGENERATE_BOX, f"{key} of {where} has no area: {value!r:.80}")
        return box

    def _points(self, value: Any, what: str) -> list[tuple[float, float]]:
        if not isinstance(value, list):
            raise Refused(FailureKind.WRONG_SHAPE, f"expected a list of points in {what}")
        if len(value) == 2 and not any(isinstance(item, list) for item in value):
            value = [value]
        pairs = [self._numbers(point, 2, what) for point in value]
        return [self.frame.point_to_image((x, y)) for x, y in pairs]

    def _numbers(self, value: Any, count: int, what: str) -> Sequence[float]:
        """Check `count` model-frame numbers that alternate x, y."""
        if not isinstance(value, list) or len(value) != count:
            raise Refused(
                FailureKind.WRONG_SHAPE, f"expected {count} numbers in {what}, but got {value!r:.80}"
            )
        numbers: list[float] = []
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int | float):
                raise Refused(FailureKind.WRONG_SHAPE, f"expected numbers in {what}, but got {item!r:.80}")
            try:
                numbers.append(float(item))
            except OverflowError:
                raise Refused(FailureKind.OUT_OF_FRAME, f"a number in {what} is too large") from None
        if not all(math.isfinite(number) for number in numbers):
            raise Refused(FailureKind.NOT_FINITE, f"expected finite numbers in {what}")
        return self._in_frame(numbers, what)

    def _in_frame(self, numbers: Sequence[float], what: str) -> Sequence[float]:
        """Numbers that lie in the frame, moved to its edge where that is asked for."""
        if all(self.frame.contains(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)):
            return numbers
        sides = self.frame.extent * (len(numbers) // 2)
        margin = CLIP_MARGIN if self.out_of_frame == "clip" else 0.0
        for number, side in zip(numbers, sides, strict=True):
            if not -margin * side <= number <= side + margin * side:
                raise Refused(
                    FailureKind.OUT_OF_FRAME,
                    f"{number:g} in {what} is outside the frame of 0 to {self.frame.extent[0]}, "
                    f"{self.frame.extent[1]}",
                )
        self.clipped += 1
        return [min(max(number, 0.0), float(side)) for number, side in zip(numbers, sides, strict=True)]
