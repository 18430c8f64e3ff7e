"""Scenes: a place, what stands on it, and exact masks of all of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import cv2
import numpy as np

from envs.datasets.synthetic.drawing import (
    SUPERSAMPLING,
    Pen,
    circle,
    fill,
    jitter,
    pick_weighted,
    shade,
    turn,
)
from envs.datasets.synthetic.ground import Ground, Light, Zone, cast_shadows
from envs.datasets.synthetic.objects import MOST_OBJECTS, OBJECT_CLASSES
from envs.datasets.synthetic.placement import Placed, Placer
from envs.datasets.synthetic.terrain import THEMES, WOODS, Theme
from envs.datasets.synthetic.textures import crop_origin, texture_bank
from envs.masks import Mask
from envs.sample import RGB
from prompter.errors import UserError, did_you_mean

SPLITS = ("train", "val", "test")
SMALLEST_SIZE = 64
"""Below this many pixels a side, cars and court lines can no longer be told."""

Rng = np.random.Generator


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Args:
        category: class name, such as "storage tank".
        attributes: for example {"colour": "red", "roof": "gable"}.
        mask: [size, size] bool; the object without its shadow.
        parts: part name -> mask [size, size]; empty for classes without named parts.
        centre: (x, y) of the mask's centroid as a share of the image's side.
        area: pixels of the mask.
    """

    category: str
    attributes: dict[str, str]
    mask: Mask = field(repr=False)
    parts: dict[str, Mask] = field(repr=False)
    centre: tuple[float, float]
    area: int


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Args:
        image: [size, size, 3] uint8, RGB.
        instances: the objects; their masks do not overlap.
        theme: what kind of place it is.
    """

    image: RGB = field(repr=False)
    instances: tuple[SceneObject, ...]
    theme: str

    @property
    def size(self) -> int:
        """Side of the image in pixels."""
        return self.image.shape[0]


def scene_generators(split: str, index: int, seed: int) -> tuple[Rng, Rng]:
    """Two independent generators of one scene: for drawing it and for its queries.

    They depend on nothing but the arguments; different splits never share a stream.

    Raises:
        UserError: if the split is unknown, or the index or seed is negative.
    """
    if split not in SPLITS:
        raise UserError(f"synthetic-aerial has no split {split!r}.{did_you_mean(split, SPLITS)}")
    if index < 0 or seed < 0:
        raise UserError(
            f"synthetic-aerial needs a seed and a scene number of 0 or more, not {seed} and {index}."
        )
    drawing, asking = np.random.SeedSequence([seed, SPLITS.index(split), index]).spawn(2)
    return np.random.default_rng(drawing), np.random.default_rng(asking)


def draw_scene(
    split: str,
    index: int,
    *,
    size: int = 256,
    seed: int = 0,
    min_objects: int = 2,
    max_objects: int = 6,
    themes: Collection[str] = tuple(THEMES),
) -> Scene:
    """Draw one scene.

    Args:
        split: "train", "val" or "test".
        index: the scene's number, 0 or more.
        size: side of the image in pixels, 64 or more; everything scales with it.
        seed: of the whole dataset.
        min_objects, max_objects: how many objects it holds, both included. On ground that is hard to
            fill it may hold fewer than asked for, but never fewer than one.
        themes: the kinds of place it may be.

    Raises:
        UserError: if an argument is out of range.
    """
    check_options(size=size, min_objects=min_objects, max_objects=max_objects)
    rng, _ = scene_generators(split, index, seed)
    name = pick_weighted(rng, {key: THEMES[key].share for key in THEMES if key in themes})
    theme = THEMES[name]
    ground = Ground(size, rng.uniform(0, 2 * np.pi))
    theme.lay(ground, rng)
    azimuth = rng.uniform(0, 2 * np.pi)
    light = Light((float(np.cos(azimuth)), float(np.sin(azimuth))), rng.uniform(0.5, 1.1))
    placer = Placer(ground, rng)
    placed = _populate(placer, theme, rng, min_objects, max_objects)
    trees = _trees(placer, theme, rng)
    _lay_plots(ground, placed)

    image = ground.paint(rng, light)
    _draw_wakes(image, placed, rng)
    solids = []
    for one in placed:
        footprints = OBJECT_CLASSES[one.design.kind].painter.solids(one.design)
        solids += [(turn(shape, one.angle, one.centre), height) for shape, height in footprints]
    solids += [(circle(radius, x, y, 12), radius * 1.3) for x, y, radius in trees]
    canvas = _upsample(image)
    ground.paint_markings(canvas)
    cast_shadows(canvas, ground, solids, light)
    instances = [_paint(canvas, one, light) for one in placed]
    _paint_trees(canvas, trees, light, rng)
    exposed = np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return Scene(image=_develop(exposed, rng), instances=tuple(instances), theme=name)


def check_options(*, size: int, min_objects: int, max_objects: int) -> None:
    """Raise UserError if a scene cannot be drawn with these options."""
    if size < SMALLEST_SIZE:
        raise UserError(f"synthetic-aerial needs size >= {SMALLEST_SIZE} pixels, but got size={size}.")
    if not 1 <= min_objects <= max_objects <= MOST_OBJECTS:
        raise UserError(
            f"synthetic-aerial needs 1 <= min_objects <= max_objects <= {MOST_OBJECTS}, "
            f"but got min_objects={min_objects} and max_objects={max_objects}."
        )


def _populate(placer: Placer, theme: Theme, rng: Rng, least: int, most: int) -> list[Placed]:
    """Choose classes and counts and put them down, large ones first."""
    wanted = int(rng.integers(least, most + 1))
    weights = {
        kind: weight for kind, weight in theme.classes.items() if placer.possible(OBJECT_CLASSES[kind])
    }
    kinds: list[str] = []
    for _ in range(min(wanted, 1 + int(rng.choice(3, p=(0.2, 0.45, 0.35))), len(weights))):
        kinds.append(pick_weighted(rng, {kind: w for kind, w in weights.items() if kind not in kinds}))
    counts = dict.fromkeys(kinds, 1)
    for _ in range(wanted - len(kinds)):
        spare = {
            kind: weight
            for kind, weight in weights.items()
            if counts.get(kind, 0) < OBJECT_CLASSES[kind].at_most
        }
        kind = pick_weighted(rng, {kind: w for kind, w in spare.items() if kind in counts} or spare)
        counts[kind] = counts.get(kind, 0) + 1
    scale = 1.0 if wanted <= 4 else 0.8
    designs = [
        OBJECT_CLASSES[kind].design(rng, scale) for kind, count in counts.items() for _ in range(count)
    ]
    for design in sorted(designs, key=lambda one: -one.length):
        placer.place(design)
    for _ in range(200):
        if len(placer.placed) >= least:
            break
        present = [one.design.kind for one in placer.placed]
        spare = {
            kind: weight
            for kind, weight in weights.items()
            if present.count(kind) < OBJECT_CLASSES[kind].at_most
        }
        placer.place(OBJECT_CLASSES[pick_weighted(rng, spare)].design(rng, 0.3), attempts=6)
    return placer.placed


def _lay_plots(ground: Ground, placed: list[Placed]) -> None:
    """Give objects the yards, pads and decks they stand on, wherever that covers no road or water."""
    for one in placed:
        plot = OBJECT_CLASSES[one.design.kind].painter.plot
        for shape, colour in plot(one.design) if plot else ():
            polygon = turn(shape, one.angle, one.centre)
            zones = ground.zones[ground.zone_cells(polygon)]
            if ((zones == Zone.LAND) | (zones == Zone.PAVED)).all():
                ground.region(polygon, colour)


def _trees(placer: Placer, theme: Theme, rng: Rng) -> list[tuple[float, float, float]]:
    """Single trees (x, y, radius) on free land."""
    trees = []
    for _ in range(int(rng.integers(theme.trees[0], theme.trees[1] + 1))):
        radius = rng.uniform(0.011, 0.026)
        x, y = rng.uniform(0.0, 1.0, 2)
        cells = placer.ground.zone_cells(circle(radius + 0.012, x, y, 8))
        if not (placer.taken & cells).any() and (placer.ground.zones[cells] == Zone.LAND).all():
            trees.append((float(x), float(y), float(radius)))
    return trees


def _upsample(image: RGB) -> RGB:
    """Enlarge so that averaging down again gives exactly the same pixels where nothing was drawn."""
    side = image.shape[0] * SUPERSAMPLING
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST), np.uint8)


def _draw_wakes(image: RGB, placed: list[Placed], rng: Rng) -> None:
    """Foam behind the ships that are under way."""
    for one in placed:
        if one.design.kind != "ship" or one.moored or rng.random() < 0.5:
            continue
        a, b = one.design.length / 2, one.design.width / 2
        foam = np.zeros(image.shape[:2], np.uint8)
        for side in (-1, 1):
            wave = [
                [a * 0.9, 0],
                [-a * 0.8, side * b * 1.25],
                [-a * 2.1, side * b * 2.0],
                [-a * 1.3, side * b * 1.3],
            ]
            fill(foam, turn(wave, one.angle, one.centre), 80)
        fill(
            foam,
            turn(
                [[-a, b * 0.6], [-a, -b * 0.6], [-a * 2.4, -b * 0.3], [-a * 2.4, b * 0.3]],
                one.angle,
                one.centre,
            ),
            90,
        )
        soft = cv2.blur(foam, (max(3, image.shape[0] // 50),) * 2).astype(np.uint16)[..., None]
        image[...] = ((image * (256 - soft) + soft * np.array([214, 224, 222], np.uint16)) >> 8).astype(
            np.uint8
        )


def _paint(canvas: RGB, one: Placed, light: Light) -> SceneObject:
    """Paint one object on the fine canvas and take its masks."""
    design = one.design
    reach = 0.5 * float(np.hypot(design.length, design.width)) + 0.01
    pen = Pen(canvas, one.centre, one.angle, reach)
    x, y = turn([light.shadow], -one.angle)[0]
    OBJECT_CLASSES[design.kind].painter.paint(pen, design, Light((float(x), float(y)), light.stretch))
    mask = pen.mask()
    moments = cv2.moments(mask.view(np.uint8), binaryImage=True)
    area = max(1.0, moments["m00"])
    return SceneObject(
        category=design.kind,
        attributes=dict(design.looks),
        mask=mask,
        parts=pen.parts(),
        centre=((moments["m10"] / area + 0.5) / mask.shape[1], (moments["m01"] / area + 0.5) / mask.shape[0]),
        area=int(moments["m00"]),
    )


def _paint_trees(canvas: RGB, trees: list[tuple[float, float, float]], light: Light, rng: Rng) -> None:
    """Crowns of a few lobes each, bright towards the sun."""
    sun = -np.asarray(light.shadow)
    for x, y, radius in trees:
        colour = jitter(rng, WOODS, 14)
        for factor, offset, reach in ((0.78, 0.0, 1.0), (1.0, 0.22, 0.72), (1.22, 0.42, 0.42)):
            wobble = 1 + 0.14 * np.cos(np.arange(14) * 2.7 + x * 50)
            lobe = (
                circle(1.0, corners=14) * (wobble * radius * reach)[:, None]
                + (x, y)
                + sun * (offset * radius)
            )
            fill(canvas, lobe, shade(colour, factor))


def _develop(image: RGB, rng: Rng) -> RGB:
    """Sensor noise, then exposure, contrast and white balance."""
    size = image.shape[0]
    row, column = crop_origin(rng, size)
    grain = texture_bank(size).grain[row : row + size, column : column + size]
    noisy = cv2.add(image.astype(np.int16), grain)
    levels = np.arange(256, dtype=np.float64) / 255
    gamma, haze = rng.uniform(0.85, 1.15), rng.uniform(0.0, 0.06)
    curve = haze + (1 - haze) * levels**gamma
    balance = rng.uniform(0.97, 1.03, 3) * rng.uniform(0.94, 1.08)
    table = np.clip(curve[:, None] * balance * 255, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(np.clip(noisy, 0, 255).astype(np.uint8), table[None]), np.uint8)
