"""VRSBench, its referring half: 16,159 expressions with one box each, no masks (Acc@0.5).

Boxes are text `{<x1><y1><x2><y2>}` in whole percent of width and height. A few have no width or no
height after that rounding (13 of the published file, by others' count); no prediction can hit them,
and they are kept so that accuracies stay comparable, with the tag `box: degenerate`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from envs.datasets.reading.json_index import index_records
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, need_existing
from envs.datasets.reading.text import truth
from envs.sample import Sample
from prompter.types import Box

NAME = "vrsbench"
FILE = "VRSBench_EVAL_referring.json"
_BOX = re.compile(r"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}")


def open_vrsbench(split: str, *, root: Path | None = None, skip_bad: bool = False) -> RecordSource[int]:
    """Open the evaluation split.

    Args:
        split: val, the only one with referring evaluation.
        root: the folder with `VRSBench_EVAL_referring.json` and `Images_val/`.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    folder = find_root(NAME, root, [FILE], nested=["VRSBench"])
    images = need_existing(NAME, folder, ["Images_val", "images/Images_val", "images"])
    records = index_records(folder / FILE)

    def build(number: int) -> Sample:
        record = records[number]
        with blaming(records.where(number)):
            path = images / str(record["image_id"])
            query = str(record["question"]).strip()
            if not query:
                raise ValueError("the key 'question' is empty")
            wh = image_wh(path)
            box = percent_box(record["ground_truth"], wh)
        return Sample(
            sample_id=f"{number}:{record.get('question_id', '')}",
            dataset=NAME,
            split=split,
            image_id=path.stem,
            image_wh=wh,
            load_image=ImageFile(str(path)),
            query=query,
            target=None,
            boxes=(box,),
            tags=_tags(record, box),
        )

    return RecordSource(NAME, split, range(len(records)), build, skip_bad=skip_bad)


def percent_box(text: Any, wh: tuple[int, int]) -> Box:
    """Turn `{<x1><y1><x2><y2>}` in percent into XYXY pixels of an image of `wh` (width, height).

    Raises:
        ValueError: if it is written otherwise or leaves 0 to 100.
    """
    found = _BOX.fullmatch(str(text).strip())
    values = [int(number) for number in found.groups()] if found else []
    if not values or max(values) > 100:
        raise ValueError(f"the key 'ground_truth' must be {{<x1><y1><x2><y2>}} in percent, but is {text!r}")
    x1, y1, x2, y2 = values
    return (x1 * wh[0] / 100, y1 * wh[1] / 100, x2 * wh[0] / 100, y2 * wh[1] / 100)


def _tags(record: dict[str, Any], box: Box) -> dict[str, str]:
    tags = {}
    for key, tag in (("obj_cls", "category"), ("size_group", "size")):
        if isinstance(record.get(key), str):
            tags[tag] = record[key]
    unique = truth(record.get("unique", record.get("is_unique")))
    if unique is not None:
        tags["unique"] = "yes" if unique else "no"
    if box[2] <= box[0] or box[3] <= box[1]:
        tags["box"] = "degenerate"
    return tags
