"""Action spaces: which prompts an answer may hold, and how an answer is written.

The field's variants differ only here: box only, points only, box and points, with or without
negative points (Think2Seg-RS uses a box and two positive points; SAM-R1 found negative points
unnecessary). `any` leaves the choice between box and points to the policy.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from prompter.coords import Frame
from prompter.runs.config import StrictModel
from prompter.types import Instance, PromptSet


class ActionSpace(StrictModel):
    """What one instance of an answer may hold."""

    kind: Literal["box", "points", "box+points", "any"] = "box+points"
    """`box` (a box, no points), `points` (points, no box), `box+points` (both), or `any` (a box, positive
    points, or both)."""

    positive_points: int = Field(default=2, ge=1, le=16)
    """Most positive points per instance."""

    negative_points: int = Field(default=0, ge=0, le=16)
    """Most negative points per instance; 0 forbids them."""

    max_instances: int = Field(default=32, ge=1, le=1024)
    """Most instances per answer."""

    def violation(self, instance: Instance) -> str | None:
        """Return what `instance` has or lacks against this action space, or None if it fits."""
        if self.kind in ("box", "box+points") and instance.box is None:
            return "a bbox_2d is required"
        if self.kind == "points" and instance.box is not None:
            return "a bbox_2d is not allowed"
        if self.kind in ("points", "box+points") and not instance.positive_points:
            return "positive_points are required"
        if self.kind == "box" and instance.positive_points:
            return "positive_points are not allowed"
        if len(instance.positive_points) > self.positive_points:
            return f"at most {self.positive_points} positive_points are allowed"
        if len(instance.negative_points) > self.negative_points:
            return (
                f"at most {self.negative_points} negative_points are allowed"
                if self.negative_points
                else "negative_points are not allowed"
            )
        return None

    def schema_text(self) -> str:
        """Describe one entry of the answer list for the system prompt, as a JSON-like template."""
        parts = []
        if self.kind != "points":
            parts.append('"bbox_2d":[x1,y1,x2,y2]')
        if self.kind != "box":
            parts.append('"positive_points":[[x,y],…]')
        if self.negative_points:
            parts.append('"negative_points":[[x,y],…]')
        return "{" + ",".join(parts) + "}"

    def limits_text(self) -> str:
        """Say in one sentence how many points are allowed and whether keys may be left out."""
        sentences = []
        if self.kind == "any":
            sentences.append("Give bbox_2d, positive_points, or both.")
        if self.kind != "box":
            sentences.append(f"Give at most {_count(self.positive_points)} per target.")
        if self.negative_points:
            sentences.append(f"You may add at most {_count(self.negative_points)} that are off the target.")
        return " ".join(sentences)


def _count(points: int) -> str:
    return "1 point" if points == 1 else f"{points} points"


def write_answer(prompts: PromptSet, frame: Frame, *, think: str | None = None) -> str:
    """Write an answer as the policy should: compact JSON in the model frame inside `<answer>`.

    Args:
        prompts: image-frame prompts.
        frame: the frame the policy speaks.
        think: optional reasoning put into `<think>` before the answer.

    `prompter.parse.parse_completion` reads it back to the same prompts, up to the frame's whole
    numbers.
    """
    body = "[" + ",".join(_render_instance(instance, frame) for instance in prompts.instances) + "]"
    prefix = "" if think is None else f"<think>{think}</think>"
    return f"{prefix}<answer>{body}</answer>"


def _render_instance(instance: Instance, frame: Frame) -> str:
    parts = []
    if instance.box is not None:
        parts.append(f'"bbox_2d":{_numbers(frame.box_to_model(instance.box))}')
    for key in ("positive_points", "negative_points"):
        points: tuple[Any, ...] = getattr(instance, key)
        if points:
            inner = ",".join(_numbers(frame.point_to_model(point)) for point in points)
            parts.append(f'"{key}":[{inner}]')
    return "{" + ",".join(parts) + "}"


def _numbers(values: tuple[int, ...]) -> str:
    return "[" + ",".join(str(value) for value in values) + "]"
