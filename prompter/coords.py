"""Coordinate frames. The only module that multiplies coordinates.

Image frame: pixels of the original image (see `prompter.types`). Model frame: the whole numbers a
model family speaks:

- `absolute`: pixels of the resized image the model sees (Qwen2.5-VL);
- `thousandths`: 0 to 1000 along each side, whatever the size (Qwen2-VL, Qwen3-VL, Qwen3.5).

Whole numbers survive model -> image -> model exactly; image -> model -> image moves a coordinate
by at most half a unit of the model frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prompter.types import Box, Point

FrameKind = Literal["absolute", "thousandths"]


@dataclass(frozen=True, slots=True)
class Frame:
    """The mapping between one image and the model frame.

    Args:
        kind: `absolute` or `thousandths`.
        image_wh: (width, height) of the original image, pixels.
        model_wh: (width, height) of the resized image the model sees, pixels.
    """

    kind: FrameKind
    image_wh: tuple[int, int]
    model_wh: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("image_wh", "model_wh"):
            if min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be positive, but got {getattr(self, name)}")

    @property
    def extent(self) -> tuple[int, int]:
        """Largest coordinate (x, y) of the model frame, inclusive."""
        return (1000, 1000) if self.kind == "thousandths" else self.model_wh

    def contains(self, x: float, y: float) -> bool:
        """Whether a model-frame coordinate lies in the frame, edges included."""
        width, height = self.extent
        return 0 <= x <= width and 0 <= y <= height

    def point_to_model(self, point: Point) -> tuple[int, int]:
        """Image frame (x, y) pixels -> nearest whole numbers of the model frame, clamped into it."""
        return (self._to_model(point[0], 0), self._to_model(point[1], 1))

    def point_to_image(self, point: tuple[float, float]) -> Point:
        """Model frame (x, y) -> image frame pixels."""
        return (self._to_image(point[0], 0), self._to_image(point[1], 1))

    def box_to_model(self, box: Box) -> tuple[int, int, int, int]:
        """Image frame XYXY -> whole numbers of the model frame; a box never collapses to no area."""
        x1, x2 = _keep_apart(self._to_model(box[0], 0), self._to_model(box[2], 0), self.extent[0])
        y1, y2 = _keep_apart(self._to_model(box[1], 1), self._to_model(box[3], 1), self.extent[1])
        return (x1, y1, x2, y2)

    def box_to_image(self, box: tuple[float, float, float, float]) -> Box:
        """Model frame XYXY -> image frame XYXY pixels."""
        x1, y1 = self.point_to_image((box[0], box[1]))
        x2, y2 = self.point_to_image((box[2], box[3]))
        return (x1, y1, x2, y2)

    def _to_model(self, value: float, axis: int) -> int:
        scaled = value * self.extent[axis] / self.image_wh[axis]
        return min(max(math.floor(scaled + 0.5), 0), self.extent[axis])

    def _to_image(self, value: float, axis: int) -> float:
        return value * self.image_wh[axis] / self.extent[axis]


def _keep_apart(low: int, high: int, limit: int) -> tuple[int, int]:
    if high > low:
        return low, high
    return (low, low + 1) if low < limit else (limit - 1, limit)


MAX_ASPECT = 200
"""Longer side over shorter side that the Qwen-VL image processors still take; thinner images are widened."""


def fit_size(image_wh: tuple[int, int], *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Size (width, height) at which a Qwen-VL processor shows an image to its model.

    Both sides become multiples of `factor` (patch size x merge size), the area falls within
    [min_pixels, max_pixels] and the aspect ratio is kept as nearly as that allows. The rule is
    `smart_resize` of the Qwen-VL image processors; resizing to its result beforehand makes the
    processor's own resize the identity, so both sides agree on the frame.

    The processors refuse a longer side of more than `MAX_ASPECT` times the shorter, in the image and in what
    is made of it. Here such an image is widened, and the result brought within that: each axis maps for
    itself, so coordinates stay right.
    """
    width, height = (max(float(side), max(image_wh) / MAX_ASPECT) for side in image_wh)
    fitted_width = round(width / factor) * factor
    fitted_height = round(height / factor) * factor
    if fitted_width * fitted_height > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        fitted_width = max(factor, math.floor(width / shrink / factor) * factor)
        fitted_height = max(factor, math.floor(height / shrink / factor) * factor)
    elif fitted_width * fitted_height < min_pixels:  # so is a side that was rounded to nothing
        grow = math.sqrt(min_pixels / (width * height))
        fitted_width = math.ceil(width * grow / factor) * factor
        fitted_height = math.ceil(height * grow / factor) * factor
    short, long = sorted((fitted_width, fitted_height))
    if long > MAX_ASPECT * short:
        # Both are multiples of the factor, and so is what the longer side is cut to.
        if MAX_ASPECT * short * short >= min_pixels:
            long = MAX_ASPECT * short
        else:
            short += factor
        fitted_width, fitted_height = (long, short) if width > height else (short, long)
    return fitted_width, fitted_height


def largest_area(*, factor: int, min_pixels: int, max_pixels: int) -> int:
    """A bound on the area of any size that `fit_size` gives, in pixels; at least `max_pixels`.

    It is more than `max_pixels` where the range is narrow or small: rounding up to `min_pixels` adds
    up to `factor` pixels a side, and a thin image keeps a side of `factor` when it is shrunk.
    """
    length = math.sqrt(MAX_ASPECT)
    grown = min_pixels + factor * math.sqrt(min_pixels) * (length + 1 / length) + factor**2
    shrunk = factor * math.sqrt(max_pixels) * length
    return max(max_pixels, math.ceil(grown), math.ceil(shrunk))
