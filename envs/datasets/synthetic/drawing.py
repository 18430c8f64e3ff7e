"""Geometry and antialiased painting shared by terrain and objects.

Scene frame: x right, y down, the image is the unit square, whatever its size in pixels.
Object frame: origin at the object's centre, x along its heading, y to its right-hand side, in the
same units as the scene frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.masks import Mask

Colour = tuple[float, float, float]
"""Red, green, blue in 0..255."""
Points = NDArray[np.float64]
"""[n, 2]: x, y."""

_T = TypeVar("_T")
_FIXED_BITS = 4  # OpenCV's fixed-point fraction: drawing is exact to a sixteenth of a pixel
SUPERSAMPLING = 2
"""Objects are painted on a canvas this many times finer than the image, then averaged down."""


def pick(rng: np.random.Generator, choices: Sequence[_T]) -> _T:
    """Choose one element with equal chances."""
    return choices[int(rng.integers(len(choices)))]


def pick_weighted(rng: np.random.Generator, weights: dict[_T, float]) -> _T:
    """Choose one key with chances in proportion to its value."""
    position = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        position -= weight
        if position < 0:
            return key
    return next(reversed(weights))


def shade(colour: Colour, factor: float) -> Colour:
    """Scale a colour's brightness and keep it in range."""
    red, green, blue = (min(255.0, max(0.0, channel * factor)) for channel in colour)
    return (red, green, blue)


def jitter(rng: np.random.Generator, colour: Colour, amount: float = 8.0) -> Colour:
    """Move a colour's brightness and, half as much, each channel by up to `amount` levels."""
    common = rng.uniform(-amount, amount)
    own = rng.uniform(-amount / 2, amount / 2, 3)
    red, green, blue = (min(255.0, max(0.0, c + common + o)) for c, o in zip(colour, own, strict=True))
    return (red, green, blue)


def turn(points: ArrayLike, angle: float, centre: ArrayLike = (0.0, 0.0)) -> Points:
    """Rotate points [n, 2] by `angle` radians (x towards y) and then move them by `centre`."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.asarray(points, np.float64) @ np.array([[cosine, sine], [-sine, cosine]]) + np.asarray(centre)


def rectangle(length: float, width: float, x: float = 0.0, y: float = 0.0) -> Points:
    """Corners [4, 2] of a rectangle `length` along x and `width` along y, centred on (x, y)."""
    a, b = length / 2, width / 2
    return np.array([[x - a, y - b], [x + a, y - b], [x + a, y + b], [x - a, y + b]])


def circle(radius: float, x: float = 0.0, y: float = 0.0, corners: int = 40) -> Points:
    """A circle as a polygon [corners, 2]."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)


def arc(radius: float, x: float, y: float, start: float, stop: float, corners: int = 16) -> Points:
    """Points [corners, 2] on a circle from angle `start` to angle `stop`, in radians."""
    angles = np.linspace(start, stop, corners)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)


def stadium(length: float, width: float) -> Points:
    """Two half circles joined by straights: an athletics track's outline, [32, 2]."""
    radius, straight = width / 2, (length - width) / 2
    return np.concatenate(
        [
            arc(radius, straight, 0, -np.pi / 2, np.pi / 2),
            arc(radius, -straight, 0, np.pi / 2, 3 * np.pi / 2),
        ]
    )


def ribbon(line: Points, width: float) -> Points:
    """The polygon [2 n, 2] that a polyline [n, 2] becomes when drawn `width` wide."""
    tangents = np.gradient(line, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True) + 1e-12
    normals = np.stack([-tangents[:, 1], tangents[:, 0]], 1) * (width / 2)
    return np.concatenate([line + normals, (line - normals)[::-1]])


def fixed_point(points: ArrayLike, scale: float) -> NDArray[np.int32]:
    """Scene units to OpenCV's fixed-point pixel indices (its origin is a pixel's centre)."""
    return np.rint((np.asarray(points) * scale - 0.5) * (1 << _FIXED_BITS)).astype(np.int32)


def fill(image: NDArray, points: ArrayLike, colour: Sequence[float] | float, *, smooth: bool = True) -> None:
    """Fill a polygon given in units of the image's side, in place; `smooth` antialiases (uint8)."""
    kind = cv2.LINE_AA if smooth else cv2.LINE_8
    values = (colour,) if isinstance(colour, (int, float)) else tuple(colour)
    cv2.fillPoly(image, [fixed_point(points, image.shape[0])], values, kind, _FIXED_BITS)


def stroke(image: NDArray, points: ArrayLike, width: float, colour: Colour, *, closed: bool = False) -> None:
    """Draw a polyline `width` wide, both in units of the image's side; never thinner than a pixel."""
    thickness = max(1, round(width * image.shape[0]))
    cv2.polylines(
        image, [fixed_point(points, image.shape[0])], closed, colour, thickness, cv2.LINE_AA, _FIXED_BITS
    )


class Pen:
    """Paints one object on the supersampled canvas and records which pixels are which part of it.

    Args:
        canvas: [side, side, 3] uint8 RGB, changed in place.
        centre: the object's centre in the scene frame.
        angle: heading in radians, from x towards y.
        reach: radius, in the scene frame, of a circle about the centre that holds the object.
    """

    BODY = 1

    def __init__(self, canvas: NDArray[np.uint8], centre: tuple[float, float], angle: float, reach: float):
        self.canvas = canvas
        self.centre = centre
        self.angle = angle
        self.side = canvas.shape[0]
        self.size = self.side // SUPERSAMPLING
        low = [max(0, int((c - reach) * self.size) - 2) for c in centre]
        high = [min(self.size, int((c + reach) * self.size) + 3) for c in centre]
        self._left, self._top, self._right, self._bottom = low[0], low[1], high[0], high[1]
        rows, columns = (self._bottom - self._top), (self._right - self._left)
        self._labels = np.zeros((rows * SUPERSAMPLING, columns * SUPERSAMPLING), np.uint8)
        self._offset = np.array([self._left, self._top]) * SUPERSAMPLING
        self._names: list[str] = []

    def polygon(self, points: ArrayLike, colour: Colour | None, part: str | None = "") -> None:
        """Fill a polygon given in the object frame.

        Args:
            points: [n, 2].
            colour: None records the shape without painting it.
            part: "" for the object's body, a name for a part, None for decoration that belongs to
                whatever it lies on (or, outside the object, to the ground).
        """
        corners = turn(points, self.angle, self.centre) * self.side - 0.5
        scaled = 1 << _FIXED_BITS
        if colour is not None:
            cv2.fillPoly(
                self.canvas, [np.rint(corners * scaled).astype(np.int32)], colour, cv2.LINE_AA, _FIXED_BITS
            )
        if part is not None:
            local = np.rint((corners - self._offset) * scaled).astype(np.int32)
            cv2.fillPoly(self._labels, [local], (self._label(part),), cv2.LINE_8, _FIXED_BITS)

    def line(self, points: ArrayLike, width: float, colour: Colour, *, closed: bool = False) -> None:
        """Draw a polyline given in the object frame; decoration only."""
        stroke(self.canvas, turn(points, self.angle, self.centre), width, colour, closed=closed)

    def _label(self, part: str) -> int:
        if not part:
            return self.BODY
        if part not in self._names:
            self._names.append(part)
        return self.BODY + 1 + self._names.index(part)

    def _covered(self, labels: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """How much of each image pixel near the object is covered, 0..255, [rows, columns]."""
        rows, columns = self._bottom - self._top, self._right - self._left
        fine = labels.astype(np.uint8) * 255
        return np.asarray(cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)

    def _whole(self, window: NDArray[np.bool_]) -> Mask:
        """A mask of the object's neighbourhood as one of the image, [size, size]."""
        mask = np.zeros((self.size, self.size), np.bool_)
        mask[self._top : self._bottom, self._left : self._right] = window
        return mask

    def mask(self) -> Mask:
        """The object's mask [size, size]: pixels of which it covers at least half."""
        return self._whole(self._covered(self._labels > 0) >= 128)

    def parts(self) -> dict[str, Mask]:
        """The masks [size, size] of the named parts, without what lies on top of them.

        A pixel of the object belongs to the part that covers most of it, so parts never overlap.
        """
        if not self._names:
            return {}
        labels = range(self.BODY, self.BODY + 1 + len(self._names))
        strongest = np.stack([self._covered(self._labels == label) for label in labels]).argmax(axis=0)
        inside = self._covered(self._labels > 0) >= 128
        return {
            name: self._whole(inside & (strongest == number))
            for number, name in enumerate(self._names, start=1)
        }
