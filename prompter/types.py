"""The nouns of the policy's side: what it samples, what it may say to a segmenter, and how it can fail to.

Everything here is in the **image frame**: pixels of the original image, x to the right, y down,
origin at the top-left corner of the top-left pixel, boxes XYXY with the lower-right corner
exclusive (half-open), all values Python floats. `prompter.coords` is the only module that knows
any other frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def _as_point(value: Any, what: str) -> Point:
    try:
        x, y = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be two numbers (x, y), but got {value!r}") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"{what} must be finite, but got {value!r}")
    return (x, y)


def _as_box(value: Any) -> Box:
    try:
        x1, y1, x2, y2 = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"box must be four numbers (x1, y1, x2, y2), but got {value!r}") from None
    if not all(math.isfinite(number) for number in (x1, y1, x2, y2)):
        raise ValueError(f"box must be finite, but got {value!r}")
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"box must have x2 > x1 and y2 > y1, but got {value!r}")
    return (x1, y1, x2, y2)


@dataclass(frozen=True, slots=True)
class Instance:
    """The prompts for one object, in the image frame.

    Args:
        box: XYXY, half-open, pixels; or None.
        positive_points: (x, y) pixels that lie on the object.
        negative_points: (x, y) pixels that do not.

    Raises:
        ValueError: if there is neither a box nor a positive point, if a box has no area, or if a
            number is missing or not finite.
    """

    box: Box | None = None
    positive_points: tuple[Point, ...] = ()
    negative_points: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        if self.box is not None:
            object.__setattr__(self, "box", _as_box(self.box))
        for name in ("positive_points", "negative_points"):
            points = tuple(_as_point(point, f"a point of {name}") for point in getattr(self, name))
            object.__setattr__(self, name, points)
        if self.box is None and not self.positive_points:
            raise ValueError("an instance needs a box or at least one positive point")

    def moved(self, x: float, y: float) -> Instance:
        """The same prompts, so many pixels to the right and down."""

        def points(given: tuple[Point, ...]) -> tuple[Point, ...]:
            return tuple((one[0] + x, one[1] + y) for one in given)

        box = None
        if self.box is not None:
            box = (self.box[0] + x, self.box[1] + y, self.box[2] + x, self.box[3] + y)
        return Instance(box, points(self.positive_points), points(self.negative_points))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict with the keys `box`, `positive_points`, `negative_points`."""
        return {
            "box": None if self.box is None else list(self.box),
            "positive_points": [list(point) for point in self.positive_points],
            "negative_points": [list(point) for point in self.negative_points],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Instance:
        """Inverse of `to_json`."""
        return cls(
            box=None if data["box"] is None else tuple(data["box"]),
            positive_points=tuple(tuple(point) for point in data["positive_points"]),
            negative_points=tuple(tuple(point) for point in data["negative_points"]),
        )


@dataclass(frozen=True, slots=True)
class PromptSet:
    """All prompts of one answer: one `Instance` per object. Empty means "no target here".

    Args:
        instances: one per object.
        clipped: boxes and points that reading moved to the frame's edge (`out_of_frame: clip`).
        sorted: boxes whose corners reading put in order (`swapped_corners: sort`).

    Two are equal if their instances are.
    """

    instances: tuple[Instance, ...] = ()
    clipped: int = field(default=0, compare=False)
    sorted: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "instances", tuple(self.instances))
        for instance in self.instances:
            if not isinstance(instance, Instance):
                raise ValueError(f"expected an Instance, but got {type(instance).__name__}")

    @property
    def is_empty(self) -> bool:
        """True when the answer says that the image holds no target."""
        return not self.instances

    def __len__(self) -> int:
        return len(self.instances)

    def to_json(self) -> list[dict[str, Any]]:
        """Return a JSON-ready list, one dict per instance."""
        return [instance.to_json() for instance in self.instances]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> PromptSet:
        """Inverse of `to_json`."""
        return cls(tuple(Instance.from_json(item) for item in data))


class FailureKind(StrEnum):
    """Why a completion could not be read as a `PromptSet`. Each kind has its own counter."""

    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    NOT_JSON = "not_json"
    WRONG_SHAPE = "wrong_shape"
    WRONG_ACTION = "wrong_action"
    NOT_FINITE = "not_finite"
    OUT_OF_FRAME = "out_of_frame"
    DEGENERATE_BOX = "degenerate_box"
    TOO_MANY = "too_many"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """A completion that is not an answer. It is data: reward 0 and a counter, never an exception.

    Args:
        kind: the first thing that was wrong.
        message: one sentence saying what was expected and what was found.
        text: the completion as it was sampled.
    """

    kind: FailureKind
    message: str
    text: str = field(default="", repr=False)

    def to_json(self) -> dict[str, str]:
        """Return a JSON-ready dict with the keys `kind` and `message` (the text is kept apart)."""
        return {"kind": str(self.kind), "message": self.message}


Reading = PromptSet | ParseFailure
"""What was read in a completion: prompts in the image frame, or why there are none."""


def mends(reading: Reading) -> list[str]:
    """What reading mended in an answer: of `clipped` and `sorted`, those that were done at all."""
    return [name for name in ("clipped", "sorted") if getattr(reading, name, 0)]


def reading_to_json(reading: Reading) -> dict[str, Any]:
    """Return a JSON-ready dict with the keys `prompts` and `failure`, one of which is None.

    Prompts that reading had to mend add `mended`, the numbers that are not 0: {"clipped": n, "sorted": n}.
    """
    if isinstance(reading, ParseFailure):
        return {"prompts": None, "failure": reading.to_json()}
    mended = {name: getattr(reading, name) for name in mends(reading)}
    return {"prompts": reading.to_json(), "failure": None, **({"mended": mended} if mended else {})}


def reading_from_json(data: Mapping[str, Any], text: str) -> Reading:
    """Inverse of `reading_to_json`; `text` is the completion, which is kept apart."""
    failure = data["failure"]
    if failure is None:
        read = PromptSet.from_json(data["prompts"])
        return PromptSet(read.instances, **(data.get("mended") or {}))
    return ParseFailure(FailureKind(failure["kind"]), failure["message"], text)


@dataclass(frozen=True)
class Completion:
    """One sampled answer, not yet read.

    Args:
        text: decoded without special tokens.
        token_ids: sampled ids, the end-of-sequence token included when it was sampled.
        logprobs: log-probability of each sampled token under the sampling policy (temperature
            applied), or None when not asked for.
        finish_reason: "stop", or "length" when cut at max_new_tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen among masks that were offered with a question, for its scores.

    Args:
        offered: how many masks there were.
        chosen: indices of those that the answer names.
        matching: indices of those that would have been right, by the truth.
    """

    offered: int
    chosen: tuple[int, ...]
    matching: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"offered": self.offered, "chosen": list(self.chosen), "matching": list(self.matching)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choice:
        """Inverse of `to_json`."""
        return cls(int(data["offered"]), tuple(data["chosen"]), tuple(data["matching"]))


@dataclass(frozen=True)
class Answer:
    """One answer to one question: a completion and what was read in it.

    Args:
        text: the completion.
        reading: prompts in the image frame, or why there are none.
        tokens: number of sampled tokens, or 0 if unknown.
        masks: one mask per instance (COCO run-length encoding, image frame) from an answerer that
            segments by itself; None from all others.
        scores: the answerer's own score of each of these masks.
        choice: what was chosen, from an answerer that chooses among offered masks; None from all others.
        offset_xy: by how many pixels the image was moved that it was asked about (`envs.views`), so that the
            text speaks of other places than the reading; None if it was not.
    """

    text: str
    reading: Reading
    tokens: int = 0
    masks: tuple[Mapping[str, Any], ...] | None = None
    scores: tuple[float, ...] = ()
    choice: Choice | None = None
    offset_xy: tuple[int, int] | None = None
