"""The kinds of places: how each theme lays out land cover, roads, water and paved ground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.datasets.synthetic.drawing import (
    Colour,
    Points,
    circle,
    jitter,
    pick,
    rectangle,
    ribbon,
    shade,
    turn,
)
from envs.datasets.synthetic.ground import PLAIN, Berth, Ground, Texture, Zone

Rng = np.random.Generator

GRASS: Colour = (96, 114, 66)
DRY_GRASS: Colour = (138, 136, 88)
SOIL: Colour = (148, 124, 96)
CONCRETE: Colour = (158, 155, 147)
ASPHALT: Colour = (96, 96, 98)
WOODS: Colour = (66, 92, 52)
WATERS: tuple[Colour, ...] = ((38, 74, 88), (46, 84, 82), (58, 86, 78), (34, 64, 92), (70, 96, 96))
CROPS: tuple[Colour, ...] = (
    (196, 176, 118),
    (104, 132, 64),
    (74, 104, 56),
    (150, 124, 92),
    (168, 166, 104),
    (128, 108, 80),
    (120, 142, 76),
    (186, 182, 92),
)


@dataclass(frozen=True)
class Theme:
    """A kind of place.

    Args:
        lay: lays the terrain on an empty ground.
        classes: which object classes may stand there, and how often, relative to each other.
        trees: how many single trees, at least and at most.
        share: how often scenes have this theme, relative to the others.
    """

    lay: Callable[[Ground, Rng], None]
    classes: dict[str, float]
    trees: tuple[int, int] = (0, 12)
    share: float = 1.0


class Layout:
    """A frame turned by `angle` about the image's centre; u along `angle`, v to its right."""

    def __init__(self, angle: float):
        self.angle = angle

    def points(self, values: object) -> Points:
        """(u, v) pairs to the scene frame; the image's centre is (0, 0)."""
        return turn(np.asarray(values, np.float64), self.angle, (0.5, 0.5))

    def box(self, u0: float, v0: float, u1: float, v1: float) -> Points:
        """A rectangle in (u, v) as scene polygon."""
        return self.points([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])

    def wavy(self, rng: Rng, v: float, amount: float) -> Points:
        """A line along u at about `v`, waving by about `amount`; (u, v) pairs [40, 2]."""
        u = np.linspace(-0.8, 0.8, 40)
        waves = sum(
            np.sin(u * frequency + rng.uniform(0, 6.3)) * weight
            for frequency, weight in ((4.0, 0.6), (9.0, 0.3), (21.0, 0.1))
        )
        return np.stack([u, v + amount * waves], 1)


def cover(ground: Ground, colour: Colour, texture: Texture = PLAIN, zone: Zone = Zone.LAND) -> None:
    """Cover the whole image."""
    ground.region(rectangle(1.2, 1.2, 0.5, 0.5), colour, texture, zone)


def patchwork(ground: Ground, rng: Rng, low: float = -0.75, high: float = 0.75) -> None:
    """Fields of different crops between v = low and v = high, each with its own furrows."""
    layout = Layout(ground.angle)
    v = low
    while v < high:
        depth = rng.uniform(0.2, 0.42)
        u = -0.75 - rng.uniform(0, 0.3)
        while u < 0.75:
            width = rng.uniform(0.25, 0.6)
            strength = rng.uniform(0.02, 0.09)
            texture = Texture(rows=strength) if rng.random() < 0.6 else Texture(cross_rows=strength)
            colour = jitter(rng, pick(rng, CROPS), 12)
            ground.region(layout.box(u, v, u + width, v + depth), colour, texture)
            if rng.random() < 0.5:
                tramlines(ground, rng, layout, (u, v, u + width, v + depth), shade(colour, 0.84))
            u += width
            if rng.random() < 0.35:
                ground.region(layout.box(u - 0.006, v, u + 0.006, v + depth), jitter(rng, GRASS))
        v += depth
        if rng.random() < 0.5:
            ground.region(
                layout.box(-0.75, v - 0.008, 0.75, v + 0.008),
                jitter(rng, pick(rng, (SOIL, WOODS))),
                Texture(canopy=0.1),
            )


def tramlines(
    ground: Ground, rng: Rng, layout: Layout, field: tuple[float, float, float, float], colour: Colour
) -> None:
    """The pairs of wheel tracks that sprayers leave along a field's furrows."""
    u0, v0, u1, v1 = field
    for at in np.arange(u0 + rng.uniform(0.03, 0.1), u1 - 0.02, rng.uniform(0.12, 0.2)).tolist():
        for track in (at, at + 0.014):
            ground.region(layout.box(track, v0, track + 0.004, v1), colour)


def greenery(ground: Ground, rng: Rng) -> None:
    """Cover the image with grass, with patches of dry grass and bare soil."""
    cover(ground, jitter(rng, pick(rng, (GRASS, GRASS, DRY_GRASS)), 12))
    for _ in range(int(rng.integers(1, 5))):
        centre = (rng.random(), rng.random())
        colour = jitter(rng, pick(rng, (GRASS, DRY_GRASS, SOIL)), 10)
        ground.blob(rng, centre, rng.uniform(0.1, 0.35), colour, PLAIN, None)


def woods(ground: Ground, rng: Rng, count: int) -> None:
    """Clumps of forest at the image's rim, up to `count`, where there is land for them."""
    for _ in range(count):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.72)
        centre = (0.5 + distance * np.cos(angle), 0.5 + distance * np.sin(angle))
        colour, radius = jitter(rng, WOODS, 10), rng.uniform(0.12, 0.3)
        if (ground.zones[ground.zone_cells(circle(radius * 1.35, *centre))] != Zone.LAND).any():
            continue
        ground.blob(rng, centre, radius, colour, Texture(canopy=0.17), Zone.BLOCKED, 0.035)


def straight(layout: Layout, v: float, bend: float = 0.0) -> Points:
    """A line across the image at about `v`, bent by up to `bend`; in the scene frame."""
    u = np.linspace(-0.8, 0.8, 25)
    return layout.points(np.stack([u, v + bend * (u**2 * 2 - 0.3)], 1))


def lay_road(ground: Ground, rng: Rng, line: Points, width: float | None = None) -> None:
    """A road of asphalt or pale concrete with a verge."""
    asphalt = rng.random() < 0.75
    surface = jitter(rng, ASPHALT if asphalt else (142, 138, 130), 10)
    verge = jitter(rng, pick(rng, (SOIL, DRY_GRASS, CONCRETE)), 8)
    ground.road(line, width or rng.uniform(0.1, 0.125), surface, verge)


def slabs(ground: Ground, layout: Layout, u0: float, v0: float, u1: float, v1: float, step: float) -> None:
    """Joints between the concrete slabs of a paved rectangle."""
    joint: Colour = (136, 134, 128)
    for u in np.arange(u0, u1, step):
        ground.marking(layout.points([[u, v0], [u, v1]]), 0.002, joint)
    for v in np.arange(v0, v1, step):
        ground.marking(layout.points([[u0, v], [u1, v]]), 0.002, joint)


def crates(ground: Ground, rng: Rng, layout: Layout, v: float) -> None:
    """A few rows of freight boxes on a quay, too small to be taken for an object of a class."""
    colours: tuple[Colour, ...] = (
        (150, 70, 58),
        (78, 98, 130),
        (178, 172, 158),
        (160, 128, 72),
        (84, 110, 92),
    )
    for _ in range(int(rng.integers(0, 3))):
        u = rng.uniform(-0.5, 0.4)
        block = layout.box(u - 0.01, v - 0.03, u + 0.12, v + 0.03)
        ground.region(block, jitter(rng, CONCRETE, 8), PLAIN, Zone.BLOCKED)
        for column in range(int(rng.integers(2, 6))):
            for row in range(2):
                if rng.random() < 0.75:
                    corner = (u + column * 0.022, v - 0.02 + row * 0.024)
                    box = layout.box(corner[0], corner[1], corner[0] + 0.018, corner[1] + 0.02)
                    ground.raised.append((box, 0.012))
                    ground.marking(box, 0.0, jitter(rng, pick(rng, colours), 10))


def harbour(ground: Ground, rng: Rng) -> None:
    """A straight quay with piers; a road and yards behind it."""
    layout = Layout(ground.angle)
    greenery(ground, rng)
    if rng.random() < 0.4:
        cover(ground, jitter(rng, pick(rng, (SOIL, CONCRETE)), 10))
    shore, depth = rng.uniform(-0.12, 0.06), rng.uniform(0.1, 0.2)
    ground.region(
        layout.box(-0.9, shore, 0.9, 0.9), jitter(rng, pick(rng, WATERS), 6), Texture(waves=0.05), Zone.WATER
    )
    ground.shallows = rng.uniform(0.0, 0.5)
    paved = jitter(rng, CONCRETE, 12)
    ground.region(layout.box(-0.9, shore - depth, 0.9, shore), paved, PLAIN, Zone.PAVED)
    slabs(ground, layout, -0.8, shore - depth, 0.8, shore, 0.07)
    ground.marking(layout.points([[-0.8, shore], [0.8, shore]]), 0.008, (92, 90, 86))
    ground.raised.append((layout.box(-0.9, shore - 0.02, 0.9, shore), 0.02))
    lay_road(ground, rng, straight(layout, shore - depth - 0.08))
    crates(ground, rng, layout, shore - depth * 0.55)
    along: tuple[float, float] = (float(-np.sin(ground.angle)), float(np.cos(ground.angle)))
    first = rng.uniform(-0.45, 0.0)
    for u in (first, first + rng.uniform(0.36, 0.5)):
        if rng.random() < 0.25:
            berth = layout.points([[u, shore]])[0]
            ground.berths.append(Berth((berth[0], berth[1]), ground.angle, 0.36, along))
            continue
        length, half = rng.uniform(0.3, 0.46), rng.uniform(0.02, 0.035)
        pier = layout.box(u - half, shore - 0.01, u + half, shore + length)
        ground.raised.append((pier, 0.022))
        ground.region(pier, jitter(rng, paved, 8), PLAIN, Zone.BLOCKED)
        ground.marking(
            layout.points(
                [[u - half, shore], [u - half, shore + length], [u + half, shore + length], [u + half, shore]]
            ),
            0.004,
            (120, 116, 110),
        )
        for side in (-1, 1):
            x, y = layout.points([[u + side * half, shore + length * 0.56]])[0]
            away = (side * float(np.cos(ground.angle)), side * float(np.sin(ground.angle)))
            ground.berths.append(Berth((x, y), ground.angle + np.pi / 2, length * 1.05, away))


def river(ground: Ground, rng: Rng) -> None:
    """A river or an arm of the sea between fields or grass, sometimes with a bridge."""
    layout = Layout(ground.angle)
    if rng.random() < 0.5:
        patchwork(ground, rng)
    else:
        greenery(ground, rng)
    middle, half, wave = rng.uniform(-0.2, 0.2), rng.uniform(0.14, 0.22), rng.uniform(0.01, 0.045)
    upper, lower = layout.wavy(rng, middle - half, wave), layout.wavy(rng, middle + half, wave)
    for margin, colour, zone in (
        (0.028, jitter(rng, (176, 160, 124), 10), Zone.BLOCKED),
        (0.0, jitter(rng, pick(rng, WATERS), 6), Zone.WATER),
    ):
        shift = np.array([0.0, margin])
        banks = np.concatenate([upper - shift, (lower + shift)[::-1]])
        texture = Texture(waves=0.045) if zone == Zone.WATER else PLAIN
        ground.region(layout.points(banks), colour, texture, zone)
    ground.shallows = rng.uniform(0.6, 1.2)
    woods(ground, rng, int(rng.integers(0, 4)))
    if rng.random() < 0.45:
        at = pick(rng, (-1, 1)) * rng.uniform(0.25, 0.4)
        across = Layout(ground.angle + np.pi / 2)
        line = straight(across, at)
        width = rng.uniform(0.1, 0.115)
        ground.raised.append((ribbon(line[[0, -1]], width * 1.2), 0.03))
        lay_road(ground, rng, line, width)
        for side in (1, -1):
            ground.marking(ribbon(line, side * width * 1.16)[: len(line)], 0.008, (190, 186, 176))
    else:
        side = -1 if middle > 0 else 1
        lay_road(ground, rng, straight(layout, middle + side * (half + 0.17)))


def airport(ground: Ground, rng: Rng) -> None:
    """A concrete apron with slab joints and taxi lines beside grass and a road."""
    layout = Layout(ground.angle)
    greenery(ground, rng)
    edge = rng.uniform(-0.28, -0.12)
    ground.region(
        layout.box(-0.9, edge, 0.9, 0.9),
        jitter(rng, pick(rng, (CONCRETE, (140, 140, 138))), 12),
        PLAIN,
        Zone.PAVED,
    )
    slabs(ground, layout, -0.8, edge, 0.8, 0.8, 0.085)
    yellow: Colour = (206, 172, 62)
    for _ in range(int(rng.integers(6, 16))):  # rubber and oil
        u, v = rng.uniform(-0.6, 0.6), rng.uniform(edge, 0.6)
        stain = layout.box(u, v, u + rng.uniform(0.02, 0.2), v + rng.uniform(0.004, 0.012))
        ground.region(stain, jitter(rng, (130, 128, 124), 8))
    taxi = rng.uniform(0.38, 0.5)
    ground.marking(layout.points([[-0.8, taxi], [0.8, taxi]]), 0.006, yellow)
    for u in np.arange(rng.uniform(-0.6, -0.4), 0.7, rng.uniform(0.28, 0.4)).tolist():
        bend = layout.points([[u, edge + 0.04], [u, taxi - 0.08], [u + 0.03, taxi - 0.02], [u + 0.09, taxi]])
        ground.marking(bend, 0.005, yellow)
    ground.marking(layout.points([[-0.8, edge + 0.02], [0.8, edge + 0.02]]), 0.005, (196, 66, 54))
    if rng.random() < 0.75:
        lay_road(ground, rng, straight(layout, edge - 0.1))


def industrial(ground: Ground, rng: Rng) -> None:
    """Yards of soil or concrete with pale service tracks and one or two roads."""
    layout = Layout(ground.angle)
    cover(ground, jitter(rng, pick(rng, (SOIL, CONCRETE, DRY_GRASS)), 12))
    for _ in range(int(rng.integers(2, 5))):
        u, v = rng.uniform(-0.6, 0.3, 2)
        colour = jitter(rng, pick(rng, (SOIL, CONCRETE, DRY_GRASS, GRASS)), 10)
        ground.region(layout.box(u, v, u + rng.uniform(0.3, 0.7), v + rng.uniform(0.25, 0.5)), colour)
    lay_road(ground, rng, straight(layout, pick(rng, (-1, 1)) * rng.uniform(0.1, 0.4)))
    if rng.random() < 0.35:
        lay_road(ground, rng, straight(Layout(ground.angle + np.pi / 2), rng.uniform(-0.3, 0.3)))
    woods(ground, rng, int(rng.integers(0, 3)))


def suburb(ground: Ground, rng: Rng) -> None:
    """Lawns and gardens on both sides of a street, with pavements."""
    layout = Layout(ground.angle)
    greenery(ground, rng)
    v = rng.uniform(-0.25, 0.25)
    for row in (v + 0.1, v - 0.55):
        u = -0.8
        while u < 0.8:
            width = rng.uniform(0.2, 0.4)
            colour = jitter(rng, pick(rng, (GRASS, GRASS, DRY_GRASS)), 14)
            ground.region(layout.box(u, row, u + width, row + 0.45), colour)
            fence = layout.points([[u, row], [u, row + 0.45]])
            ground.marking(fence, 0.004, jitter(rng, pick(rng, ((84, 100, 60), (168, 160, 146))), 8))
            u += width
    lay_road(ground, rng, straight(layout, v, rng.uniform(-0.12, 0.12)))
    if rng.random() < 0.3:
        lay_road(ground, rng, straight(Layout(ground.angle + np.pi / 2), rng.uniform(-0.35, 0.35)))


def farmland(ground: Ground, rng: Rng) -> None:
    """A patchwork of fields, woods at the rim, a country road."""
    cover(ground, jitter(rng, GRASS))
    patchwork(ground, rng)
    if rng.random() < 0.85:
        lay_road(
            ground, rng, straight(Layout(ground.angle), rng.uniform(-0.35, 0.35), rng.uniform(-0.15, 0.15))
        )
    woods(ground, rng, int(rng.integers(0, 4)))


def park(ground: Ground, rng: Rng) -> None:
    """Mown grass with paths, woods and a street at the side."""
    layout = Layout(ground.angle)
    greenery(ground, rng)
    path = layout.points(layout.wavy(rng, rng.uniform(-0.2, 0.2), 0.08))
    ground.region(ribbon(path, 0.02), jitter(rng, (190, 178, 150), 10))
    if rng.random() < 0.7:
        lay_road(ground, rng, straight(layout, pick(rng, (-1, 1)) * rng.uniform(0.3, 0.42)))
    woods(ground, rng, int(rng.integers(0, 4)))


THEMES: dict[str, Theme] = {
    "harbour": Theme(
        harbour, {"ship": 6, "storage tank": 1.4, "building": 1.6, "truck": 0.9, "car": 0.7}, (0, 6)
    ),
    "river": Theme(
        river, {"ship": 2.6, "building": 2, "storage tank": 1, "car": 0.9, "truck": 0.6, "swimming pool": 0.4}
    ),
    "airport": Theme(
        airport, {"aircraft": 6, "building": 1.4, "truck": 0.8, "car": 0.8, "storage tank": 0.7}, (0, 8)
    ),
    "industrial": Theme(industrial, {"storage tank": 3, "building": 2, "truck": 1.4, "car": 0.6}, (0, 8)),
    "suburb": Theme(
        suburb,
        {
            "building": 3,
            "swimming pool": 1.6,
            "car": 1.3,
            "truck": 0.5,
            "tennis court": 0.9,
            "basketball court": 0.8,
        },
        (8, 26),
    ),
    "farmland": Theme(farmland, {"building": 2, "storage tank": 1.4, "truck": 1.0, "car": 0.8}, (4, 20)),
    "park": Theme(
        park,
        {
            "tennis court": 1.8,
            "basketball court": 1.4,
            "running track": 1.5,
            "building": 1.2,
            "car": 0.7,
            "swimming pool": 0.8,
        },
        (6, 26),
        share=1.6,
    ),
}
"""Theme name -> what it is."""
