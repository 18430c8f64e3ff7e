"""The `synthetic-aerial` dataset: a `SampleSource` over drawn scenes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Literal

import numpy as np
from PIL import Image

from envs.datasets.synthetic.false_premises import replaced_queries
from envs.datasets.synthetic.queries import Query, scene_queries
from envs.datasets.synthetic.quilt import draw_quilt, is_quilt, quilt_queries
from envs.datasets.synthetic.scene import SPLITS, Scene, check_options, draw_scene, scene_generators
from envs.masks import encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError

Split = Literal["train", "val", "test"]

_PREMISES = 1_000_033
"""Sets the generator of false premises apart from those of the scene and its questions."""


@lru_cache(maxsize=8)
def _drawn(split: str, index: int, size: int, seed: int, least: int, most: int, quilts: float) -> Scene:
    """A scene, kept while its neighbouring queries are read; consumers must not write into it."""
    if is_quilt(split, index, seed, quilts):
        scene = draw_quilt(split, index, size=size, seed=seed)
    else:
        scene = draw_scene(split, index, size=size, seed=seed, min_objects=least, max_objects=most)
    scene.image.flags.writeable = False
    return scene


@lru_cache(maxsize=8)
def _asked(
    split: str, index: int, size: int, seed: int, least: int, most: int, quilts: float, count: int
) -> list[Query]:
    _, rng = scene_generators(split, index, seed)
    ask = quilt_queries if is_quilt(split, index, seed, quilts) else scene_queries
    return ask(_drawn(split, index, size, seed, least, most, quilts), rng, count)


@lru_cache(maxsize=8)
def _replaced(
    split: str,
    index: int,
    size: int,
    seed: int,
    least: int,
    most: int,
    quilts: float,
    share: float,
    count: int,
) -> list[Query | None]:
    rng = np.random.default_rng([seed, SPLITS.index(split), index, _PREMISES])
    return replaced_queries(_drawn(split, index, size, seed, least, most, quilts), rng, share, count)


def load_scene_image(
    split: str, index: int, size: int, seed: int, least: int, most: int, quilts: float = 0.0
) -> Image.Image:
    """Draw a scene again from its number: [size, size] PIL RGB image, the same each time."""
    return Image.fromarray(_drawn(split, index, size, seed, least, most, quilts).image)


class SyntheticAerial:
    """Overhead scenes drawn on demand, each with `queries_per_scene` questions one after another.

    Everything is determined by (seed, split, scene number) and the options; on another processor or
    OpenCV build an image may differ by a grey level.

    Args:
        split: "train", "val" or "test"; no scene is in two splits.
        scenes: how many scenes.
        queries_per_scene: how many questions about each.
        first_query: leave out so many of a scene's questions: with what another source asks as
            `queries_per_scene`, other questions about the same scenes, which may mean the same objects.
        size: side of the square images in pixels.
        seed: of the whole dataset.
        min_objects, max_objects: how many objects a scene holds.
        quilts: share of scenes that are four at half size instead, crowded with buildings and half of
            whose questions are those of `aerial-buildings` (`envs.datasets.synthetic.quilt`).
        false_premises: chance of each question to be replaced by one about what is not there, or is of
            another colour (`envs.premise`); the others stay as they are without it.

    Raises:
        UserError: if an option is out of range.
    """

    name = "synthetic-aerial"

    def __init__(
        self,
        split: Split,
        *,
        scenes: int,
        queries_per_scene: int = 6,
        first_query: int = 0,
        size: int = 256,
        seed: int = 0,
        min_objects: int = 2,
        max_objects: int = 6,
        quilts: float = 0.0,
        false_premises: float = 0.0,
    ) -> None:
        if scenes < 1 or queries_per_scene < 1 or first_query < 0:
            raise UserError(
                "synthetic-aerial needs scenes >= 1, queries_per_scene >= 1 and first_query >= 0, but got "
                f"scenes={scenes}, queries_per_scene={queries_per_scene} and first_query={first_query}."
            )
        check_options(size=size, min_objects=min_objects, max_objects=max_objects)
        if not 0 <= quilts <= 1 or (quilts and size % 2):
            raise UserError(
                "synthetic-aerial needs quilts, a share, between 0 and 1, and an even size to have any, "
                f"but got quilts={quilts} and size={size}."
            )
        if not 0 <= false_premises <= 1:
            raise UserError(
                "synthetic-aerial needs false_premises, a share, between 0 and 1, "
                f"but got false_premises={false_premises}."
            )
        scene_generators(split, 0, seed)
        self.split: str = split
        self.scenes = scenes
        self.queries_per_scene, self.first_query = queries_per_scene, first_query
        self._options = (size, seed, min_objects, max_objects, quilts)
        self._false_premises = false_premises

    def __len__(self) -> int:
        return self.scenes * self.queries_per_scene

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            yield self[index]

    def __getitem__(self, index: int) -> Sample:
        """Sample number `index`; negative numbers count from the end. IndexError when out of range."""
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"synthetic-aerial {self.split} has {len(self)} samples, but got index {index}")
        scene, number = divmod(position, self.queries_per_scene)
        number += self.first_query
        query = self._query(scene, number)
        size = self._options[0]
        image_id = f"{self.split}-{scene:06d}"
        return Sample(
            sample_id=f"{image_id}-{number}",
            dataset=self.name,
            split=self.split,
            image_id=image_id,
            image_wh=(size, size),
            load_image=partial(load_scene_image, self.split, scene, *self._options),
            query=query.text,
            target=encode_rle(union(query.masks, (size, size))),
            instances=tuple(encode_rle(mask) for mask in query.masks),
            tags=dict(query.tags),
        )

    def _query(self, scene: int, number: int) -> Query:
        count = self.first_query + self.queries_per_scene
        if self._false_premises:
            false = _replaced(self.split, scene, *self._options, self._false_premises, count)[number]
            if false is not None:
                return false
        return _asked(self.split, scene, *self._options, count)[number]
