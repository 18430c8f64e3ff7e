"""Sets in the REFER format: a pickle or JSON of references, and COCO instances.

A reference names an image, one or more annotations of it (-1 or nothing for "no target"), and
several sentences; each sentence is one sample. `ann["bbox"]` is never read: some sets give it in
another frame than the image's (RRSIS-D's exceeds its 800 pixels). Boxes come from masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from envs.datasets.reading.annotations import annotation_parts, annotation_to_mask
from envs.datasets.reading.images import ImageFile, image_wh
from envs.datasets.reading.json_index import JsonArray, index_arrays
from envs.datasets.reading.plain_pickle import load_plain_pickle
from envs.datasets.reading.records import RecordSource, blaming
from envs.masks import Mask, encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError

Overlap = Literal["union", "reference"]
"""How the polygons of one annotation join: their union, or the reference code's "drawn exactly once"."""


@dataclass(frozen=True)
class Reference:
    """One reference of one split; `annotation_ids` is empty for "no target"."""

    reference_id: str
    image_id: int
    annotation_ids: tuple[int, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class _Image:
    file_name: str
    hw: tuple[int, int] | None  # (height, width), where the file says it


def read_references(
    path: Path, splits: Iterable[str], text_key: Literal["raw", "sent"], skipped: list[str] | None
) -> list[Reference]:
    """Read the references of some splits.

    Args:
        path: a pickle (`.p`) or JSON file holding a list of references.
        splits: the values of `split` to take.
        text_key: which wording of a sentence to take: `raw` as written or `sent` as normalised.
        skipped: bad references are told here; when None, the first one is raised.

    Raises:
        UserError: naming the file, and the reference if it is one.
    """
    wanted = set(splits)
    if path.suffix == ".json":
        with blaming(str(path)):
            data = json.loads(path.read_text(encoding="utf-8"))
    else:
        data = load_plain_pickle(path)
    if not isinstance(data, list):
        raise UserError(f"{path}: it must hold a list of references, but holds a {type(data).__name__}.")
    references: list[Reference] = []
    identities: set[str] = set()
    for number, entry in enumerate(data):
        try:
            with blaming(f"{path}, reference {number}"):
                if entry["split"] in wanted:
                    identity = str(entry["ref_id"])
                    if identity in identities:  # keep sample ids unique
                        identity = f"{identity}#{number}"
                    references.append(_reference(identity, entry, text_key))
                    identities.add(identity)
        except UserError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    return references


def _reference(identity: str, entry: Mapping[str, Any], text_key: str) -> Reference:
    ids = entry["ann_id"] if isinstance(entry["ann_id"], list) else [entry["ann_id"]]
    wordings = (s.get(text_key) or s.get("sent") or s.get("raw") or "" for s in entry["sentences"])
    sentences = tuple(str(wording).strip() for wording in wordings)
    if not sentences or not all(sentences):
        raise ValueError("it has no sentence, or an empty one")
    annotation_ids = tuple(int(one) for one in ids if one is not None and int(one) != -1)
    return Reference(identity, int(entry["image_id"]), annotation_ids, sentences)


class ReferReader:
    """Joins references to their images and annotations and builds samples.

    Args:
        name, split: of the dataset.
        references: what is asked.
        instances: the COCO file with `images`, `annotations` and `categories`.
        image_folder: where the images lie.
        overlap: how polygons of one annotation join.
        missing_segmentation: turns an annotation without a segmentation into a mask of (height,
            width); when None, such an annotation is an error.
        skipped: bad references are told here; when None, the first one is raised.

    Raises:
        UserError: if the COCO file cannot be read, or a reference names what it does not hold.
    """

    def __init__(
        self,
        name: str,
        split: str,
        references: Sequence[Reference],
        instances: Path,
        image_folder: Path,
        *,
        overlap: Overlap = "union",
        missing_segmentation: Callable[[Mapping[str, Any], tuple[int, int]], Mask] | None = None,
        skipped: list[str] | None = None,
    ) -> None:
        self.name, self.split = name, split
        self._instances, self._image_folder = instances, image_folder
        self._overlap, self._missing = overlap, missing_segmentation
        arrays = index_arrays(instances, ["images", "annotations", "categories"])
        self._annotations = arrays["annotations"]
        wanted = {one for reference in references for one in reference.annotation_ids}
        self._annotation_index = _positions(self._annotations, wanted)
        self._images = _images(arrays["images"], {reference.image_id for reference in references})
        self._categories = _categories(arrays["categories"])
        self._references: list[Reference] = []
        for reference in references:
            problem = self._problem(reference)
            if problem is None:
                self._references.append(reference)
            elif skipped is None:
                raise UserError(problem)
            else:
                skipped.append(problem)

    def source(self, skip_bad: bool, skipped: Iterable[str]) -> RecordSource[tuple[int, int]]:
        """The samples: one for each sentence of each reference."""
        records = [
            (row, sentence)
            for row, reference in enumerate(self._references)
            for sentence in range(len(reference.sentences))
        ]
        return RecordSource(self.name, self.split, records, self._sample, skip_bad=skip_bad, skipped=skipped)

    def _problem(self, reference: Reference) -> str | None:
        where = self._where(reference)
        if reference.image_id not in self._images:
            return f"{where}: its image {reference.image_id} is not among the images."
        for one in reference.annotation_ids:
            if one not in self._annotation_index:
                return f"{where}: its annotation {one} is not among the annotations."
        return None

    def _where(self, reference: Reference) -> str:
        return f"{self._instances}, reference {reference.reference_id}"

    def _sample(self, record: tuple[int, int]) -> Sample:
        row, sentence = record
        reference = self._references[row]
        image = self._images[reference.image_id]
        path = self._image_folder / image.file_name
        with blaming(self._where(reference)):
            width, height = image_wh(path)
            if image.hw is not None and (height, width) != image.hw:
                raise UserError(
                    f"image {path}: it is {height} x {width} (height x width), "
                    f"but this file says {image.hw[0]} x {image.hw[1]}."
                )
        masks, categories = [], []
        for one in reference.annotation_ids:
            index = self._annotation_index[one]
            annotation = self._annotations[index]
            with blaming(f"{self._annotations.where(index)} (id {one})"):
                mask = self._mask(annotation, (height, width))
                categories.append(self._categories.get(annotation.get("category_id"), ""))
            if mask is not None:
                masks.append(mask)
        tags = {"multiplicity": ("none", "one", "several")[min(len(masks), 2)]}
        if categories and categories[0] and len(set(categories)) == 1:
            tags["category"] = categories[0]
        return Sample(
            sample_id=f"{reference.reference_id}/{sentence}",
            dataset=self.name,
            split=self.split,
            image_id=str(reference.image_id),
            image_wh=(width, height),
            load_image=ImageFile(str(path)),
            query=reference.sentences[sentence],
            target=encode_rle(union(masks, (height, width))),
            instances=tuple(encode_rle(mask) for mask in masks),
            tags=tags,
        )

    def _mask(self, annotation: Mapping[str, Any], hw: tuple[int, int]) -> Mask | None:
        """The mask of one annotation; None when it has no segmentation and stands for "no target"."""
        segmentation = annotation.get("segmentation")
        if not segmentation:
            if self._missing is None:
                raise ValueError("it has no segmentation")
            mask = self._missing(annotation, hw)
            return mask if mask.any() else None
        if isinstance(segmentation, list) and self._overlap == "reference":
            drawn = sum((part.astype(np.int64) for part in annotation_parts(segmentation, hw)), np.zeros(hw))
            return np.asarray(drawn == 1)
        return annotation_to_mask(segmentation, hw)


def _positions(annotations: JsonArray, wanted: set[int]) -> dict[int, int]:
    """Annotation id -> its position in the file, for the wanted ids."""
    positions: dict[int, int] = {}
    for index, annotation in enumerate(annotations):
        with blaming(annotations.where(index)):
            identity = int(annotation["id"])
        if identity in wanted:
            positions[identity] = index
    return positions


def _images(images: JsonArray, wanted: set[int]) -> dict[int, _Image]:
    found: dict[int, _Image] = {}
    for index, image in enumerate(images):
        with blaming(images.where(index)):
            identity = int(image["id"])
            if identity in wanted:
                has_size = "height" in image and "width" in image
                hw = (int(image["height"]), int(image["width"])) if has_size else None
                found[identity] = _Image(str(image["file_name"]), hw)
    return found


def _categories(categories: JsonArray) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for index, category in enumerate(categories):
        with blaming(categories.where(index)):
            names[category["id"]] = str(category["name"])
    return names
