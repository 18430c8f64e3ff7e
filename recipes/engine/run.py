"""The engine from images to what is asked about them, image by image; `assemble` does the rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from envs.datasets.false_premises import plain_name
from envs.datasets.reading.pixels.images import IMAGE_SUFFIXES, ImageFile
from envs.executors.base import Executor, ExecutorFailure
from envs.sample import content_hash
from prompter.errors import UserError
from prompter.runs.files import sha256_of
from recipes.engine.ask import Model, ask_model, name_masks
from recipes.engine.detections import Detections, of_image
from recipes.engine.filters import filter_masks, filter_shapes
from recipes.engine.masks import Candidate, propose_masks
from recipes.engine.questions import (
    AXES,
    Meant,
    Named,
    Question,
    ask_offline,
    axes_of,
    choose,
    meant_by_geometry,
)
from recipes.engine.settings import EngineSettings
from recipes.engine.shapes import Reference
from recipes.engine.store import EngineFolder, work_name


@dataclass
class Engine:
    """What works on the images.

    Args:
        folder: of the set.
        images: the folder of images.
        settings: as in the folder.
        detections: of the images, by name.
        references: shapes' reference per category.
        open_executor: opens the segmenter, when the first image comes up whose masks are not there.
        model: who names and asks; None asks offline.
    """

    folder: EngineFolder
    images: Path
    settings: EngineSettings
    detections: Detections
    references: Mapping[str, Reference]
    open_executor: Callable[[], Executor]
    model: Model | None = None

    def work(self, names: Sequence[str], progress: Callable[[Sequence[str]], Iterable[str]] = list) -> None:
        """Do what is not done yet; `progress` wraps the names.

        Raises:
            UserError: if an image cannot be read, or the segmenter cannot serve it.
        """
        executor: Executor | None = None
        try:
            for name in progress(names):
                if not self.folder.has(work_name("masks", name)):
                    executor = executor or self.open_executor()
                    self._propose(name, executor)
                if not self.folder.has(work_name("questions", name)):
                    self._ask(name)
        finally:
            if executor is not None:
                executor.close()

    def _load(self, name: str) -> Image.Image:
        return ImageFile(str(self.images / name))()

    def _propose(self, name: str, executor: Executor) -> None:
        image = np.ascontiguousarray(np.asarray(self._load(name)))
        own = of_image(self.detections, name)
        key = content_hash(image)
        found = propose_masks(
            executor, image, own, grid=self.settings.grid, inside=self.settings.inside, key=key
        )
        if isinstance(found, ExecutorFailure):
            raise UserError(f"the segmenter cannot serve {self.images / name}: {found.message}")
        candidates, empty = found
        wh = (image.shape[1], image.shape[0])
        kept, removed = filter_masks(candidates, own, wh, self.settings.rules)
        sources = [one.source for one in candidates]
        self.folder.write(
            work_name("masks", name),
            {
                "image_wh": wh,
                "sha256": sha256_of(self.images / name),
                "detections": len(own),
                "proposed": {source: sources.count(source) for source in ("box", "grid", "inside")},
                "removed": {"empty": empty, **removed},
                "kept": [one.to_json() for one in kept],
            },
        )

    def _ask(self, name: str) -> None:
        record = self.folder.read(work_name("masks", name))
        wh = (record["image_wh"][0], record["image_wh"][1])
        kept = [Candidate.from_json(one) for one in record["kept"]]
        image = self._load(name) if self.model is not None else None
        categories = [plain_name(one.label) for one in kept]
        if self.model is not None and image is not None and self.settings.categories:
            unnamed = [number for number, category in enumerate(categories) if not category]
            said = name_masks(self.model, image, [kept[n] for n in unnamed], self.settings.categories)
            for number, category in zip(unnamed, said, strict=True):
                categories[number] = category
        shaped, removed = filter_shapes(
            list(zip(kept, categories, strict=True)), wh, self.references, self.settings.rules.deviations
        )
        named = Named([one for one, _, _ in shaped], [category for _, category, _ in shaped])
        questions, refused = self._questions(name, record["sha256"], named, wh, image)
        self.folder.write(
            work_name("questions", name),
            {
                "masks": [
                    {**one.to_json(), "category": category, "shape": shape.to_json()}
                    for one, category, shape in shaped
                ],
                "removed": removed,
                "refused": refused,
                "questions": [one.to_json() for one in questions],
            },
        )

    def _questions(
        self, name: str, sha256: str, named: Named, wh: tuple[int, int], image: Image.Image | None
    ) -> tuple[list[Question], dict[str, int]]:
        generator = random.Random(f"{self.settings.seed}:{sha256}")
        own = of_image(self.detections, name)
        candidates = meant_by_geometry(named, own, wh, unique=self.settings.unique)
        if self.model is not None:
            candidates += _marked(named)
        first = generator.randrange(len(AXES))  # else short lists of targets would all be asked alike
        wanted = [
            (one, *axes_of(number, first))
            for number, one in enumerate(choose(candidates, self.settings.questions, generator))
        ]
        if self.model is not None and image is not None:
            return ask_model(self.model, image, named.kept, wanted, self.settings.rephrasings)
        return [ask_offline(*one, self.settings.rephrasings, generator) for one in wanted], {}


def _marked(named: Named) -> list[Meant]:
    """Masks that a model named, each by itself: how many more there are of a category is not known."""
    found: list[Meant] = []
    for category, numbers in named.by_category.items():
        own = [number for number in numbers if named.kept[number].source != "box"]
        found += [Meant("marked", (number,), (category,)) for number in own]
    return found


def image_names(folder: Path) -> list[str]:
    """The images of a folder and those below it, by their path in it, sorted.

    Raises:
        UserError: if there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder with the images.")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not names:
        raise UserError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
    return names
