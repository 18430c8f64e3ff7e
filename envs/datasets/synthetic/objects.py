"""What may stand in a scene: for each class its sizes, looks and where it belongs.

How each class is painted is in `painters_*.py`; this module holds the table that scenes and queries read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.datasets.synthetic import painters_leisure as leisure
from envs.datasets.synthetic import painters_structures as structures
from envs.datasets.synthetic import painters_vehicles as vehicles
from envs.datasets.synthetic.drawing import pick
from envs.datasets.synthetic.ground import Zone
from envs.datasets.synthetic.painter import Design, Painter

Rng = np.random.Generator


MOST_OBJECTS = 30
"""No scene holds more objects than this; even the smallest would find no room."""


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects.

    Args:
        name: singular, as queries say it.
        plural: as queries say it.
        length: shortest and longest extent along the heading, as a share of the image's side.
        aspect: least and greatest width, as a share of the length.
        zones: where it may stand.
        looks: attribute -> the values it may take; "colour" decides what queries call it.
        painter: its footprint, shadow-casting solids and drawing.
        at_most: how many a scene may hold.
    """

    name: str
    plural: str
    length: tuple[float, float]
    aspect: tuple[float, float]
    zones: frozenset[Zone]
    looks: dict[str, tuple[str, ...]]
    painter: Painter
    at_most: int = MOST_OBJECTS

    def design(self, rng: Rng, scale: float = 1.0) -> Design:
        """Draw one object's size and looks; `scale` below 1 brings long ones towards the shortest."""
        low, high = self.length
        length = low * (max(high * scale, low) / low) ** rng.random()
        return Design(
            kind=self.name,
            length=float(length),
            width=float(length * rng.uniform(*self.aspect)),
            looks={name: pick(rng, values) for name, values in self.looks.items()},
            detail=int(rng.integers(1 << 31)),
        )


_GROUND = frozenset({Zone.LAND})
_YARD = frozenset({Zone.LAND, Zone.PAVED})

OBJECT_CLASSES: dict[str, ObjectClass] = {
    entry.name: entry
    for entry in (
        ObjectClass(
            "storage tank",
            "storage tanks",
            (0.1, 0.25),
            (1.0, 1.0),
            _YARD,
            {"colour": ("white", "grey", "rusty"), "roof": ("floating", "cone")},
            structures.TANK,
        ),
        ObjectClass(
            "building",
            "buildings",
            (0.14, 0.32),
            (0.5, 0.9),
            _GROUND,
            {
                "colour": ("red", "brown", "grey", "blue", "white"),
                "roof": ("gable", "gable", "flat"),
                "shape": ("rectangular", "rectangular", "L-shaped"),
            },
            structures.BUILDING,
        ),
        ObjectClass(
            "ship",
            "ships",
            (0.18, 0.4),
            (0.22, 0.3),
            frozenset({Zone.WATER}),
            {"colour": ("red", "blue", "grey", "green"), "cargo": ("containers", "hatches", "pipes")},
            vehicles.SHIP,
        ),
        ObjectClass(
            "aircraft",
            "aircraft",
            (0.2, 0.36),
            (0.92, 1.08),
            frozenset({Zone.PAVED}),
            {"colour": ("white", "grey"), "accent": ("blue", "red", "none")},
            vehicles.AIRCRAFT,
        ),
        ObjectClass(
            "tennis court",
            "tennis courts",
            (0.19, 0.34),
            (0.5, 0.55),
            _GROUND,
            {"colour": ("green", "blue")},
            leisure.TENNIS,
        ),
        ObjectClass(
            "basketball court",
            "basketball courts",
            (0.18, 0.3),
            (0.52, 0.57),
            _GROUND,
            {"colour": ("orange",)},
            leisure.BASKETBALL,
        ),
        ObjectClass(
            "running track",
            "running tracks",
            (0.36, 0.5),
            (0.52, 0.6),
            _GROUND,
            {},
            leisure.TRACK,
            at_most=1,
        ),
        ObjectClass(
            "swimming pool",
            "swimming pools",
            (0.1, 0.18),
            (0.5, 0.65),
            _GROUND,
            {"shape": ("rectangular", "round")},
            leisure.POOL,
        ),
        ObjectClass(
            "car",
            "cars",
            (0.068, 0.08),
            (0.47, 0.52),
            frozenset({Zone.ROAD}),
            {"colour": ("white", "red", "blue", "black", "yellow")},
            vehicles.CAR,
        ),
        ObjectClass(
            "truck",
            "trucks",
            (0.12, 0.165),
            (0.27, 0.31),
            frozenset({Zone.ROAD}),
            {"colour": ("white", "red", "blue")},
            vehicles.TRUCK,
        ),
    )
}
"""Class name -> its description, in a fixed order."""
