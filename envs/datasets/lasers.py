"""LaSeRS: language-guided segmentation with several targets per query, evaluated along nine axes.

Each record holds an answer with one `[SEG]` per target and a list of masks in the same order. There
is no val split. Read from a copy of the set: the layout is verified there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.datasets.reading.annotations import annotation_to_mask
from envs.datasets.reading.images import ImageFile, image_wh
from envs.datasets.reading.json_index import index_records
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, need_existing
from envs.masks import encode_rle, union
from envs.sample import Sample

NAME = "lasers"
SEGMENT_TOKEN = "[SEG]"

# axis -> (file stem, the tag it stands for). "sematic" is how the set spells it.
AXES: dict[str, tuple[str, tuple[str, str]]] = {
    "short_query": ("test_short_query", ("length", "short")),
    "long_query": ("test_long_query", ("length", "long")),
    "explicit": ("test_explicit", ("reasoning", "explicit")),
    "implicit": ("test_implicit", ("reasoning", "implicit")),
    "single_cate": ("test_single_cate", ("categories", "one")),
    "multi_cate": ("test_multi_cate", ("categories", "several")),
    "instance_level": ("test_instance_level", ("granularity", "instance")),
    "part_level": ("test_part_level", ("granularity", "part")),
    "semantic_level": ("test_sematic_level", ("granularity", "semantic")),
}


def open_lasers(split: str, *, root: Path | None = None, skip_bad: bool = False) -> RecordSource[int]:
    """Open the train split or one of the nine test axes.

    Args:
        split: train, or an axis of `AXES`; the axes overlap.
        root: the folder with `train/` and `test/`.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad: fewer or more masks than `[SEG]`s.
    """
    half = "train" if split == "train" else "test"
    stem = "train_data" if split == "train" else AXES[split][0]
    names = [f"{half}/annotations/{stem}.json", f"{half}/annotations/test_{split}.json"]
    folder = find_root(NAME, root, names, nested=["LaSeRS"])
    images = need_existing(NAME, folder, [f"{half}/images"])
    records = index_records(need_existing(NAME, folder, names))
    axis_tags = {} if split == "train" else {"axis": split, AXES[split][1][0]: AXES[split][1][1]}

    def build(number: int) -> Sample:
        record = records[number]
        with blaming(records.where(number)):
            path = images / str(record["image_name"])
            query = str(record["description"]).strip()
            if not query:
                raise ValueError("the key 'description' is empty")
            width, height = image_wh(path)
            masks = [annotation_to_mask(value, (height, width)) for value in _masks(record)]
            return Sample(
                sample_id=f"{number}:{record['id']}",
                dataset=NAME,
                split=split,
                image_id=path.stem,
                image_wh=(width, height),
                load_image=ImageFile(str(path)),
                query=query,
                target=encode_rle(union(masks, (height, width))),
                instances=tuple(encode_rle(mask) for mask in masks),
                tags={"multiplicity": ("none", "one", "several")[min(len(masks), 2)], **axis_tags},
            )

    return RecordSource(NAME, split, range(len(records)), build, skip_bad=skip_bad)


def _masks(record: dict[str, Any]) -> list[Any]:
    """The masks of a record, one per `[SEG]` of its answer; none when the answer names no target."""
    masks = record.get("mask") or []
    if not isinstance(masks, list):
        masks = [masks]
    expected = str(record.get("answer", "")).count(SEGMENT_TOKEN)
    if len(masks) != expected:
        raise ValueError(f"its answer has {expected} {SEGMENT_TOKEN}, but there are {len(masks)} masks")
    return masks
