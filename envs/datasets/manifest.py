"""`manifest`: anyone's own data as one JSONL file, one question a line.

    {"image": "a.jpg", "query": "the red roof", "mask": {"size": [512, 512], "counts": "…"}}
    {"image": "a.jpg", "query": "all roofs", "mask": [[10, 10, 60, 10, 60, 50]], "tags": {"axis": "group"}}
    {"image": "b.png", "query": "the pool", "mask": "masks/b.png", "ignore": "masks/b_unsure.png"}
    {"image": "b.png", "query": "the airport", "mask": null}

`image` and `query` are needed, and one of `mask` (a run-length encoding, polygons, a list of either, a
label image, or null for "no target"), `instances` (a list of those, one per object) and `boxes` (XYXY
lists, when there are no masks). `ignore`, `tags` (text to text) and `id` are optional. Paths are relative
to the file. The lines stay in the file: only their positions are held in memory. What a file may mean in
more than one way is decided by the rules of reading (`envs.datasets.reading.rules`).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.datasets.reading.pixels.annotations import (
    annotation_to_mask,
    annotation_to_rle,
    check_annotation,
    xyxy_box,
)
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.text import decode_text, each_key_once
from envs.masks import RLE, encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError, did_you_mean
from prompter.types import Box

NAME = "manifest"
KEYS = ("image", "query", "mask", "instances", "boxes", "ignore", "tags", "id")


def open_manifest(split: str, *, path: Path, skip_bad: bool = False) -> RecordSource[tuple[int, int]]:
    """Open a manifest; every line is checked before this returns, without decoding masks or pixels.

    Args:
        split: any name; it becomes the samples' split.
        path: the JSONL file.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising; this also decodes all.

    Raises:
        UserError: naming file, line and key of the first bad line: bad JSON, a missing or unknown key,
            an image that is missing, a mask whose size is not its image's, an id used twice.
    """
    reader = _Reader(path, split)
    index = _Lines()
    ids: set[str] = set()
    skipped: list[UserError] = []
    for number, offset in reader.lines():
        try:
            identity = reader.check(number, offset)
            if identity in ids:
                raise UserError(f"{path}, line {number}, key 'id': {identity!r} was used before.")
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)
        else:
            ids.add(identity)
            index.append(number, offset)
    return RecordSource(NAME, split, index, reader.sample, skip_bad=skip_bad, skipped=skipped)


class _Lines:
    """(line number, byte offset) of each line, in 16 bytes each."""

    def __init__(self) -> None:
        self._numbers, self._offsets = array("Q"), array("Q")

    def append(self, number: int, offset: int) -> None:
        self._numbers.append(number)
        self._offsets.append(offset)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self._numbers[index], self._offsets[index]


@dataclass(frozen=True)
class _Reader:
    path: Path
    split: str

    def lines(self) -> Iterator[tuple[int, int]]:
        """(line number from 1, byte offset) of every line that is not blank."""
        with blaming(f"manifest {self.path}"), open(self.path, "rb") as handle:
            offset = 0
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield number, offset
                offset += len(line)

    def check(self, number: int, offset: int) -> str:
        """Check one line as far as headers tell; return its id."""
        record = self._record(number, offset)
        hw = self._size(record, number)
        for key in ("mask", "ignore"):
            if key in record:
                with blaming(self._where(number, key)):
                    check_annotation(record[key], hw, self.path.parent)
        with blaming(self._where(number, "instances")):
            for value in self._list(record, "instances"):
                check_annotation(value, hw, self.path.parent)
        self._boxes(record, number, hw)
        return self._id(record, number)

    def sample(self, line: tuple[int, int]) -> Sample:
        """Build the sample of a line (its number and byte offset)."""
        number, offset = line
        record = self._record(number, offset)
        height, width = hw = self._size(record, number)
        folder = self.path.parent
        with blaming(self._where(number, "instances")):
            instances = [annotation_to_mask(value, hw, folder) for value in self._list(record, "instances")]
        with blaming(self._where(number, "mask")):
            target: RLE | None
            if "mask" in record:
                target = annotation_to_rle(record["mask"], hw, folder)
            else:
                target = encode_rle(union(instances, hw)) if "instances" in record else None
        with blaming(self._where(number, "ignore")):
            has_ignore = record.get("ignore") not in (None, [])
            ignore = annotation_to_rle(record["ignore"], hw, folder) if has_ignore else None
        return Sample(
            sample_id=self._id(record, number),
            dataset=NAME,
            split=self.split,
            image_id=record["image"],
            image_wh=(width, height),
            load_image=ImageFile(str(folder / record["image"])),
            query=record["query"],
            target=target,
            instances=tuple(encode_rle(mask) for mask in instances),
            ignore=ignore,
            boxes=self._boxes(record, number, hw),
            tags={**_no_target(record), **(record.get("tags") or {})},
        )

    def _record(self, number: int, offset: int) -> dict[str, Any]:
        """Read one line and check its keys and the types of those that are text."""
        with blaming(f"{self.path}, line {number}"):
            with open(self.path, "rb") as handle:
                handle.seek(offset)
                text = decode_text(handle.readline(), "utf-8")
            try:
                record = json.loads(text, object_pairs_hook=each_key_once)
            except json.JSONDecodeError as error:
                raise ValueError(f"it is not JSON ({error.msg}, column {error.colno})") from None
            if not isinstance(record, dict):
                raise ValueError("it must be a JSON object")
            for key in record:
                if key not in KEYS:
                    raise ValueError(f"there is no key {key!r}.{did_you_mean(key, KEYS)}")
            for key in ("image", "query"):
                if not isinstance(record.get(key), str) or not record[key].strip():
                    raise ValueError(f"the key {key!r} must be text that is not empty")
            if not {"mask", "instances", "boxes"} & set(record):
                raise ValueError("it needs one of the keys 'mask', 'instances' and 'boxes'")
            tags = record.get("tags") or {}
            if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
                raise ValueError("the key 'tags' must be an object of text values")
            return record

    def _size(self, record: dict[str, Any], number: int) -> tuple[int, int]:
        with blaming(self._where(number, "image")):
            width, height = image_wh(self.path.parent / record["image"])
        return height, width

    def _boxes(self, record: dict[str, Any], number: int, hw: tuple[int, int]) -> tuple[Box, ...]:
        with blaming(self._where(number, "boxes")):
            return tuple(xyxy_box(box, (hw[1], hw[0])) for box in self._list(record, "boxes"))

    def _id(self, record: dict[str, Any], number: int) -> str:
        given = record.get("id")
        return f"line-{number}" if given is None else str(given)

    def _where(self, number: int, key: str) -> str:
        return f"{self.path}, line {number}, key {key!r}"

    @staticmethod
    def _list(record: dict[str, Any], key: str) -> list[Any]:
        value = record.get(key) or []
        if not isinstance(value, list):
            raise ValueError(f"it must be a list, but is {type(value).__name__}")
        return value


def _no_target(record: dict[str, Any]) -> dict[str, str]:
    """The tag of a record whose author says that there is no target, unlike an empty label image."""
    shapes = [record[key] for key in ("mask", "instances", "boxes") if key in record]
    is_said = "mask" in record or "instances" not in record  # by mask: null, or by boxes: [] alone
    says_so = is_said and all(value in (None, []) for value in shapes)
    return {"target": "none"} if says_so else {}
