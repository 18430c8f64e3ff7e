"""One object before it is painted, and what a class must know to paint it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.datasets.synthetic.drawing import Colour, Pen, Points
from envs.datasets.synthetic.ground import Light


@dataclass(frozen=True)
class Design:
    """Size and looks of one object.

    Args:
        kind: the class name.
        length, width: extent along and across its heading, as a share of the image's side.
        looks: attribute -> value, such as {"colour": "red", "roof": "gable"}.
        detail: seed of its small details.
    """

    kind: str
    length: float
    width: float
    looks: dict[str, str]
    detail: int

    def rng(self) -> np.random.Generator:
        """A fresh generator for the details; the same each time."""
        return np.random.default_rng(self.detail)


@dataclass(frozen=True)
class Painter:
    """How a class is painted; all shapes in the object frame (see `drawing`).

    Args:
        solids: design -> convex footprints [n, 2] with their heights, which cast the shadows.
        paint: draws the object with a pen; the light is given in the object frame.
        surround: how far, relative to its width, it claims ground about itself.
        plot: design -> polygons [n, 2] with colours: the made ground it stands on.
        outline: design -> the ground it needs, if that is not the rectangle length x width.
    """

    solids: Callable[[Design], list[tuple[Points, float]]]
    paint: Callable[[Pen, Design, Light], Any]
    surround: float = 0.0
    outline: Callable[[Design], Points] | None = None
    plot: Callable[[Design], list[tuple[Points, Colour]]] | None = None


SCENE_PALETTE: dict[str, Colour] = {
    "white": (214, 212, 205),
    "grey": (150, 152, 154),
    "black": (44, 44, 48),
    "red": (164, 68, 56),
    "brown": (126, 90, 66),
    "rusty": (156, 94, 64),
    "orange": (196, 120, 70),
    "yellow": (222, 186, 60),
    "green": (70, 122, 84),
    "blue": (70, 100, 146),
}
"""What the colour words of queries look like."""
