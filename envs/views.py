"""An image moved a little, for one more look at it; and what is answered about it, moved back.

A small policy's answer hangs on how an object falls on its grid of patches. Answers to the same image moved
by a few pixels go wrong in different places (test-time augmentation).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from envs.sample import Sample
from prompter.policy import Policy
from prompter.sampling.token_sampler import named_seed
from prompter.types import (
    Answer,
    Box,
    Completion,
    FailureKind,
    Instance,
    ParseFailure,
    Point,
    PromptSet,
    Reading,
)

LEAST_INSIDE = 1 / 3
"""Share of a box's area that lies in the image where the box counts. An object at the edge and its mirror
image are one object in a view, half of which lies inside."""


@dataclass(frozen=True)
class View:
    """An image of the same size in which (x, y) shows what the original has at (x + dx, y + dy).

    What lies beyond the original's edge is its mirror image.

    Args:
        offset_xy: (dx, dy) in pixels of the original image, each less than its side.
    """

    offset_xy: tuple[int, int]

    def of(self, sample: Sample) -> Sample:
        """The question asked about the view; its target stays that of the original, and so do prompts that
        `read_answer` reads."""
        moved = partial(_load_shown, sample.load_image, self)
        return replace(sample, image_id=f"{sample.image_id}{self.offset_xy}", load_image=moved)

    def show(self, image: Image.Image) -> Image.Image:
        """The view of an image (PIL RGB), of the same size."""
        columns, rows = (
            np.arange(offset, side + offset) for offset, side in zip(self.offset_xy, image.size, strict=True)
        )
        pixels = np.asarray(image.convert("RGB"))
        return Image.fromarray(pixels[_mirrored(rows, image.height)][:, _mirrored(columns, image.width)])

    def read_back(self, reading: Reading, image_wh: tuple[int, int], text: str = "") -> Reading:
        """What was answered about the view, in the frame of the original.

        Boxes are cut at the image's edge. A box of which less than `LEAST_INSIDE` lies inside is about the
        mirror image, and its instance is dropped; so is a point outside, and an instance without a box that
        is left with no positive point.

        Args:
            reading: prompts in the view's pixels, or why there are none.
            image_wh: (width, height) of the image and of the view.
            text: the completion, kept in a failure.

        Returns:
            Prompts in the original's pixels. An answer that named something, of which nothing is left, is
            not "nothing there" but a failure, `out_of_frame`.
        """
        if isinstance(reading, ParseFailure) or reading.is_empty:
            return reading
        kept = [moved for one in reading.instances if (moved := self._instance(one, image_wh)) is not None]
        if not kept:
            message = "all that it names lies in the mirrored margin of a moved view, outside the image"
            return ParseFailure(FailureKind.OUT_OF_FRAME, message, text)
        return PromptSet(tuple(kept), reading.clipped, reading.sorted)

    def _instance(self, one: Instance, image_wh: tuple[int, int]) -> Instance | None:
        positive, negative = (
            tuple(moved for point in points if (moved := self._point(point, image_wh)) is not None)
            for points in (one.positive_points, one.negative_points)
        )
        box = None if one.box is None else self._box(one.box, image_wh)
        lost = one.box is not None and box is None
        return None if lost or (box is None and not positive) else Instance(box, positive, negative)

    def _point(self, point: Point, image_wh: tuple[int, int]) -> Point | None:
        x, y = point[0] + self.offset_xy[0], point[1] + self.offset_xy[1]
        return (x, y) if 0 <= x < image_wh[0] and 0 <= y < image_wh[1] else None

    def _box(self, box: Box, image_wh: tuple[int, int]) -> Box | None:
        (dx, dy), (width, height) = self.offset_xy, image_wh
        x1, x2 = (min(max(x + dx, 0.0), float(width)) for x in (box[0], box[2]))
        y1, y2 = (min(max(y + dy, 0.0), float(height)) for y in (box[1], box[3]))
        inside = (x2 - x1) * (y2 - y1)
        return (x1, y1, x2, y2) if inside >= LEAST_INSIDE * (box[2] - box[0]) * (box[3] - box[1]) else None


def read_answer(policy: Policy, completion: Completion, sample: Sample, view: View) -> Answer:
    """Read a completion about a view of a sample's image into prompts in the image's own frame."""
    answer = policy.read(completion, sample.image_wh)
    reading = view.read_back(answer.reading, sample.image_wh, answer.text)
    return replace(answer, reading=reading, offset_xy=view.offset_xy)


def drawn_view(name: str, seed: int, shift: float, image_wh: tuple[int, int]) -> View:
    """A view that follows from its name and the seed alone.

    Args:
        name: of the image and of the look.
        seed: of the run.
        shift: the most by which the image is moved, as a share of each side, in [0, 0.5].
        image_wh: (width, height) of the image.
    """
    draw = random.Random(named_seed(seed, name))
    most = [round(shift * side) for side in image_wh]
    return View((draw.randint(-most[0], most[0]), draw.randint(-most[1], most[1])))


def _load_shown(load_image: Callable[[], Image.Image], view: View) -> Image.Image:
    return view.show(load_image())


def _mirrored(places: np.ndarray, side: int) -> np.ndarray:
    """Places along a side, those beyond an edge mirrored at it; int64, each within a side of the edge."""
    return np.where(places < 0, -1 - places, np.where(places >= side, 2 * side - 1 - places, places))
