"""Ships, aircraft, cars and trucks."""

from __future__ import annotations

import numpy as np

from envs.datasets.synthetic.drawing import Colour, Pen, Points, circle, jitter, pick, rectangle, shade
from envs.datasets.synthetic.ground import Light
from envs.datasets.synthetic.painter import SCENE_PALETTE, Design, Painter

GLASS: Colour = (38, 46, 58)
CONTAINERS: tuple[Colour, ...] = (
    (170, 64, 50),
    (62, 96, 150),
    (206, 202, 192),
    (196, 142, 60),
    (74, 118, 92),
)


def _hull(length: float, width: float) -> Points:
    """A hull seen from above, bow at +x, [n, 2]."""
    a, b = length / 2, width / 2
    right = [
        [-a, b * 0.72],
        [-a * 0.9, b * 0.96],
        [-a * 0.6, b],
        [a * 0.45, b],
        [a * 0.72, b * 0.74],
        [a * 0.9, b * 0.36],
    ]
    half = np.array([*right, [a, 0.0]])
    mirrored = half[:-1][::-1] * [1, -1]
    return np.concatenate([half, mirrored])


def _house(design: Design) -> Points:
    """The superstructure's footprint: near the stern."""
    return rectangle(design.length * 0.15, design.width * 0.78, -design.length * 0.33, 0)


def _ship_solids(design: Design) -> list[tuple[Points, float]]:
    return [(_hull(design.length, design.width), 0.025), (_house(design), 0.06)]


def _paint_ship(pen: Pen, design: Design, light: Light) -> None:
    rng, length, width = design.rng(), design.length, design.width
    hull = SCENE_PALETTE[design.looks["colour"]]
    pen.polygon(_hull(length, width), shade(hull, 0.7))
    deck = jitter(rng, hull, 8)
    pen.polygon(_hull(length * 0.955, width * 0.84), deck, None)
    hold = rectangle(length * 0.6, width * 0.62, length * 0.09, 0)
    low, high = hold[0], hold[2]
    cargo = design.looks["cargo"]
    if cargo == "containers":
        columns, rows = 8, 3
        for column in range(columns):
            if rng.random() < 0.1:
                continue
            for row in range(rows):
                cell_x = low[0] + (column + 0.5) * (high[0] - low[0]) / columns
                cell_y = low[1] + (row + 0.5) * (high[1] - low[1]) / rows
                box = rectangle(length * 0.064, width * 0.185, cell_x, cell_y)
                pen.polygon(box, jitter(rng, pick(rng, CONTAINERS), 10), None)
    elif cargo == "hatches":
        for number in range(4):
            x = low[0] + (number + 0.5) * (high[0] - low[0]) / 4
            hatch = rectangle(length * 0.115, width * 0.56, x, 0)
            pen.polygon(hatch + np.asarray(light.shadow) * 0.005, shade(deck, 0.6), None)
            pen.polygon(hatch, shade((186, 180, 166), rng.uniform(0.9, 1.08)), None)
    else:
        for y in np.array([-0.2, 0.0, 0.2]) * width:
            pen.line([[low[0], y], [high[0], y]], 0.005, (206, 200, 188))
        for x in np.linspace(low[0], high[0], 5):
            pen.line([[x, -width * 0.3], [x, width * 0.3]], 0.004, (196, 190, 180))
    house = _house(design)
    pen.polygon(house + np.asarray(light.shadow) * 0.018, shade(deck, 0.45), None)
    pen.polygon(house, (234, 232, 226), "superstructure")
    x, _ = house.mean(axis=0)
    pen.polygon(rectangle(length * 0.05, width * 0.78, x + length * 0.045, 0), (204, 206, 206), None)
    pen.line([[x + length * 0.07, -width * 0.36], [x + length * 0.07, width * 0.36]], 0.005, GLASS)
    funnel = circle(width * 0.13, x - length * 0.04, 0, 14)
    pen.polygon(funnel, shade(SCENE_PALETTE["black"], 1.2), None)


def _fuselage(design: Design) -> Points:
    """The fuselage, nose at +x, [n, 2]."""
    a, b = design.length / 2, design.length * 0.06
    half = np.array(
        [
            [-a, b * 0.12],
            [-a * 0.72, b * 0.62],
            [-a * 0.4, b],
            [a * 0.62, b],
            [a * 0.82, b * 0.82],
            [a * 0.94, b * 0.45],
        ]
    )
    return np.concatenate([half, [[a, 0.0]], half[::-1] * [1, -1]])


def _wing(design: Design, side: int) -> Points:
    """One swept wing; side +1 is the aircraft's right-hand side, -1 its left."""
    a, b = design.length / 2, design.width / 2
    return np.array([[a * 0.3, 0], [-a * 0.16, b], [-a * 0.32, b], [-a * 0.22, b * 0.3], [-a * 0.24, 0]]) * [
        1,
        side,
    ]


def _tailplane(design: Design) -> Points:
    a, b = design.length / 2, design.width * 0.2
    half = np.array([[-a * 0.62, 0], [-a * 0.9, b], [-a * 1.0, b], [-a * 0.97, 0]])
    return np.concatenate([half, half[-2:0:-1] * [1, -1]])


def _aircraft_solids(design: Design) -> list[tuple[Points, float]]:
    shapes = (_fuselage(design), _wing(design, 1)[:4], _wing(design, -1)[:4], _tailplane(design))
    return [(shape, height) for shape, height in zip(shapes, (0.03, 0.035, 0.035, 0.05), strict=True)]


def _paint_aircraft(pen: Pen, design: Design, light: Light) -> None:
    rng, length = design.rng(), design.length
    colour = jitter(rng, shade(SCENE_PALETTE[design.looks["colour"]], 1.04), 5)
    accent = SCENE_PALETTE.get(design.looks["accent"], shade(colour, 0.8))
    a, b = length / 2, design.width / 2
    for y in (0.36, -0.36):
        engine = rectangle(length * 0.11, length * 0.042, a * 0.1, y * b)
        pen.polygon(engine, shade(colour, 0.8), "left wing" if y < 0 else "right wing")
    for side, name in ((1, "right wing"), (-1, "left wing")):
        wing = _wing(design, side)
        pen.polygon(wing, shade(colour, 0.96 + 0.03 * light.lit(0, side)), name)
        pen.line([[-a * 0.17, side * b * 0.3], [-a * 0.24, side * b * 0.97]], 0.003, shade(colour, 0.76))
    pen.polygon(_tailplane(design), shade(colour, 0.95), "tail")
    body = _fuselage(design)
    pen.polygon(body, shade(colour, 0.88), "fuselage")
    pen.polygon(body * [0.99, 0.62] - np.asarray(light.shadow) * length * 0.014, shade(colour, 1.05), None)
    pen.polygon(rectangle(a * 0.4, length * 0.022, -a * 0.78, 0), accent, "tail")
    pen.polygon(
        [
            [a * 0.84, -length * 0.03],
            [a * 0.89, -length * 0.02],
            [a * 0.89, length * 0.02],
            [a * 0.84, length * 0.03],
        ],
        GLASS,
        None,
    )


def _car_outline(length: float, width: float) -> Points:
    a, b = length / 2, width / 2
    half = np.array([[-a, b * 0.7], [-a * 0.9, b], [a * 0.8, b], [a, b * 0.55]])
    return np.concatenate([half, half[::-1] * [1, -1]])


def _car_solids(design: Design) -> list[tuple[Points, float]]:
    return [(_car_outline(design.length, design.width), 0.014)]


def _paint_car(pen: Pen, design: Design, light: Light) -> None:
    length, width = design.length, design.width
    colour = jitter(design.rng(), SCENE_PALETTE[design.looks["colour"]], 8)
    pen.polygon(_car_outline(length, width), shade(colour, 0.86))
    pen.polygon(rectangle(length * 0.52, width * 0.78, -length * 0.06, 0), GLASS, None)
    pen.polygon(rectangle(length * 0.3, width * 0.7, -length * 0.08, 0), shade(colour, 1.12), None)
    pen.polygon(rectangle(length * 0.22, width * 0.8, length * 0.34, 0), shade(colour, 1.0), None)


def _truck_solids(design: Design) -> list[tuple[Points, float]]:
    return [(rectangle(design.length, design.width), 0.026)]


def _paint_truck(pen: Pen, design: Design, light: Light) -> None:
    rng, length, width = design.rng(), design.length, design.width
    colour = jitter(rng, SCENE_PALETTE[design.looks["colour"]], 8)
    cab = jitter(rng, pick(rng, (SCENE_PALETTE["white"], shade(colour, 1.15))), 8)
    pen.polygon(rectangle(length, width * 0.7), (60, 60, 62))
    pen.polygon(rectangle(length * 0.73, width, -length * 0.135, 0), shade(colour, 0.84))
    pen.polygon(rectangle(length * 0.71, width * 0.86, -length * 0.135, 0), shade(colour, 1.02), None)
    for x in np.linspace(-0.42, 0.16, 5) * length:
        pen.line([[x, -width * 0.43], [x, width * 0.43]], 0.002, shade(colour, 0.88))
    pen.polygon(rectangle(length * 0.2, width * 0.92, length * 0.4, 0), cab)
    pen.polygon(rectangle(length * 0.045, width * 0.8, length * 0.45, 0), GLASS, None)


SHIP = Painter(_ship_solids, _paint_ship, surround=0.18)
AIRCRAFT = Painter(_aircraft_solids, _paint_aircraft, surround=0.03)
CAR = Painter(_car_solids, _paint_car, surround=0.1)
TRUCK = Painter(_truck_solids, _paint_truck, surround=0.1)
