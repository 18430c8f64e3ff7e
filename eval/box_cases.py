"""What rules that score boxes look at: the answer as text and as read, and the box round the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.boxes import pairwise_box_iou
from envs.rollout import Rollout
from prompter.types import Box, ParseFailure
from rewards.box import answered_boxes, target_boxes

NOTHING: Box = (0.0, 0.0, 0.0, 0.0)
"""What most public evaluators make of an answer without a box."""


@dataclass(frozen=True)
class BoxCase:
    """One query as a rule about boxes sees it.

    Args:
        text: the completion.
        boxes: the boxes that this project's reader found in it, XYXY half-open pixels of the image; None
            where it is no answer.
        image_wh: (width, height) of the image in pixels.
        target: the box round all target objects, XYXY half-open pixels; None where there is none.
        objects: how many target objects are told apart.
    """

    text: str
    boxes: Sequence[Box] | None
    image_wh: tuple[int, int]
    target: Box | None
    objects: int = 1


@dataclass(frozen=True, slots=True)
class BoxVerdict:
    """What a rule makes of a case.

    Args:
        iou: of the box the rule takes for the answer, in [0, 1].
        centre: whether the centre of that box lies in the target's box.
        read: whether the rule found a box in the answer.
    """

    iou: float
    centre: bool
    read: bool


BoxJudge = Callable[[BoxCase], BoxVerdict]


@dataclass(frozen=True)
class Verdicts:
    """A rule's verdicts on all queries: ious float64 [queries], centres and read bool [queries]."""

    ious: NDArray[np.float64]
    centres: NDArray[np.bool_]
    read: NDArray[np.bool_]

    def select(self, indices: NDArray[np.intp]) -> Verdicts:
        """The verdicts on some queries (indices [queries])."""
        return Verdicts(self.ious[indices], self.centres[indices], self.read[indices])


def case_of(rollout: Rollout) -> BoxCase:
    """The case that a rollout is."""
    boxes = None if isinstance(rollout.reading, ParseFailure) else answered_boxes(rollout)
    wanted = target_boxes(rollout)
    return BoxCase(rollout.completion, boxes, rollout.image_wh, enclosing(wanted), len(wanted))


def box_of(numbers: Iterable[Any]) -> Box:
    """Four numbers, or four texts of numbers, as a box.

    Raises:
        TypeError, ValueError, OverflowError: if they are not four, or `float` does not take one.
    """
    x1, y1, x2, y2 = (float(number) for number in numbers)
    return (x1, y1, x2, y2)


def enclosing(boxes: Sequence[Box]) -> Box | None:
    """The smallest box round all boxes, XYXY; None round nothing."""
    if not boxes:
        return None
    columns = list(zip(*boxes, strict=True))
    return (min(columns[0]), min(columns[1]), max(columns[2]), max(columns[3]))


def iou_with(box: Box, target: Box | None) -> float:
    """IoU, in [0, 1], of what a text gave as a box, whatever its numbers; 0 without a target.

    A box with swapped corners, without area or with a number that is not finite has an IoU of 0.
    """
    if target is None or not all(map(math.isfinite, box)):
        return 0.0
    with np.errstate(over="ignore"):
        return float(pairwise_box_iou([box], [target])[0, 0])


def centre_in(box: Box, target: Box | None) -> bool:
    """Whether the centre of a box lies in the target's, edges included; False without a target."""
    if target is None:
        return False
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return target[0] <= x <= target[2] and target[1] <= y <= target[3]


def best_of(candidates: Sequence[Box], target: Box | None) -> tuple[Box, float]:
    """The first of the candidates that fit the target best, and its IoU; `NOTHING` of none."""
    ious = [iou_with(box, target) for box in candidates]
    if not ious:
        return NOTHING, 0.0
    best = max(ious)
    return candidates[ious.index(best)], best


def scaled(box: Sequence[float], image_wh: tuple[int, int], extent: float | tuple[float, float]) -> Box:
    """A box in units of which `extent` (one number, or x and y) span the image, in pixels of the image."""
    across, down = extent if isinstance(extent, tuple) else (extent, extent)
    width, height = image_wh
    x1, y1, x2, y2 = box
    return (x1 / across * width, y1 / down * height, x2 / across * width, y2 / down * height)
