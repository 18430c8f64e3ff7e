"""MMR: questions about objects, parts, or both, with several targets, on PACO's COCO images (ICLR 2025).

As the authors' README and loader say: one JSON list per split; a record is an image with `questions` and,
beside each, `answers`, the objects or parts it asks for, each with one compressed run-length encoding;
`file_name` names the image with its year's folder. No record of the set was seen. StAR's tables of it
(`sj9909/MMR_val`, `_test_mixed`, `_test_obj`, `_test_part`) have one row per question, and the card of one
of them was seen; they leave out questions whose answer names no object, and so does this reader.
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

NAME = "mmr"
FILES = {
    "train": "MMR_train.json",
    "val": "MMR_val.json",
    "test_mixed": "MMR_test_mixed.json",
    "test_obj": "MMR_test_obj_only.json",
    "test_part": "MMR_test_part_only.json",
}
IMAGE_FOLDERS = ("images/mscoco/images", "refer_seg/images/mscoco/images", "refer_seg", "coco", "images", "")
_GRANULARITY = {"test_obj": "object", "test_part": "part", "test_mixed": "mixed"}


def open_mmr(
    split: str,
    *,
    root: str | Path | None = None,
    images: Path | None = None,
    table_split: str | None = None,
    skip_bad: bool = False,
) -> SampleSource:
    """Open one split; every question of an image is a sample.

    Args:
        split: train, val, test_mixed, test_obj or test_part.
        root: the folder with `MMR_<split>.json` (or with `MMR/`), or a table: a folder of parquet or arrow
            files, or a dataset on the hub.
        images: the folder that holds COCO's `train2017/` and `val2017/`, when elsewhere.
        table_split: the table's own name of the split, when it is to be another.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    tags = {"granularity": _GRANULARITY[split]} if split in _GRANULARITY else {}
    table = table_place(NAME, root, [FILES[split]], ["MMR"])
    if table is not None:
        return open_star_table(NAME, split, table, split, table_split, skip_bad, tags)
    folder = find_root(NAME, root, [FILES[split]], nested=["MMR"])
    places = [above / inner for above in (folder, folder.parent) for inner in IMAGE_FOLDERS]
    found = CocoImages(NAME, places if images is None else [images])

    def image_path(record: Mapping[str, Any]) -> Path:
        year, _, name = str(record["file_name"]).rpartition("/")
        return found.path(year.rpartition("/")[-1], name)

    file = index_records(need_existing(NAME, folder, [FILES[split]]))
    return open_answer_lists(
        NAME, split, file, image_path, tags=tags, leave_out_empty=True, skip_bad=skip_bad
    )
