"""Reading an answer: tolerant of how it is wrapped, strict about what it says.

Accepted: `<think>…</think><answer>…</answer>`, with or without the thinking, with or without a code
fence inside, or bare/fenced JSON where the answer tags are missing; a single object instead of a
list of one; one point not wrapped in a list; further keys (ignored). Everything else is a
`ParseFailure` of one kind. No input raises.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal

from prompter.action import ActionSpace
from prompter.coords import Frame
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet

_LANGUAGE = re.compile(r"[a-zA-Z]*")


class _Refused(Exception):
    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def parse_completion(
    text: str,
    *,
    action_space: ActionSpace,
    frame: Frame,
    finish_reason: Literal["stop", "length"] = "stop",
) -> PromptSet | ParseFailure:
    """Read one completion into image-frame prompts.

    Args:
        text: the completion, special tokens removed.
        action_space: what an instance may hold; a violation is `WRONG_ACTION`.
        frame: the frame the completion's coordinates are in.
        finish_reason: "length" if sampling was cut off; an answer that cannot be read is then
            `TRUNCATED`.

    Returns:
        A `PromptSet` (empty for `[]`), or the first `ParseFailure` found.
    """
    try:
        data = _load(_answer_text(text))
        entries = [data] if isinstance(data, dict) else data
        if not isinstance(entries, list):
            raise _Refused(
                FailureKind.WRONG_SHAPE, f"expected a list of objects, but got a {type(data).__name__}"
            )
        if len(entries) > action_space.max_instances:
            raise _Refused(
                FailureKind.TOO_MANY,
                f"expected at most {action_space.max_instances} instances, but got {len(entries)}",
            )
        return PromptSet(
            tuple(_instance(entry, number, action_space, frame) for number, entry in enumerate(entries))
        )
    except _Refused as refused:
        cut_off = finish_reason == "length" and refused.kind in (FailureKind.NO_ANSWER, FailureKind.NOT_JSON)
        kind = FailureKind.TRUNCATED if cut_off else refused.kind
        return ParseFailure(kind, str(refused), text)


def _answer_text(text: str) -> str:
    """Return what should be JSON: the last answer block, or the reply without its thinking."""
    opening = text.rfind("<answer>")
    if opening >= 0:
        body = text[opening + len("<answer>") :]
        closing = body.find("</answer>")
        body = body if closing < 0 else body[:closing]
    else:
        body = text.rpartition("</think>")[2]
    body = body.strip()
    if body.startswith("```"):
        body = _LANGUAGE.sub("", body[3:], count=1)
    body = body.removesuffix("```")
    # A reply such as "Here it is: ```json […] ```" without answer tags: take the fenced part.
    if opening < 0 and not body.startswith(("[", "{")) and "```" in body:
        fenced = body.split("```")[1]
        body = _LANGUAGE.sub("", fenced, count=1)
    body = body.strip()
    if not body:
        raise _Refused(FailureKind.NO_ANSWER, "the completion holds no answer")
    if opening < 0 and not body.startswith(("[", "{")):
        raise _Refused(FailureKind.NO_ANSWER, "the completion holds neither <answer> tags nor JSON")
    return body


def _load(body: str) -> Any:
    def not_finite(name: str) -> Any:
        raise _Refused(FailureKind.NOT_FINITE, f"expected finite numbers, but got {name}")

    try:
        return json.loads(body, parse_constant=not_finite)
    except (ValueError, RecursionError) as error:
        # json raises ValueError too for integers of thousands of digits.
        raise _Refused(FailureKind.NOT_JSON, f"the answer is not JSON: {str(error)[:120]}") from None


def _instance(entry: Any, number: int, action_space: ActionSpace, frame: Frame) -> Instance:
    where = f"entry {number}"
    if not isinstance(entry, dict):
        raise _Refused(
            FailureKind.WRONG_SHAPE, f"expected an object at {where}, but got a {type(entry).__name__}"
        )
    box = entry.get("bbox_2d")
    corners = None if box is None else _numbers(box, 4, f"bbox_2d of {where}", frame)
    image_box = (
        None if corners is None else frame.box_to_image((corners[0], corners[1], corners[2], corners[3]))
    )
    # In the image frame: two numbers a rounding error apart may fall together there.
    if image_box is not None and (image_box[2] <= image_box[0] or image_box[3] <= image_box[1]):
        raise _Refused(FailureKind.DEGENERATE_BOX, f"bbox_2d of {where} has no area: {box!r:.80}")
    points = {
        key: tuple(
            frame.point_to_image((x, y)) for x, y in _points(entry.get(key), f"{key} of {where}", frame)
        )
        for key in ("positive_points", "negative_points")
    }
    if corners is None and not points["positive_points"]:
        raise _Refused(FailureKind.WRONG_SHAPE, f"{where} has neither bbox_2d nor positive_points")
    instance = Instance(image_box, points["positive_points"], points["negative_points"])
    violation = action_space.violation(instance)
    if violation is not None:
        raise _Refused(FailureKind.WRONG_ACTION, f"{violation} at {where}")
    return instance


def _points(value: Any, what: str, frame: Frame) -> list[tuple[float, float]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Refused(FailureKind.WRONG_SHAPE, f"expected a list of points in {what}")
    if len(value) == 2 and not any(isinstance(item, list) for item in value):
        value = [value]
    pairs = [_numbers(point, 2, what, frame) for point in value]
    return [(pair[0], pair[1]) for pair in pairs]


def _numbers(value: Any, count: int, what: str, frame: Frame) -> list[float]:
    """Check `count` model-frame numbers that alternate x, y."""
    if not isinstance(value, list) or len(value) != count:
        raise _Refused(FailureKind.WRONG_SHAPE, f"expected {count} numbers in {what}, but got {value!r:.80}")
    numbers: list[float] = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise _Refused(FailureKind.WRONG_SHAPE, f"expected numbers in {what}, but got {item!r:.80}")
        try:
            numbers.append(float(item))
        except OverflowError:
            raise _Refused(FailureKind.OUT_OF_FRAME, f"a number in {what} is too large") from None
    if not all(math.isfinite(number) for number in numbers):
        raise _Refused(FailureKind.NOT_FINITE, f"expected finite numbers in {what}")
    for x, y in zip(numbers[::2], numbers[1::2], strict=True):
        if not frame.contains(x, y):
            raise _Refused(
                FailureKind.OUT_OF_FRAME,
                f"({x:g}, {y:g}) in {what} is outside the frame of 0 to {frame.extent[0]}, {frame.extent[1]}",
            )
    return numbers
