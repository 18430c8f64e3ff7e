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

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.datasets.reading.json_index import JsonLines, index_lines
from envs.datasets.reading.pixels.annotations import (
    annotation_to_mask,
    annotation_to_rle,
    check_annotation,
    xyxy_box,
)
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.masks import RLE, encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError, did_you_mean
from prompter.types import Box

NAME = "manifest"
KEYS = ("image", "query", "mask", "instances", "boxes", "ignore", "tags", "id")


def open_manifest(split: str, *, path: Path, skip_bad: bool = False) -> RecordSource[int]:
    """Open a manifest; every line is checked before this returns, without decoding masks or pixels.

    Args:
        split: any name; it becomes the samples' split.
        path: the JSONL file.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising; this also decodes all.

    Raises:
        UserError: naming file, line and key of the first bad line: bad JSON, a missing or unknown key,
            an image that is missing, a mask whose size is not its image's, an id used twice.
    """
    with blaming("manifest"):
        lines = index_lines(path, by_line=True)
    reader = _Reader(lines, split)
    index = array("Q")
    ids: set[str] = set()
    skipped: list[UserError] = []
    for position in range(len(lines)):
        try:
            identity = reader.check(position)
            if identity in ids:
                raise UserError(f"{lines.where(position)}, key 'id': {identity!r} was used before.")
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)
        else:
            ids.add(identity)
            index.append(position)
    return RecordSource(NAME, split, index, reader.sample, skip_bad=skip_bad, skipped=skipped)


@dataclass(frozen=True)
class _Reader:
    """Checks and builds what stands at a position of a manifest's lines."""

    lines: JsonLines
    split: str

    @property
    def _folder(self) -> Path:
        return self.lines.path.parent

    def check(self, position: int) -> str:
        """Check one line as far as headers tell; return its id."""
        record = self._record(position)
        hw = self._size(record, position)
        for key in ("mask", "ignore"):
            if key in record:
                with blaming(self._where(position, key)):
                    check_annotation(record[key], hw, self._folder)
        with blaming(self._where(position, "instances")):
            for value in self._list(record, "instances"):
                check_annotation(value, hw, self._folder)
        self._boxes(record, position, hw)
        return self._id(record, position)

    def sample(self, position: int) -> Sample:
        """Build the sample of a line."""
        record = self._record(position)
        height, width = hw = self._size(record, position)
        folder = self._folder
        with blaming(self._where(position, "instances")):
            instances = [annotation_to_mask(value, hw, folder) for value in self._list(record, "instances")]
        with blaming(self._where(position, "mask")):
            target: RLE | None
            if "mask" in record:
                target = annotation_to_rle(record["mask"], hw, folder)
            else:
                target = encode_rle(union(instances, hw)) if "instances" in record else None
        with blaming(self._where(position, "ignore")):
            has_ignore = record.get("ignore") not in (None, [])
            ignore = annotation_to_rle(record["ignore"], hw, folder) if has_ignore else None
        return Sample(
            sample_id=self._id(record, position),
            dataset=NAME,
            split=self.split,
            image_id=record["image"],
            image_wh=(width, height),
            load_image=ImageFile(str(folder / record["image"])),
            query=record["query"],
            target=target,
            instances=tuple(encode_rle(mask) for mask in instances),
            ignore=ignore,
            boxes=self._boxes(record, position, hw),
            tags={**_no_target(record), **(record.get("tags") or {})},
        )

    def _record(self, position: int) -> dict[str, Any]:
        """Read one line and check its keys and the types of those that are text."""
        record = self.lines[position]
        with blaming(self.lines.where(position)):
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

    def _size(self, record: dict[str, Any], position: int) -> tuple[int, int]:
        with blaming(self._where(position, "image")):
            width, height = image_wh(self._folder / record["image"])
        return height, width

    def _boxes(self, record: dict[str, Any], position: int, hw: tuple[int, int]) -> tuple[Box, ...]:
        with blaming(self._where(position, "boxes")):
            return tuple(xyxy_box(box, (hw[1], hw[0])) for box in self._list(record, "boxes"))

    def _id(self, record: dict[str, Any], position: int) -> str:
        given = record.get("id")
        return f"line-{self.lines.number(position)}" if given is None else str(given)

    def _where(self, position: int, key: str) -> str:
        return f"{self.lines.where(position)}, key {key!r}"

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
