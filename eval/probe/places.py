"""What an answer points at, under a supposition about its frame and its dialect.

A frame is supposed by reading the answer in it: numbers that lie outside cannot be read, and where those
that can be read point is compared with the square. Five are supposed; two of them are settings.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import get_args

from envs.boxes import pairwise_box_iou
from prompter.coords import Frame, FrameKind
from prompter.dialects import DIALECTS, Dialect
from prompter.dialects.base import FREE
from prompter.dialects.region import outside_thought
from prompter.parse import parse_completion
from prompter.policy import Policy
from prompter.types import Box, Point, PromptSet

SETTABLE: tuple[str, ...] = get_args(FrameKind)
"""Frames that the setting `frame` takes."""

FRAMES: dict[str, str] = {
    "absolute": "pixels of the image as the model sees it",
    "thousandths": "0 to 1000 along each side",
    "original": "pixels of the picture before it was resized",
    "hundredths": "0 to 100 along each side",
    "unit": "0 to 1 along each side",
}
"""Every frame that is supposed, and what it is."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?|[-+]?\.\d+"
_GROUP = re.compile(rf"[\[(]\s*((?:{_NUMBER})(?:\s*,\s*(?:{_NUMBER})){{1,3}})\s*[\])]")


def supposed_frames(image_wh: tuple[int, int], model_wh: tuple[int, int]) -> dict[str, Frame]:
    """The frames of `FRAMES` for a picture of (width, height) pixels that the model sees at `model_wh`."""
    return {
        "absolute": Frame("absolute", image_wh, model_wh),
        "thousandths": Frame("thousandths", image_wh, model_wh),
        "original": Frame("absolute", image_wh, image_wh),
        "hundredths": Frame("absolute", image_wh, (100, 100)),
        "unit": Frame("absolute", image_wh, (1, 1)),
    }


@dataclass(frozen=True)
class Pointed:
    """Where an answer points, image frame.

    Args:
        boxes: XYXY.
        points: (x, y).
    """

    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes) + len(self.points)

    def distance(self, box: Box, image_wh: tuple[int, int]) -> float:
        """Mean distance of the places from a box's centre, a share of the picture's diagonal, at most 1."""
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        places = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in self.boxes] + list(self.points)
        mean = sum(math.dist(place, centre) for place in places) / len(places)
        return min(1.0, mean / math.hypot(*image_wh))

    def overlap(self, box: Box) -> float | None:
        """Mean IoU of the boxes with a box; None without boxes."""
        return float(pairwise_box_iou(self.boxes, [box]).mean()) if self.boxes else None


def read_in(text: str, dialect: Dialect, frame: Frame, *, thought_opened: bool = False) -> Pointed | None:
    """Where an answer points if it is in a dialect and a frame; None if it cannot be read so, or is empty."""
    reading = parse_completion(
        text,
        action_space=FREE,
        frame=frame,
        dialect=dialect,
        out_of_frame="clip",
        swapped_corners="sort",
        thought_opened=thought_opened,
    )
    if not isinstance(reading, PromptSet) or not reading.instances:
        return None
    return Pointed(
        tuple(one.box for one in reading.instances if one.box is not None),
        tuple(point for one in reading.instances for point in one.positive_points),
    )


def dialects_of(policy: Policy) -> dict[str, Dialect]:
    """Every dialect of the registry by its name, and the policy's own if it is in none."""
    return {**DIALECTS, policy.settings.reads: policy.dialect}


def read_anyhow(text: str, policy: Policy, frame: Frame) -> Pointed | None:
    """Where an answer points in a frame, in whichever dialect says most, or else by its bare numbers."""
    found = [
        pointed
        for dialect in dialects_of(policy).values()
        if (pointed := read_in(text, dialect, frame, thought_opened=policy.thought_opened)) is not None
    ]
    if found:
        return max(found, key=len)
    return _bare_numbers(outside_thought(text, opened=policy.thought_opened), frame)


def _bare_numbers(text: str, frame: Frame) -> Pointed | None:
    """A box or a point from the first numbers in brackets, or from all numbers if there are two or four.

    Evidence of a frame alone: "it is at (412,388)." is in no dialect.
    """
    groups = [re.findall(_NUMBER, group) for group in _GROUP.findall(text)]
    numbers = next((group for count in (4, 2) for group in groups if len(group) == count), None)
    values = [float(number) for number in (numbers or re.findall(_NUMBER, text))]
    if not all(map(math.isfinite, values)):
        return None
    if len(values) == 4:
        x1, x2 = sorted(values[::2])
        y1, y2 = sorted(values[1::2])
        inside = frame.contains(x1, y1) and frame.contains(x2, y2) and x1 < x2 and y1 < y2
        return Pointed(boxes=(frame.box_to_image((x1, y1, x2, y2)),)) if inside else None
    if len(values) == 2 and frame.contains(values[0], values[1]):
        return Pointed(points=(frame.point_to_image((values[0], values[1])),))
    return None
