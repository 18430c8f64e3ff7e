"""Masks proposed for one image: a grid over it, detections' boxes, and grids inside those boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from envs.executors.base import Executor, ExecutorFailure
from envs.masks import RLE
from envs.proposals.grid import grid_points, image_grid, point_prompts
from envs.proposals.propose import segment_each
from envs.sample import RGB
from prompter.types import Box, Instance
from recipes.engine.detections import Detection

LONG_RATIO = 2.5
"""From this ratio of the sides on a box gets a single row of points."""
SIDE = 4

Source = Literal["box", "grid", "inside"]


@dataclass(frozen=True)
class Candidate:
    """A proposed mask with where it comes from, in the image frame.

    Args:
        mask: run-length encoding; not empty.
        source: `box`, a detection's box was the prompt; `grid`, a point of the grid over the image; `inside`,
            a point of the grid inside a detection's box.
        prompt: what was said to the segmenter.
        box: its tight XYXY half-open box, pixels.
        area: pixels.
        predicted_iou, stability: as the segmenter scored it.
        detection: number of the detection that it was made from or in; None for the grid.
        label: the detection's category, for `box` only; "" for others, which have none yet.
    """

    mask: RLE
    source: Source
    prompt: Instance
    box: Box
    area: int
    predicted_iou: float
    stability: float
    detection: int | None = None
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` is the inverse."""
        return {**self.__dict__, "prompt": self.prompt.to_json(), "box": list(self.box)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Candidate:
        """Inverse of `to_json`."""
        prompt, box = Instance.from_json(data["prompt"]), tuple(data["box"])
        return cls(**{**data, "prompt": prompt, "box": box})


def inside_grid(box: Box) -> tuple[int, int]:
    """(columns, rows) of the grid inside a box, by SegEarth-R2's supplement 7.2.

    With r the longer side over the shorter: ceil(r) + 1 points in one row for r >= 2.5, else 4 x 4.
    The paper writes (R, C) = (ceil(r) + 1, 1) whichever side is longer; here the row lies along the longer.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    ratio = max(width, height) / min(width, height)
    if ratio < LONG_RATIO:
        return (SIDE, SIDE)
    count = math.ceil(ratio) + 1
    return (count, 1) if width >= height else (1, count)


def propose_masks(
    executor: Executor, image: RGB, detections: Sequence[Detection], *, grid: int, inside: bool, key: str
) -> tuple[list[Candidate], int] | ExecutorFailure:
    """Propose masks for one image, unfiltered.

    Args:
        executor: the frozen segmenter; the image is encoded once.
        image: [height, width, 3] uint8 RGB.
        detections: its boxes; what of one lies outside of the image is cut off.
        grid: points a side over the whole image; 0 for none.
        inside: also a grid inside each box.
        key: the image's identity, see `envs.executors.base.SegmentRequest`.

    Returns:
        The masks, boxes first, and how many prompts gave an empty one; or why the image cannot be served.
    """
    height, width = image.shape[:2]
    asked: list[tuple[Source, Instance, int | None]] = []
    for number, one in enumerate(detections):
        box = _within(one.box, width, height)
        if box is not None:
            asked.append(("box", Instance(box), number))
    if grid:
        asked += [("grid", prompt, None) for prompt in image_grid((width, height), grid)]
    if inside:
        for number, one in enumerate(detections):
            box = _within(one.box, width, height)
            if box is not None:
                points = grid_points(box, *inside_grid(box))
                asked += [("inside", prompt, number) for prompt in point_prompts(points)]
    if not asked:
        return [], 0
    found = segment_each(executor, image, [prompt for _, prompt, _ in asked], key)
    if isinstance(found, ExecutorFailure):
        return found
    candidates = []
    for proposal in found:
        source, prompt, number_of = asked[proposal.prompt]
        label = detections[number_of].label if source == "box" and number_of is not None else ""
        candidates.append(
            Candidate(
                proposal.mask,
                source,
                prompt,
                proposal.box,
                proposal.area,
                proposal.predicted_iou,
                proposal.stability,
                number_of,
                label,
            )
        )
    return candidates, len(asked) - len(found)


def _within(box: Box, width: int, height: int) -> Box | None:
    """What of a box lies in the image; None if that is less than a pixel wide or high."""
    x1, y1, x2, y2 = max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])
    return (x1, y1, x2, y2) if x2 - x1 >= 1 and y2 - y1 >= 1 else None
