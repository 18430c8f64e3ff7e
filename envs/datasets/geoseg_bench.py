"""GeoSeg-Bench (UniGeoSeg): 6,892 instructions on overhead images, each of one of three kinds.

A kind has a folder with `test.json`, a list of `{"img", "mask", "json"}` whose paths are relative to that
folder; the third file holds `{"question": [...], "reason": [...]}`, of which the authors' code asks
`question[0]`. Interactive questions name a box or points in their text, in fractions of the image's sides.
The format is that of the authors' loader; on the hub the folder `interactive/` and its `test.json` were
seen, the names of the other two folders were not. No record was seen.

Another benchmark of the same name (810 queries, of the method GeoSeg) is not this one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from envs.datasets.reading.json_index import index_records
from envs.datasets.reading.pixels.images import ImageFile, image_wh, read_mask
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, first_existing
from envs.datasets.reading.tables.table_samples import asked
from envs.datasets.reading.text import read_text
from envs.masks import encode_rle
from envs.sample import Sample

NAME = "geoseg-bench"
NESTED = ("GeoSeg-Bench", "benchmark")
FOLDERS = {
    "reasoning": ("reasoning", "reason"),
    "referring": ("referring", "ref"),
    "interactive": ("interactive", "intera"),
}
_BOX = re.compile(r"x0,\s*y0\s*=\s*\[")
_POINT = re.compile(r"\[[\d.]+,\s*[\d.]+\]")


def open_geoseg_bench(
    split: str, *, root: Path | None = None, encoding: str | None = None, skip_bad: bool = False
) -> RecordSource[int]:
    """Open the test part of one kind of instruction.

    Args:
        split: reasoning, referring or interactive.
        root: the folder with one folder per kind. Label images hold 0 and 255.
        encoding: of the question files, where it is not UTF-8.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    names = [f"{folder}/{inner}test.json" for folder in FOLDERS[split] for inner in ("", "test/")]
    base = find_root(NAME, root, names, NESTED)
    index = first_existing(base, names)
    assert index is not None  # find_root saw to it
    folder, records = index.parent, index_records(index)

    def build(number: int) -> Sample:
        record = records[number]
        with blaming(records.where(number)):
            image = folder / str(record["img"])
            wh = image_wh(image)
            target = read_mask(folder / str(record["mask"]), wh)
            query = _question(folder / str(record["json"]), encoding)
        return Sample(
            sample_id=f"{number}",
            dataset=NAME,
            split=split,
            image_id=str(record["img"]),
            image_wh=wh,
            load_image=ImageFile(str(image)),
            query=query,
            target=encode_rle(target),
            tags=_tags(split, query),
        )

    return RecordSource(NAME, split, range(len(records)), build, skip_bad=skip_bad)


def _question(path: Path, encoding: str | None) -> str:
    with blaming(str(path)):
        data: Any = json.loads(read_text(path, encoding))
        key = "question" if "question" in data else "questions"
        questions = asked(data[key])
        if not questions:
            raise ValueError(f"the key {key!r} must hold a question")
        return questions[0][1]


def _tags(split: str, query: str) -> dict[str, str]:
    """Interactive questions are told apart by the prompt they write: a box, or points."""
    if split != "interactive":
        return {"task": split}
    prompt = "box" if _BOX.search(query) else "points" if _POINT.search(query) else "none"
    return {"task": split, "prompt": prompt}
