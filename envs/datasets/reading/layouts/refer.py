"""Sets in the REFER format: a pickle or JSON of references, and COCO instances.

A reference names an image, one or more annotations of it (-1 or nothing for "no target"), and
several sentences; each sentence is one sample. A reference without sentences therefore gives no
sample, in the authors' loaders as here (gRefCOCO publishes such); it is counted. `ann["bbox"]` is
never read: its form differs between the sets (RRSIS-D's is x1, y1, x2, y2). Boxes come from masks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from envs.datasets.reading.faults import Fault
from envs.datasets.reading.json_index import JsonArray, index_arrays
from envs.datasets.reading.pixels.annotations import annotation_parts, annotation_to_mask
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.pixels.labels import fitted
from envs.datasets.reading.plain_pickle import load_plain_pickle, pickled_text
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.rules import in_force
from envs.datasets.reading.text import read_text
from envs.masks import Mask, encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError

Overlap = Literal["union", "reference"]
"""How the polygons of one annotation join: their union, or the reference code's "drawn exactly once"."""


WITHOUT_SENTENCE = "references without a sentence"
EMPTY_SENTENCES = "empty sentences"
UNKNOWN_ANNOTATION = "references to an annotation or image that the instances do not hold"
MISSING_TARGETS = "targets of a kept reference that the instances do not hold"
NO_TARGETS = "annotations of crowds (`iscrowd`), or without a polygon of three points, as ReLA has it"
"""What is left out by a set's own rule; keys of `left_out`."""


@dataclass(frozen=True)
class Reference:
    """One reference of one split; `annotation_ids` is empty for "no target".

    `category_ids` are the reference's own, as many as annotations or one for all; some sets (RRSIS-D)
    give them nowhere else.
    """

    reference_id: str
    image_id: int
    annotation_ids: tuple[int, ...]
    sentences: tuple[str, ...]
    category_ids: tuple[Any, ...] = ()

    def own_categories(self) -> tuple[Any, ...]:
        """The reference's own category of each annotation; None where it tells none."""
        told, count = self.category_ids, len(self.annotation_ids)
        return (told + (told[-1] if told else None,) * count)[:count]


@dataclass(frozen=True)
class _Image:
    file_name: str
    hw: tuple[int, int] | None  # (height, width), where the file says it


def read_references(
    path: Path,
    split: str,
    text_key: Literal["raw", "sent"],
    skipped: list[str] | None,
    left_out: Counter[str],
    *,
    empty: Literal["refuse", "leave_out"] = "refuse",
    encoding: str | None = None,
) -> list[Reference]:
    """Read the references of a split.

    Args:
        path: a pickle (`.p`) or JSON file holding a list of references.
        split: the split to take, by the rule of `in_split`.
        text_key: which wording of a sentence to take: `raw` as written or `sent` as normalised.
        skipped: bad references are told here; when None, the first one is raised.
        left_out: what gives no sample by the format's own rule is counted here.
        empty: whether a sentence of no words is an error, or left out and counted.
        encoding: of the text, where it is not UTF-8 (pickles of Python 2 may hold any).

    Raises:
        UserError: naming the file, and the reference if it is one.
    """
    if path.suffix == ".json":
        with blaming(str(path)):
            data = json.loads(read_text(path, encoding))
    else:
        data = load_plain_pickle(path)
    if not isinstance(data, list):
        raise UserError(f"{path}: it must hold a list of references, but holds a {type(data).__name__}.")
    references: list[Reference] = []
    identities: set[str] = set()
    for number, entry in enumerate(data):
        try:
            with blaming(f"{path}, reference {number}"):
                if not in_split(entry["split"], split):
                    continue
                sentences = _sentences(entry["sentences"], text_key, encoding)
                if not all(sentences):
                    if empty == "refuse":
                        raise ValueError("one of its sentences is empty")
                    left_out[EMPTY_SENTENCES] += sentences.count("")
                    sentences = tuple(filter(None, sentences))
                if not sentences:
                    left_out[WITHOUT_SENTENCE] += 1
                    continue
                identity = str(entry["ref_id"])
                if identity in identities:  # keep sample ids unique
                    identity = f"{identity}#{number}"
                references.append(_reference(identity, entry, sentences))
                identities.add(identity)
        except UserError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    return references


def in_split(found: Any, asked: str) -> bool:
    """Whether a reference's `split` belongs to the split asked for, by REFER's own rule.

    "test" takes every split of that name ("testA", "testB"), and "testA" takes "testAB" as well.
    """
    name = str(found)
    if asked == "test":
        return "test" in name
    if asked in ("testA", "testB", "testC"):
        return name.startswith("test") and asked[-1] in name[4:]
    return name == asked


def _sentences(entries: Any, text_key: str, encoding: str | None) -> tuple[str, ...]:
    if not isinstance(entries, list):
        raise ValueError(f"its sentences must be a list, but are a {type(entries).__name__}")
    wordings = (str(one.get(text_key) or one.get("sent") or one.get("raw") or "") for one in entries)
    return tuple(pickled_text(wording, encoding).strip() for wording in wordings)


def _reference(identity: str, entry: Mapping[str, Any], sentences: tuple[str, ...]) -> Reference:
    ids = _listed(entry["ann_id"])
    annotation_ids = tuple(int(one) for one in ids if one is not None and int(one) != -1)
    categories = tuple(_listed(entry.get("category_id")))
    return Reference(identity, int(entry["image_id"]), annotation_ids, sentences, categories)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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
        leave_out_unknown: annotations and images that are not in the COCO file are dropped from their
            references, and references that keep none are left out and counted; else they are errors.
        as_rela: annotations with `iscrowd`, or whose polygons are all of an odd number of values or under
            six, do not belong to the target, and are counted; single such polygons are passed over.
        skipped: bad references are told here; when None, the first one is raised.
        left_out: what is left out by the set's rule is counted here, and told by the source.

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
        leave_out_unknown: bool = False,
        as_rela: bool = False,
        skipped: list[str] | None = None,
        left_out: Counter[str] | None = None,
    ) -> None:
        self.name, self.split = name, split
        self._instances, self._image_folder = instances, image_folder
        self._overlap, self._missing = overlap, missing_segmentation
        self._left_out: Counter[str] = Counter() if left_out is None else left_out
        arrays = index_arrays(instances, ["images", "annotations", "categories"])
        self._annotations = arrays["annotations"]
        wanted = {one for reference in references for one in reference.annotation_ids}
        self._as_rela = as_rela
        self._annotation_index, no_targets = _positions(self._annotations, wanted)
        self._no_targets = no_targets if as_rela else frozenset()
        if self._no_targets:
            self._left_out[NO_TARGETS] += len(self._no_targets)
        self._images = _images(arrays["images"], {reference.image_id for reference in references})
        self._categories = _categories(arrays["categories"])
        self._references: list[Reference] = []
        for reference in references:
            if leave_out_unknown:
                known = self._known(reference)
                if known is None:
                    self._left_out[UNKNOWN_ANNOTATION] += 1
                    continue
                reference = known
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
        return RecordSource(
            self.name,
            self.split,
            records,
            self._sample,
            skip_bad=skip_bad,
            skipped=skipped,
            left_out=self._left_out,
        )

    def _known(self, reference: Reference) -> Reference | None:
        """The reference with the annotations that the file holds; None when it keeps none, or no image."""
        ids = tuple(one for one in reference.annotation_ids if one in self._annotation_index)
        if reference.image_id not in self._images or (reference.annotation_ids and not ids):
            return None
        if len(ids) < len(reference.annotation_ids):
            self._left_out[MISSING_TARGETS] += len(reference.annotation_ids) - len(ids)
        pairs = zip(reference.annotation_ids, reference.own_categories(), strict=True)
        categories = tuple(category for one, category in pairs if one in self._annotation_index)
        return replace(reference, annotation_ids=ids, category_ids=categories)

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
            if image.hw not in (None, (height, width)) and in_force().mask_size == "refuse":
                assert image.hw is not None
                turned = " (is it turned? see the option orientation)" if image.hw == (width, height) else ""
                raise Fault(
                    "mask_size",
                    f"image {path}: it is {height} x {width} (height x width), but this file says "
                    f"{image.hw[0]} x {image.hw[1]}{turned}; the option mask_size=resize makes masks fit",
                )
        masks, categories, targets = [], [], 0
        for one, category in zip(reference.annotation_ids, reference.own_categories(), strict=True):
            index = self._annotation_index[one]
            annotation = self._annotations[index]
            with blaming(f"{self._annotations.where(index)} (id {one})"):
                mask = None if one in self._no_targets else self._mask(annotation, image.hw, (height, width))
                categories.append(self._categories.get(annotation.get("category_id", category), ""))
            targets += one in self._no_targets or mask is not None
            if mask is not None:
                masks.append(mask)
        tags = {"multiplicity": ("none", "one", "several")[min(targets, 2)]}
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

    def _mask(
        self, annotation: Mapping[str, Any], stored_hw: tuple[int, int] | None, hw: tuple[int, int]
    ) -> Mask | None:
        """The mask of one annotation; None when it has no segmentation and stands for "no target".

        Args:
            annotation: of the COCO file.
            stored_hw: (height, width) that the file gives the image, where it does.
            hw: (height, width) of the image itself, and of the result.
        """
        segmentation = annotation.get("segmentation")
        if not segmentation:
            if self._missing is None:
                raise ValueError("it has no segmentation")
            mask = self._missing(annotation, hw)
            return mask if mask.any() else None
        if self._as_rela:
            segmentation = _rela_polygons(segmentation)
        # Polygons are in the frame that the file gives the image, which is not always the image's.
        is_drawn = isinstance(segmentation, list) and not isinstance(segmentation[0], Mapping)
        frame = stored_hw if is_drawn and stored_hw is not None else hw
        parts = annotation_parts(segmentation, frame) if self._overlap == "reference" else []
        if parts:
            return fitted(np.asarray(np.sum(parts, axis=0) == 1), hw)
        return fitted(annotation_to_mask(segmentation, frame), hw)


def _rela_polygons(segmentation: Any) -> Any:
    """A segmentation without the polygons that ReLA passes over; encodings stay as they are."""
    if not isinstance(segmentation, list):
        return segmentation
    return [
        part for part in segmentation if isinstance(part, Mapping) or (len(part) % 2 == 0 and len(part) >= 6)
    ]


def _positions(annotations: JsonArray, wanted: set[int]) -> tuple[dict[int, int], frozenset[int]]:
    """Wanted annotation id -> its position in the file; and those of them that ReLA takes for no target."""
    positions: dict[int, int] = {}
    no_targets: set[int] = set()
    for index, annotation in enumerate(annotations):
        with blaming(annotations.where(index)):
            identity = int(annotation["id"])
            if identity in wanted:
                positions[identity] = index
                segmentation = annotation.get("segmentation")
                if annotation.get("iscrowd") or (segmentation and not _rela_polygons(segmentation)):
                    no_targets.add(identity)
    return positions, frozenset(no_targets)


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
