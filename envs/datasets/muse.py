"""MUSE: multi-target reasoning questions on COCO images; read as PixelLM's loader reads it.

Each record of a JSON list is an image with `questions` and, beside each, `answers`: the objects it asks
for, each with a segmentation. Images with a `file_name` are of train2014; others are found by the
last part of their `coco_url` in train2017 or val2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.datasets.reading.annotations import annotation_to_mask
from envs.datasets.reading.images import ImageFile, image_wh
from envs.datasets.reading.json_index import index_records
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, first_existing, need_existing, not_found
from envs.masks import encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError

NAME = "muse"
IMAGE_FOLDERS = ("images/mscoco/images", "refer_seg/images/mscoco/images", "images", "coco", "")


def open_muse(
    split: str, *, root: Path | None = None, images: Path | None = None, skip_bad: bool = False
) -> RecordSource[tuple[int, int]]:
    """Open one split; every question of an image is a sample.

    Args:
        split: train, val, test_less (up to three targets) or test_many.
        root: the folder with `muse_<split>.json` (also written `MUSE_…`, or in `muse/`).
        images: the folder that holds COCO's `train2014/`, `train2017/` and `val2017/`, when elsewhere.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    names = [f"muse_{split}.json", f"MUSE_{split}.json"]
    nested = ["muse", "multi_reason_seg/MultiReasonSeg", "MultiReasonSeg"]
    folder = find_root(NAME, root, names, nested=nested)
    image_folder = images or _image_folder(folder)
    file = index_records(need_existing(NAME, folder, names))
    records: list[tuple[int, int]] = []
    skipped: list[str] = []
    for number in range(len(file)):
        try:
            with blaming(file.where(number)):
                record = file[number]
                count = len(record["questions"])
                if len(record["answers"]) != count:
                    raise ValueError(f"it has {count} questions, but {len(record['answers'])} answers")
            records.extend((number, question) for question in range(count))
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))

    def build(where: tuple[int, int]) -> Sample:
        number, question = where
        record = file[number]
        with blaming(f"{file.where(number)}, question {question}"):
            path = image_folder / _image_name(record)
            query = str(record["questions"][question]).strip()
            if not query:
                raise ValueError("it is empty")
            width, height = image_wh(path)
            answers = record["answers"][question]
            masks = [annotation_to_mask(one["segmentation"], (height, width)) for one in answers]
        return Sample(
            sample_id=f"{number}/{question}",
            dataset=NAME,
            split=split,
            image_id=path.stem,
            image_wh=(width, height),
            load_image=ImageFile(str(path)),
            query=query,
            target=encode_rle(union(masks, (height, width))),
            instances=tuple(encode_rle(mask) for mask in masks),
            tags={"multiplicity": ("none", "one", "several")[min(len(masks), 2)]},
        )

    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped)


def _image_name(record: Mapping[str, Any]) -> Path:
    """The image's path relative to the folder of COCO's image folders."""
    if "file_name" in record:
        return Path("train2014") / str(record["file_name"])
    url = str(record["coco_url"])
    return Path("train2017" if "train2017" in url else "val2017") / url.rsplit("/", 1)[-1]


def _image_folder(folder: Path) -> Path:
    years = [
        f"{inner}/{year}".lstrip("/")
        for inner in IMAGE_FOLDERS
        for year in ("train2014", "train2017", "val2017")
    ]
    for place in (folder, folder.parent, folder.parent.parent):
        found = first_existing(place, years)
        if found is not None:
            return found.parent
    raise not_found(
        NAME, ["folder of COCO images (train2014, train2017 or val2017)"], [folder, folder.parent]
    )
