"""MUSE: multi-target reasoning questions on COCO images; read as PixelLM's loader reads it.

Each record of a JSON list is an image with `questions` and, beside each, `answers`: the objects it asks
for, each with a segmentation. Images with a `file_name` are of train2014; others are found by the
last part of their `coco_url` in train2017 or val2017. The tables that StAR publishes (`sj9909/MUSE_val`,
`_test_few`, `_test_many`) have one row per question, and no objects told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.datasets.reading.json_index import index_records
from envs.datasets.reading.layouts.answer_lists import CocoImages, open_answer_lists
from envs.datasets.reading.roots import find_root, need_existing, table_place
from envs.datasets.reading.tables.star_tables import open_star_table
from envs.sample import SampleSource

NAME = "muse"
IMAGE_FOLDERS = ("images/mscoco/images", "refer_seg/images/mscoco/images", "images", "coco", "")
NESTED = ("MUSE", "muse", "multi_reason_seg/MultiReasonSeg", "MultiReasonSeg")


def open_muse(
    split: str,
    *,
    root: str | Path | None = None,
    images: Path | None = None,
    table_split: str | None = None,
    skip_bad: bool = False,
) -> SampleSource:
    """Open one split; every question of an image is a sample.

    Args:
        split: train, val, test_less (up to three targets; "few" in StAR's tables) or test_many.
        root: the folder with `muse_<split>.json` (also written `MUSE_…`, or in `muse/` or `MUSE/`), or a
            table: a folder of parquet or arrow files, or a dataset on the hub.
        images: the folder that holds COCO's `train2014/`, `train2017/` and `val2017/`, when elsewhere.
        table_split: the table's own name of the split, when it is to be another.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    names = [f"muse_{split}.json", f"MUSE_{split}.json"]
    table = table_place(NAME, root, names, NESTED)
    if table is not None:
        own = {"test_less": "test_few"}.get(split, split)
        return open_star_table(NAME, split, table, own, table_split, skip_bad)
    folder = find_root(NAME, root, names, nested=NESTED)
    places = [above / inner for above in (folder, *list(folder.parents)[:2]) for inner in IMAGE_FOLDERS]
    found = CocoImages(NAME, places if images is None else [images])

    def image_path(record: Mapping[str, Any]) -> Path:
        if "file_name" in record:
            return found.path("train2014", str(record["file_name"]))
        url = str(record["coco_url"])
        return found.path("train2017" if "train2017" in url else "val2017", url.rsplit("/", 1)[-1])

    file = index_records(need_existing(NAME, folder, names))
    return open_answer_lists(
        NAME, split, file, image_path, answer_keys=("answers", "answer"), skip_bad=skip_bad
    )
