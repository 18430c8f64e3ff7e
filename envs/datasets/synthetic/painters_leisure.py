"""Courts, running tracks and swimming pools."""

from __future__ import annotations

import numpy as np

from envs.datasets.synthetic.drawing import (
    Colour,
    Pen,
    Points,
    arc,
    circle,
    jitter,
    rectangle,
    shade,
    stadium,
)
from envs.datasets.synthetic.ground import Light
from envs.datasets.synthetic.painter import SCENE_PALETTE, Design, Painter

LINE: Colour = (236, 236, 230)


def _flat(design: Design) -> list[tuple[Points, float]]:
    return []


def _paint_tennis(pen: Pen, design: Design, light: Light) -> None:
    rng, length, width = design.rng(), design.length, design.width
    colour = jitter(rng, SCENE_PALETTE[design.looks["colour"]], 8)
    pen.polygon(rectangle(length, width), shade(colour, 0.8))
    a, b = length * 0.36, width * 0.33
    pen.polygon(rectangle(2 * a, 2 * b), shade(colour, 1.05), None)
    thin = 0.004
    pen.line(rectangle(2 * a, 2 * b), thin, LINE, closed=True)
    for y in (-0.76 * b, 0.76 * b):
        pen.line([[-a, y], [a, y]], thin, LINE)
    for x in (-0.52 * a, 0.52 * a):
        pen.line([[x, -0.76 * b], [x, 0.76 * b]], thin, LINE)
    pen.line([[-0.52 * a, 0], [0.52 * a, 0]], thin, LINE)
    net = np.array([[0, -b * 1.12], [0, b * 1.12]])
    pen.line(net + np.asarray(light.shadow) * 0.006, 0.006, shade(colour, 0.5))
    pen.line(net, 0.004, (214, 214, 212))


def _paint_basketball(pen: Pen, design: Design, light: Light) -> None:
    rng, length, width = design.rng(), design.length, design.width
    colour = jitter(rng, SCENE_PALETTE[design.looks["colour"]], 10)
    key = jitter(rng, (128, 62, 60) if rng.random() < 0.5 else (70, 92, 132), 8)
    pen.polygon(rectangle(length, width), shade(colour, 0.82))
    a, b, thin = length * 0.45, width * 0.42, 0.004
    pen.polygon(rectangle(2 * a, 2 * b), colour, None)
    pen.line(rectangle(2 * a, 2 * b), thin, LINE, closed=True)
    pen.line([[0, -b], [0, b]], thin, LINE)
    pen.polygon(circle(b * 0.27), key, None)
    pen.line(circle(b * 0.27), thin, LINE, closed=True)
    for side in (-1, 1):
        box = rectangle(a * 0.4, b * 0.62, side * a * 0.8, 0)
        pen.polygon(box, key, None)
        pen.line(box, thin, LINE, closed=True)
        facing = 0.0 if side < 0 else np.pi
        pen.line(arc(b * 0.84, side * a * 0.93, 0, facing - 1.5, facing + 1.5), thin, LINE)
        pen.polygon(circle(0.006, side * a * 0.93, 0, 8), (230, 90, 40), None)


def _track_outline(design: Design) -> Points:
    return stadium(design.length, design.width)


def _paint_track(pen: Pen, design: Design, light: Light) -> None:
    rng, length, width = design.rng(), design.length, design.width
    surface = jitter(rng, (174, 92, 68), 10)
    pen.polygon(stadium(length, width), surface)
    lanes = width * 0.15
    for number in range(1, 4):
        inset = 2 * lanes * number / 4
        pen.line(stadium(length - inset, width - inset), 0.003, shade(surface, 1.28), closed=True)
    inner_length, inner_width = length - 2 * lanes, width - 2 * lanes
    grass = jitter(rng, (92, 132, 68), 8)
    pen.polygon(stadium(inner_length, inner_width), grass, "field")
    a, b = (inner_length - inner_width) / 2 * 1.12, inner_width * 0.42
    for number in range(-3, 3, 2):
        pen.polygon(rectangle(a / 3, 2 * b, a * (number + 0.5) / 3, 0), shade(grass, 1.07), None)
    pen.line(rectangle(2 * a, 2 * b), 0.003, LINE, closed=True)
    pen.line([[0, -b], [0, b]], 0.003, LINE)
    pen.line(circle(b * 0.3), 0.003, LINE, closed=True)
    for side in (-1, 1):
        pen.line(rectangle(a * 0.3, b, side * a * 0.85, 0), 0.003, LINE, closed=True)
    pen.line([[0, width / 2 - lanes], [0, width / 2]], 0.004, LINE)


def _basin(design: Design, margin: float) -> Points:
    """A pool's outline, `margin` beyond the water."""
    length, width = design.length + 2 * margin, design.width + 2 * margin
    return rectangle(length, width) if design.looks["shape"] == "rectangular" else stadium(length, width)


def _paint_pool(pen: Pen, design: Design, light: Light) -> None:
    rng, length = design.rng(), design.length
    pen.polygon(_basin(design, 0.014), jitter(rng, (186, 178, 160), 8), None)
    pen.polygon(_basin(design, 0.003), (216, 212, 200), None)
    water = jitter(rng, (64, 176, 200), 10)
    pen.polygon(_basin(design, 0.0), shade(water, 0.8))
    pen.polygon(_basin(design, -0.007) + np.asarray(light.shadow) * 0.006, water, None)
    for y in np.linspace(-0.25, 0.25, 3) * design.width:
        wave = np.stack([np.linspace(-0.36, 0.36, 12) * length, y + 0.004 * np.sin(np.arange(12) * 1.7)], 1)
        pen.line(wave, 0.003, shade(water, 1.12))


TENNIS = Painter(_flat, _paint_tennis, surround=0.08)
BASKETBALL = Painter(_flat, _paint_basketball, surround=0.08)
TRACK = Painter(_flat, _paint_track, surround=0.04, outline=_track_outline)
POOL = Painter(_flat, _paint_pool, surround=0.3)
