"""The ground layer: regions with a colour, a texture and a zone that says what may stand on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.datasets.synthetic.drawing import (
    SUPERSAMPLING,
    Colour,
    Points,
    circle,
    fill,
    fixed_point,
    rectangle,
    ribbon,
    stroke,
    turn,
)
from envs.datasets.synthetic.textures import crop_origin, rotated_crop, texture_bank
from envs.sample import RGB

SHADED: Colour = (0.45, 0.47, 0.54)
"""What is left of red, green and blue in a shadow: skylight is blue."""
_SHADE_TABLE = np.rint(255 - np.arange(256)[None, :, None] * (1 - np.array(SHADED))).astype(np.uint8)
ZONE_CELLS = 64
"""Zones and occupied places are kept on a grid of this many cells a side."""


class Zone(IntEnum):
    """What a place is good for."""

    LAND = 1
    WATER = 2
    ROAD = 3
    PAVED = 4
    BLOCKED = 5


@dataclass(frozen=True)
class Light:
    """One sun for the whole scene.

    Args:
        shadow: unit vector (x, y) along which shadows fall; the sun is on the other side.
        stretch: length of a shadow per unit of height.
    """

    shadow: tuple[float, float]
    stretch: float

    def lit(self, x: float, y: float) -> float:
        """Cosine between a horizontal direction (x, y), a unit vector, and the direction to the sun."""
        return -(x * self.shadow[0] + y * self.shadow[1])


@dataclass(frozen=True)
class Texture:
    """How strongly each texture shows on a region: amplitudes relative to its brightness, 0..0.5.

    `rows` and `cross_rows` are the furrows of fields along and across the scene's main direction.
    """

    rows: float = 0.0
    cross_rows: float = 0.0
    canopy: float = 0.0
    waves: float = 0.0

    def levels(self) -> tuple[float, float, float, float]:
        """The amplitudes as the 0..255 levels in which the ground keeps them (255 is 0.5)."""
        return (self.rows * 510, self.cross_rows * 510, self.canopy * 510, self.waves * 510)


PLAIN = Texture()


@dataclass(frozen=True)
class Road:
    """A road's centre line [n, 2] and width, in the scene frame."""

    line: Points
    width: float


@dataclass(frozen=True)
class Berth:
    """A place for a ship along a quay: its middle, its heading and the longest hull that fits.

    The hull lies `clearance` away from the quay wall, on the side (`away_x`, `away_y`).
    """

    centre: tuple[float, float]
    angle: float
    length: float
    away: tuple[float, float]


@dataclass
class Ground:
    """A ground being laid: albedo, texture amplitudes, zones, and what is to be drawn upon it.

    Args:
        size: side of the image in pixels.
        angle: the main direction of fields, roads and buildings, in radians.
    """

    size: int
    angle: float
    roads: list[Road] = field(default_factory=list)
    berths: list[Berth] = field(default_factory=list)
    raised: list[tuple[Points, float]] = field(default_factory=list)
    thickets: list[tuple[Points, float]] = field(default_factory=list)
    shallows: float = 0.0

    def __post_init__(self) -> None:
        self.albedo: RGB = np.zeros((self.size, self.size, 3), np.uint8)
        self.amplitudes: NDArray[np.uint8] = np.zeros((self.size, self.size, 4), np.uint8)
        self.zones: NDArray[np.uint8] = np.full((ZONE_CELLS, ZONE_CELLS), Zone.LAND, np.uint8)
        self.water: NDArray[np.uint8] = np.zeros((self.size, self.size), np.uint8)
        self._used = np.zeros(4, np.bool_)  # which textures any region has
        self._markings: list[tuple[Points, float, Colour]] = []

    def region(
        self, points: ArrayLike, colour: Colour, texture: Texture = PLAIN, zone: Zone | None = None
    ) -> None:
        """Cover a polygon given in the scene frame; `zone` None leaves the zones as they are."""
        fill(self.albedo, points, colour)
        fill(self.amplitudes, points, texture.levels(), smooth=False)
        self._used |= np.array(texture.levels()) > 0
        if zone is not None:
            fill(self.zones, points, int(zone), smooth=False)
            fill(self.water, points, 255 if zone == Zone.WATER else 0)

    def marking(self, points: ArrayLike, width: float, colour: Colour) -> None:
        """Remember a painted line, or with width 0 a filled polygon, for the fine canvas."""
        self._markings.append((np.asarray(points, np.float64), width, colour))

    def road(self, line: Points, width: float, colour: Colour, edge: Colour) -> None:
        """Lay a road with verges, edge lines and a dashed centre line."""
        self.region(ribbon(line, width * 1.22), edge)
        self.region(ribbon(line, width), colour, PLAIN, Zone.ROAD)
        crossed = self.roads.copy()
        self.roads.append(Road(line, width))
        paint: Colour = (222, 220, 208)
        for side in (1, -1):
            self.marking(ribbon(line, side * width * 0.88)[: len(line)], 0.004, paint)
        dense = np.linspace(0, len(line) - 1, 41)
        at = np.stack([np.interp(dense, np.arange(len(line)), line[:, axis]) for axis in (0, 1)], 1)
        for start in range(0, 40, 2):
            self.marking(at[start : start + 2], 0.005, paint)
        for other in crossed:  # no lines run across a junction
            apart = np.linalg.norm(line[:, None] - other.line[None], axis=2)
            here, there = np.unravel_index(apart.argmin(), apart.shape)
            if apart[here, there] < width:
                heading = float(
                    np.arctan2(*(line[min(here + 1, len(line) - 1)] - line[max(here - 1, 0)])[::-1])
                )
                centre = (line[here] + other.line[there]) / 2
                self.marking(turn(rectangle(other.width * 1.12, width * 0.97), heading, centre), 0.0, colour)

    def blob(
        self,
        rng: np.random.Generator,
        centre: tuple[float, float],
        radius: float,
        colour: Colour,
        texture: Texture,
        zone: Zone | None,
        height: float = 0.0,
    ) -> None:
        """Cover an irregular roundish patch: woods, bare earth, a clearing."""
        outline = circle(1.0, corners=36)
        angles = np.arctan2(outline[:, 1], outline[:, 0])
        radii = np.full(len(outline), radius)
        for order in (1, 2, 3, 5, 8):
            wave = np.cos(order * angles + rng.uniform(0, 2 * np.pi))
            radii += radius * rng.uniform(0.05, 0.3) / order * wave
        polygon = outline * radii[:, None] + np.asarray(centre)
        self.region(polygon, colour, texture, zone)
        if height:
            self.thickets.append((polygon, height))

    def paint(self, rng: np.random.Generator, light: Light) -> RGB:
        """Combine colour and textures into the image of the bare ground, [size, size, 3] uint8."""
        bank, size = texture_bank(self.size), self.size
        image = self.albedo.astype(np.float32)
        if self.water.any():
            self._tint_shallows(image)
        row, column = crop_origin(rng, size)
        window = (slice(row, row + size), slice(column, column + size))
        brightness = 1 + np.float32(rng.uniform(0.045, 0.07)) * bank.soft[window]
        share = np.float32(1 / 510)
        for number, lines in enumerate((self.angle, self.angle + np.pi / 2)):
            if self._used[number]:
                brightness += self._furrows(rng, lines) * (self.amplitudes[..., number] * share)
        if self._used[2]:
            sun_x, sun_y = np.float32(light.shadow[0]), np.float32(light.shadow[1])
            relief = bank.canopy_x[window] * sun_x + bank.canopy_y[window] * sun_y - bank.gaps[window] * 1.6
            brightness += relief * (self.amplitudes[..., 2] * share)
        if self._used[3]:
            ripples = rotated_crop(bank.waves, size, rng.uniform(0, np.pi))
            brightness += ripples * (self.amplitudes[..., 3] * share)
        tint = bank.soft[window][::-1, ::-1]
        hue = np.float32(0.012) * np.stack([tint, 0 * tint, -tint], 2)
        image *= brightness[..., None] + hue
        return np.clip(image, 0, 255).astype(np.uint8)

    def _tint_shallows(self, image: NDArray[np.float32]) -> None:
        """Lighten water towards its shore: the depth is taken as the blurred distance to land."""
        if not self.shallows:
            return
        small = cv2.resize(self.water, (ZONE_CELLS, ZONE_CELLS), interpolation=cv2.INTER_AREA)
        depth = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 3.2)
        depth = cv2.resize(depth, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        near = np.clip(2 - depth * np.float32(2 / 255), 0, 1) * self.water * np.float32(self.shallows / 255)
        image += near[..., None] * np.array([26, 36, 24], np.float32)

    def _furrows(self, rng: np.random.Generator, angle: float) -> NDArray[np.float32]:
        """Parallel lines along `angle`, [size, size] in -1..1."""
        count = rng.uniform(22, 42)
        step = np.float32(2 * np.pi * count / self.size)
        ramp = np.arange(self.size, dtype=np.float32) * step
        phase = ramp[None, :] * np.float32(-np.sin(angle)) + ramp[:, None] * np.float32(np.cos(angle))
        return np.sin(phase)

    def paint_markings(self, canvas: RGB) -> None:
        """Draw the remembered markings on the supersampled canvas [2 * size, 2 * size, 3], in place."""
        assert canvas.shape[0] == self.size * SUPERSAMPLING
        for points, width, colour in self._markings:
            if width:
                stroke(canvas, points, width, colour)
            else:
                fill(canvas, points, colour)

    def zone_cells(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Which cells of the zone grid a polygon touches, [64, 64]."""
        cells = np.zeros((ZONE_CELLS, ZONE_CELLS), np.uint8)
        cv2.fillPoly(cells, [fixed_point(points, ZONE_CELLS)], (1,), cv2.LINE_8, 4)
        return cells > 0


def cast_shadows(image: RGB, ground: Ground, solids: list[tuple[Points, float]], light: Light) -> None:
    """Darken, in place, where the ground's piers, bridges and woods and the objects keep the sun off.

    `solids` are the objects' convex footprints [n, 2] with their heights. The tops of what belongs to
    the ground lie in the sun.
    """
    shadow = np.zeros(image.shape[:2], np.uint8)
    direction = np.asarray(light.shadow) * light.stretch
    for footprint, height in ground.thickets:
        for share in (1.0, 0.65, 0.3):  # not convex: swept in steps
            fill(shadow, footprint + direction * (height * share), 255)
    _sweep(shadow, ground.raised, direction)
    for footprint, _ in ground.thickets + ground.raised:
        fill(shadow, footprint, 0)
    _sweep(shadow, solids, direction)
    soft = cv2.blur(shadow, (3, 3))
    keep = cv2.LUT(cv2.merge([soft, soft, soft]), _SHADE_TABLE)
    cv2.multiply(image, keep, dst=image, scale=1 / 255)


def _sweep(shadow: NDArray[np.uint8], solids: list[tuple[Points, float]], direction: Points) -> None:
    """Add the ground between each convex footprint and its copy moved by height times direction."""
    for footprint, height in solids:
        both = np.concatenate([footprint, footprint + direction * height]).astype(np.float32)
        fill(shadow, cv2.convexHull(both)[:, 0], 255)
