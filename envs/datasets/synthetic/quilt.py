"""Crowded scenes: four drawn scenes at half size side by side, asked about as real housing is asked about.

A drawn scene holds a handful of objects; a window of a real orthophoto over houses shows twenty, each
half as large. A quilt shows such numbers at such sizes, and half of its questions are those that
`aerial-buildings` asks (`envs.datasets.building_queries`).
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from envs.datasets.building_queries import VisibleBuilding, building_queries, describe_building
from envs.datasets.synthetic.queries import Query, scene_queries
from envs.datasets.synthetic.scene import Rng, Scene, SceneObject, draw_scene, scene_generators
from envs.datasets.synthetic.terrain import THEMES
from envs.masks import Mask

_HOUSING = ("suburb", "farmland", "industrial")
"""Themes that most quilts are of."""
_HOUSING_SHARE = 0.75
_MOST_IN_A_PATCH = 7
_SEEDS = 1_000_003
"""Seeds of patches lie this far apart, so that no patch repeats a scene of a data set with a common seed."""


def is_quilt(split: str, index: int, seed: int, share: float) -> bool:
    """Whether a scene is a quilt in a data set where this share of scenes are; depends on nothing else."""
    return share > 0 and bool(_generator(split, index, seed).random() < share)


def draw_quilt(split: str, index: int, *, size: int, seed: int) -> Scene:
    """Draw four scenes at half size, [size, size] together, each with 1 to 7 objects.

    Args:
        split, index, seed: as of `draw_scene`.
        size: side of the whole in pixels; even.
    """
    rng = _generator(split, index, seed)
    rng.random()  # `is_quilt` took the first
    themes = _HOUSING if rng.random() < _HOUSING_SHARE else tuple(THEMES)
    most = int(rng.integers(1, _MOST_IN_A_PATCH + 1))
    half = size // 2
    image = np.zeros((2 * half, 2 * half, 3), np.uint8)
    instances: list[SceneObject] = []
    names: list[str] = []
    for number in range(4):
        patch = draw_scene(
            split,
            index,
            size=half,
            seed=seed + _SEEDS * (number + 1),
            min_objects=1 + most // 2,
            max_objects=most,
            themes=themes,
        )
        row, column = divmod(number, 2)
        place = (slice(row * half, (row + 1) * half), slice(column * half, (column + 1) * half))
        image[place] = patch.image
        names.append(patch.theme)
        for one in patch.instances:
            instances.append(
                replace(
                    one,
                    mask=_within(one.mask, place, 2 * half),
                    parts={name: _within(part, place, 2 * half) for name, part in one.parts.items()},
                    centre=((one.centre[0] + column) / 2, (one.centre[1] + row) / 2),
                )
            )
    # Where one may swim outside a pool, questions about swimming are not asked of the whole.
    watery = [name for name in names if name in ("harbour", "river")]
    return Scene(image=image, instances=tuple(instances), theme=(watery or names)[0])


def quilt_queries(scene: Scene, rng: Rng, n: int) -> list[Query]:
    """Ask `n` questions about a quilt: half of them about its buildings' geometry, if it asks any."""
    numbers = [k for k, one in enumerate(scene.instances) if one.category == "building" and one.area]
    about = _about_buildings(scene, numbers, n // 2, random.Random(int(rng.integers(2**31))))
    return [*about, *scene_queries(scene, rng, n - len(about))]


def _about_buildings(scene: Scene, numbers: list[int], n: int, generator: random.Random) -> list[Query]:
    masks = [scene.instances[number].mask for number in numbers]
    visible: list[VisibleBuilding] = [
        describe_building(mask, scene.instances[number].area, True)
        for mask, number in zip(masks, numbers, strict=True)
    ]
    return [
        Query(
            text=query.text,
            targets=tuple(numbers[target] for target in query.targets),
            masks=tuple(masks[target] for target in query.targets),
            tags={**query.tags, "category": "building", "family": query.kind},
        )
        for query in building_queries(visible, scene.size, n, generator)
    ]


def _within(mask: Mask, place: tuple[slice, slice], side: int) -> Mask:
    whole = np.zeros((side, side), np.bool_)
    whole[place] = mask
    return whole


def _generator(split: str, index: int, seed: int) -> Rng:
    drawing, _ = scene_generators(split, index, seed + 5 * _SEEDS)
    return drawing
