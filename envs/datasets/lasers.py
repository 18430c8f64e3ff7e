"""LaSeRS: language-guided segmentation with several targets per query, evaluated along nine axes.

Each record holds an answer with one `[SEG]` per target and a list of masks in the same order. There
is no val split. Before the release the authors gave out the edition of a competition, which their
repository still describes: its train file has another name, and its test files have no masks. Read from the
authors' loader and documents; no record of the set was seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from envs.datasets.reading.json_index import JsonArray, index_records
from envs.datasets.reading.pixels.annotations import annotation_to_mask
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, need_existing
from envs.masks import encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError

NAME = "lasers"
NESTED = ("LaSeRS", "rs_reason_seg/LaSeRS", "rs_reason_seg")
SEGMENT_TOKEN = "[SEG]"
Masks = Literal["exact", "first"]
"""As many masks as `[SEG]`s; or the first of them where there are more, as the authors' loader takes them."""

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


def open_lasers(
    split: str, *, root: Path | None = None, masks: Masks = "exact", skip_bad: bool = False
) -> RecordSource[int]:
    """Open the train split or one of the nine test axes.

    Args:
        split: train, or an axis of `AXES`; the axes overlap.
        root: the folder with `train/` and `test/`, also inside `LaSeRS/` or `rs_reason_seg/LaSeRS/`.
        masks: "exact" takes a record with more masks than `[SEG]`s for a bad one; "first" reads its first
            masks, as the authors' loader does.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, a record is bad, or the file is the competition's test without
            masks.
    """
    half = "train" if split == "train" else "test"
    stems = ["train_data", "train_ann"] if split == "train" else [AXES[split][0], f"test_{split}"]
    names = [f"{half}/annotations/{stem}.json" for stem in dict.fromkeys(stems)]
    folder = find_root(NAME, root, names, NESTED)
    images = need_existing(NAME, folder, [f"{half}/images"])
    records = index_records(need_existing(NAME, folder, names))
    if half == "test":
        _refuse_unlabelled(records)
    axis_tags = {} if split == "train" else {"axis": split, AXES[split][1][0]: AXES[split][1][1]}

    def build(number: int) -> Sample:
        record = records[number]
        with blaming(records.where(number)):
            path = images / str(record["image_name"])
            query = str(record["description"]).strip()
            if not query:
                raise ValueError("the key 'description' is empty")
            width, height = image_wh(path)
            drawn = [annotation_to_mask(value, (height, width)) for value in _masks(record, masks)]
            return Sample(
                sample_id=f"{number}:{record['id']}",
                dataset=NAME,
                split=split,
                image_id=Path(record["image_name"]).with_suffix("").as_posix(),
                image_wh=(width, height),
                load_image=ImageFile(str(path)),
                query=query,
                target=encode_rle(union(drawn, (height, width))),
                instances=tuple(encode_rle(mask) for mask in drawn),
                tags={"multiplicity": ("none", "one", "several")[min(len(drawn), 2)], **axis_tags},
            )

    return RecordSource(NAME, split, range(len(records)), build, skip_bad=skip_bad)


def _refuse_unlabelled(records: JsonArray) -> None:
    """Refuse the competition's test files, where every record that has a target lacks its masks."""
    has_target = False
    for record in records:
        if record.get("mask"):
            return
        has_target = has_target or SEGMENT_TOKEN in str(record.get("answer", ""))
    if has_target:
        raise UserError(
            f"{records.path} holds no masks: it is of the competition's edition of LaSeRS, whose test labels "
            f"are not given out, so nothing can be scored on it. The release (test.tar.gz) has them."
        )


def _masks(record: dict[str, Any], rule: Masks) -> list[Any]:
    """The masks of a record, one per `[SEG]` of its answer; none when the answer names no target."""
    masks = record.get("mask") or []
    if not isinstance(masks, list):
        masks = [masks]
    expected = str(record.get("answer", "")).count(SEGMENT_TOKEN)
    if len(masks) > expected and rule == "first":
        return masks[:expected]
    if len(masks) != expected:
        remedy = "; the option masks=first takes the first, as the authors' loader does"
        raise ValueError(
            f"its answer has {expected} {SEGMENT_TOKEN}, but there are {len(masks)} masks"
            f"{remedy if len(masks) > expected else ''}"
        )
    return masks
