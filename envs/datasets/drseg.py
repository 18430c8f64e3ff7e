"""DRSeg: reasoning questions on drone images, read as the loader of its authors' code (PixDLM) reads them.

One JSON list per split; a record is an image, its targets (`ann_list`, a polygon each) and its questions.
What that loader does with odd records is done here as well: of several polygons of one target the first
is drawn, targets that draw nothing are left out, and the first question is asked. A record without any
target that draws is an error, where that loader quietly evaluates the following record a second time;
`unusable="next"` does the same, for its number of samples. No record of the set was seen, nor whether its
archive has a folder of its own on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from envs.datasets.reading.faults import Fault, note
from envs.datasets.reading.json_index import index_records
from envs.datasets.reading.pixels.annotations import annotation_to_mask
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.pixels.labels import fitted
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, need_existing
from envs.masks import Mask, encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError

NAME = "drseg"


def open_drseg(
    split: str,
    *,
    root: Path | None = None,
    question: Literal["first", "all"] = "first",
    polygons: Literal["first", "all"] = "first",
    unusable: Literal["refuse", "next"] = "refuse",
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open one split; every target of a record is an object of its sample.

    Args:
        split: train, val or test.
        root: the folder with `labels/` and `CODrone/` (also nested in `DRSeg/` or `data/DRSeg/`).
        question: "first" asks `questions[0]` of each record, as the authors do; "all" asks every one.
        polygons: "first" draws the first polygon of each target, as the authors do; "all" draws all.
        unusable: whether a record whose image or targets cannot be read is refused, or the next usable
            one stands in for it (tag `record: repeated`), as with the authors.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    label_file, image_folder = f"labels/DRSeg_{split}.json", f"CODrone/DR{split}"
    folder = find_root(NAME, root, [label_file], nested=["DRSeg", "data/DRSeg"])
    images = need_existing(NAME, folder, [image_folder])
    file = index_records(folder / label_file)
    records: list[tuple[int, int]] = []
    skipped: list[UserError] = []
    for number in range(len(file)):
        try:
            with blaming(file.where(number)):
                count = len(_texts(file[number]))
            records.extend((number, text) for text in range(count if question == "all" else 1))
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)

    def sample(number: int, text: int) -> Sample:
        record = file[number]
        with blaming(file.where(number)):
            path = images / f"{record['id']}.jpg"
            wh = image_wh(path)
            masks = _targets(record, (wh[1], wh[0]), polygons)
            return Sample(
                sample_id=f"{number}/{text}",
                dataset=NAME,
                split=split,
                image_id=path.stem,
                image_wh=wh,
                load_image=ImageFile(str(path)),
                query=_texts(record)[text],
                target=encode_rle(union(masks, (wh[1], wh[0]))),
                instances=tuple(encode_rle(mask) for mask in masks),
                tags=_tags(record, text, len(masks)),
            )

    def build(where: tuple[int, int]) -> Sample:
        number, text = where
        try:
            return sample(number, text)
        except UserError:
            if unusable == "refuse":
                raise
        for step in range(1, len(file)):
            try:
                found = sample((number + step) % len(file), 0)
            except UserError:
                continue
            return replace(found, sample_id=f"{number}/{text}", tags={**found.tags, "record": "repeated"})
        raise UserError(f"{file.path}: it holds no usable record.")

    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped)


def _texts(record: Mapping[str, Any]) -> list[str]:
    questions = record["questions"]
    if not isinstance(questions, list) or not questions:
        raise ValueError("the key 'questions' must be a list that holds a question")
    for number, text in enumerate(questions):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"question {number} must be text, but is {text!r}")
    return [text.strip() for text in questions]


def _targets(record: Mapping[str, Any], hw: tuple[int, int], polygons: str) -> list[Mask]:
    """The masks [height, width] of a record's targets, drawn in its own frame and brought to the image's."""
    frame = (int(record["height"]), int(record["width"]))
    masks = []
    for number, target in enumerate(record["ann_list"]):
        with blaming(f"target {number}"):
            shape = target["segmentation"]
            if not isinstance(shape, list) or not shape:
                raise ValueError("its segmentation must be a polygon, or a list of polygons")
            several = shape if isinstance(shape[0], list) else [shape]
            try:
                mask = annotation_to_mask(several[:1] if polygons == "first" else several, frame)
            except Fault as fault:
                if fault.kind != "nothing_drawn":
                    raise
                note("nothing_drawn", "it draws nothing, and is left out as with the set's authors.")
                continue
            if mask.any():
                masks.append(fitted(mask, hw))
    if not masks:
        raise Fault("nothing_drawn", "none of its targets draws anything; the option unusable says what then")
    return masks


def _tags(record: Mapping[str, Any], text: int, targets: int) -> dict[str, str]:
    """`reasoning` is what the authors break their results down by: spatial, attribute or scene."""
    tags = {"multiplicity": "one" if targets == 1 else "several"}
    types = record.get("reasoning_types")
    if isinstance(types, list) and types:
        types = types[text] if text < len(types) else types[0]
    if isinstance(types, str) and types.strip():
        tags["reasoning"] = types.strip()
    return tags
