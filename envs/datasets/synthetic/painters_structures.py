"""Storage tanks and buildings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from envs.datasets.synthetic.drawing import Colour, Pen, Points, circle, jitter, rectangle, shade
from envs.datasets.synthetic.ground import Light
from envs.datasets.synthetic.painter import SCENE_PALETTE, Design, Painter


def _tank_solids(design: Design) -> list[tuple[Points, float]]:
    return [(circle(design.length / 2, corners=28), 0.25 * design.length)]


def _paint_tank(pen: Pen, design: Design, light: Light) -> None:
    rng, radius = design.rng(), design.length / 2
    colour = jitter(rng, SCENE_PALETTE[design.looks["colour"]], 8)
    pen.polygon(circle(radius), shade(colour, 0.82))
    if design.looks["roof"] == "floating":
        # The rim stands above the roof: the shadow of its sunny side is a crescent on the roof.
        sunk = rng.uniform(0.12, 0.4) * radius
        pen.polygon(circle(radius * 0.97), shade(colour, 1.1))
        pen.polygon(circle(radius * 0.87), shade(colour, 0.5))
        lit = circle(radius * 0.87) + np.asarray(light.shadow) * sunk
        distance = np.linalg.norm(lit, axis=1, keepdims=True)
        lit *= np.minimum(1, radius * 0.87 / distance)
        pen.polygon(lit, shade(colour, 0.92))
        pen.polygon(circle(radius * 0.1, radius * 0.3, 0), shade(colour, 0.78))
        pen.line([[radius * 0.3, 0], [radius * 0.87, 0]], 0.004, shade(colour, 0.72))
    else:
        sectors = 20
        edges = np.linspace(0, 2 * np.pi, sectors + 1)
        rim = radius * 0.95
        for start, stop in pairwise(edges):
            middle = (start + stop) / 2
            brightness = 1 + 0.13 * light.lit(np.cos(middle), np.sin(middle))
            corners = [
                [0, 0],
                [rim * np.cos(start), rim * np.sin(start)],
                [rim * np.cos(stop), rim * np.sin(stop)],
            ]
            pen.polygon(corners, shade(colour, brightness), None)
        pen.polygon(circle(radius * 0.09), shade(colour, 1.12), None)
        pen.line([[radius * 0.1, 0], [radius, 0]], 0.003, shade(colour, 0.76))
    if rng.random() < 0.4:
        for angle in rng.uniform(0, 2 * np.pi, 3):
            streak = radius * rng.uniform(0.3, 0.75)
            mark = circle(radius * 0.06, streak * np.cos(angle), streak * np.sin(angle), 8)
            pen.polygon(mark, shade(colour, 0.84), None)


def _wings(design: Design) -> list[tuple[float, float, float, float]]:
    """A building's rectangles: (length, width, x, y) each; an L has two that overlap in the corner."""
    if design.looks["shape"] != "L-shaped":
        return [(design.length, design.width, 0.0, 0.0)]
    main = design.width * 0.5
    side = design.length * 0.36
    flip = 1 if design.detail % 2 else -1
    return [
        (design.length, main, 0.0, -(design.width - main) / 2),
        (side, design.width, flip * (design.length - side) / 2, 0.0),
    ]


def _height(design: Design) -> float:
    return 0.03 + 0.05 * (design.detail % 97) / 97


def _building_solids(design: Design) -> list[tuple[Points, float]]:
    return [(rectangle(*wing), _height(design)) for wing in _wings(design)]


def _paint_building(pen: Pen, design: Design, light: Light) -> None:
    rng = design.rng()
    colour = jitter(rng, SCENE_PALETTE[design.looks["colour"]], 9)
    if design.looks["roof"] == "flat":
        _paint_flat_roof(pen, design, light, colour, rng)
    else:
        _paint_gable_roof(pen, design, light, colour, rng)


def _paint_flat_roof(
    pen: Pen, design: Design, light: Light, colour: Colour, rng: np.random.Generator
) -> None:
    wings = _wings(design)
    for length, width, x, y in wings:
        pen.polygon(rectangle(length, width, x, y), shade(colour, 1.16))
    for length, width, x, y in wings:
        pen.polygon(rectangle(length - 0.014, width - 0.014, x, y), shade(colour, 0.93))
    length, width, x, y = wings[0]
    for number in range(int(rng.integers(2, 6))):
        side = rng.uniform(0.014, 0.034)
        at_x = x + (length / 2 - side - 0.012) * rng.uniform(-1, 1)
        at_y = y + (width / 2 - side - 0.012) * rng.uniform(-1, 1)
        box = rectangle(side * (1.5 if number else 1), side, at_x, at_y)
        pen.polygon(box + np.asarray(light.shadow) * 0.012, shade(colour, 0.58), None)
        pen.polygon(box, jitter(rng, (186, 186, 182), 16), None)
    if rng.random() < 0.2:
        panel = rectangle(length * 0.34, width * 0.5, x - length * 0.2, y)
        pen.polygon(panel, (50, 60, 86), None)
        for step in np.linspace(-0.3, -0.1, 3):
            pen.line(
                [[x + length * step, y - width / 4], [x + length * step, y + width / 4]],
                0.003,
                (120, 130, 150),
            )


def _paint_gable_roof(
    pen: Pen, design: Design, light: Light, colour: Colour, rng: np.random.Generator
) -> None:
    hip = 0.0 if rng.random() < 0.55 else 0.45
    for number, (length, width, x, y) in enumerate(_wings(design)):
        upright = width > length
        along, across = (width, length) if upright else (length, width)
        a, b, ridge = along / 2, across / 2, along / 2 - hip * across
        faces = [
            ([[-a, -b], [a, -b], [ridge, 0], [-ridge, 0]], (0.0, -1.0)),
            ([[-ridge, 0], [ridge, 0], [a, b], [-a, b]], (0.0, 1.0)),
        ]
        if hip:
            faces.append(([[a, -b], [a, b], [ridge, 0]], (1.0, 0.0)))
            faces.append(([[-a, -b], [-ridge, 0], [-a, b]], (-1.0, 0.0)))

        def place(points: object, upright: bool = upright, x: float = x, y: float = y) -> Points:
            values = np.asarray(points, np.float64)
            if upright:
                values = np.stack([-values[:, 1], values[:, 0]], 1)
            return values + np.array([x, y])

        pen.polygon(rectangle(length, width, x, y), None)
        for corners, (normal_x, normal_y) in faces:
            normal = (-normal_y, normal_x) if upright else (normal_x, normal_y)
            pen.polygon(place(corners), shade(colour, 0.99 + 0.17 * light.lit(*normal)), None)
        for offset in np.linspace(-0.75, 0.75, 4):
            if not hip:
                pen.line(place([[-a, offset * b], [a, offset * b]]), 0.002, shade(colour, 0.86))
        pen.line(place([[-ridge, 0], [ridge, 0]]), 0.005, shade(colour, 1.22))
        if number == 0 and rng.random() < 0.6:
            chimney = place(rectangle(0.018, 0.014, ridge * 0.5, across * 0.14))
            pen.polygon(chimney + np.asarray(light.shadow) * 0.014, shade(colour, 0.55), None)
            pen.polygon(chimney, (168, 150, 138), None)


def _tank_pad(design: Design) -> list[tuple[Points, Colour]]:
    """A round foundation, and often a square one with it."""
    rng = design.rng()
    pad: list[tuple[Points, Colour]] = []
    if design.detail % 3 == 0:
        side = design.length * rng.uniform(1.35, 1.7)
        pad.append((rectangle(side, side), jitter(rng, (146, 132, 110), 14)))
    pad.append((circle(design.length * 0.55), jitter(rng, (128, 122, 112), 10)))
    return pad


def _yard(design: Design) -> list[tuple[Points, Colour]]:
    """Worn or gravelled ground on one side of some buildings."""
    rng = design.rng()
    colour = jitter(rng, ((140, 134, 116), (148, 130, 100), (126, 122, 106))[design.detail % 3], 10)
    if design.detail % 2:
        return []
    depth = design.width * rng.uniform(0.3, 0.8)
    side = 1 if rng.random() < 0.5 else -1
    yard = rectangle(design.length * rng.uniform(0.5, 1.0), depth, 0, side * (design.width + depth) / 2)
    return [(yard, colour)]


TANK = Painter(_tank_solids, _paint_tank, surround=0.12, plot=_tank_pad)
BUILDING = Painter(_building_solids, _paint_building, surround=0.1, plot=_yard)
