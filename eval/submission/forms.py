"""Where predictions lie: JSON, JSON Lines, our rollouts, folders of PNG masks. Read record by record.

Nothing is held in memory but the place of each record, so a file of any length can be scored.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import numpy as np

from envs.datasets.reading.json_index import JsonArray, index_arrays, index_lines, index_records
from envs.datasets.reading.pixels.labels import read_label_image
from envs.datasets.reading.records import blaming
from envs.masks import encode_rle
from prompter.errors import UserError

INDEX = "predictions.jsonl"
"""A folder of PNG files may hold this file: JSON Lines whose segmentations are names of its PNG files."""

Numbering = Literal["files", "labels"]
"""Several objects in a folder of PNG files: a file each (ID_1.png, …), or the values of one label image."""

_NUMBERED = re.compile(r"(?P<id>.+)_(?P<number>\d+)", re.DOTALL)


class Form(ABC):
    """Predictions by position.

    Args:
        path: the file or folder.
        folder: what paths of PNG files in records are relative to.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder

    @abstractmethod
    def keys(self) -> Iterator[tuple[int, str, bool]]:
        """(position, id, whether the id is said to be an image's) of every record, in order.

        Raises:
            UserError: naming the record that names no sample.
        """

    @abstractmethod
    def record(self, position: int) -> Mapping[str, Any]:
        """The record at a position. Raises UserError if it cannot be read."""

    @abstractmethod
    def where(self, position: int) -> str:
        """Names a record for errors."""


def _key(record: Mapping[str, Any], where: str) -> tuple[str, bool]:
    for key in ("sample_id", "image_id"):
        if key in record:
            value = record[key]
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise UserError(f"{where}: `{key}` must be text or a whole number, but is {value!r}.")
            return str(value), key == "image_id"
    raise UserError(f"{where}: it names no sample; give its `sample_id`.")


class RecordsForm(Form):
    """Records of a file: a JSON array (COCO's results), or JSON Lines, our rollouts among them."""

    def __init__(self, path: Path, records: JsonArray) -> None:
        super().__init__(path, path.parent)
        self._records = records

    def keys(self) -> Iterator[tuple[int, str, bool]]:
        for position, record in enumerate(self._records):
            yield position, *_key(record, self.where(position))

    def record(self, position: int) -> Mapping[str, Any]:
        return self._records[position]

    def where(self, position: int) -> str:
        return self._records.where(position)


class PngFolder(Form):
    """A folder of PNG masks, named after their samples: zero and the object; all zero is "nothing".

    A file is ID.png or, of a sample's several objects, ID_1.png, ID_2.png, …. What a file's name cannot hold
    is written as in an address, `%2F` for a slash; a slash may be a folder as well.

    Args:
        path: the folder.
        known: ids of the benchmark's samples, to tell ID_1.png from the sample "ID_1".
        numbering: `labels` reads ID.png as a label image: every value but 0 is an object.

    Raises:
        UserError: if there is no PNG file, or a name can be read in two ways.
    """

    def __init__(self, path: Path, known: Mapping[str, int], numbering: Numbering = "files") -> None:
        super().__init__(path, path)
        self._labels = numbering == "labels"
        self._files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
        if not self._files:
            raise UserError(f"{path} holds neither {INDEX} nor a PNG file.")
        self._ids: list[str] = []
        whole: dict[str, Path] = {}
        for file in self._files:
            identity, numbered = self._id(file, known)
            self._ids.append(identity)
            if not numbered and whole.setdefault(identity, file) != file:
                raise UserError(f"{file} and {whole[identity]} are both named after sample {identity!r}.")
        for file, identity in zip(self._files, self._ids, strict=True):
            if whole.get(identity, file) != file:
                raise UserError(
                    f"{file} is one object of sample {identity!r}, but {whole[identity]} "
                    f"is all of it; keep one of the two."
                )

    def _id(self, file: Path, known: Mapping[str, int]) -> tuple[str, bool]:
        """The sample of a file, and whether the file is one of its numbered objects."""
        name = unquote(file.relative_to(self.path).with_suffix("").as_posix())
        numbered = None if self._labels else _NUMBERED.fullmatch(name)
        if numbered is None or numbered["id"] not in known:
            return name, False
        if name in known:
            raise UserError(
                f"{file} may be the mask of sample {name!r} or object {numbered['number']} of sample "
                f"{numbered['id']!r}; write the predictions as JSON instead."
            )
        return numbered["id"], True

    def keys(self) -> Iterator[tuple[int, str, bool]]:
        for position, identity in enumerate(self._ids):
            yield position, identity, False

    def record(self, position: int) -> Mapping[str, Any]:
        file = self._files[position]
        if not self._labels:
            return {"segmentation": file.relative_to(self.path).as_posix()}
        with blaming(str(file)):
            label = read_label_image(file).values
        values = [value for value in np.unique(label) if value != 0]
        return {"instances": [{"segmentation": encode_rle(label == value)} for value in values]}

    def where(self, position: int) -> str:
        return str(self._files[position])


def open_form(path: Path, known: Mapping[str, int], numbering: Numbering = "files") -> Form:
    """Open predictions, whichever form they have.

    Args:
        path: a JSON or JSON Lines file, or a folder with an `INDEX` or with PNG files.
        known: ids of the benchmark's samples.
        numbering: of a folder of PNG files.

    Raises:
        UserError: if there is nothing of the kind, or it cannot be read.
    """
    if path.is_dir():
        if (path / INDEX).is_file():
            return RecordsForm(path / INDEX, index_lines(path / INDEX, by_line=True))
        if (path / "config.yaml").is_file():
            raise UserError(
                f"{path} is a run folder; name one of its files of rollouts, rollouts/EXECUTOR.jsonl."
            )
        return PngFolder(path, known, numbering)
    if not path.is_file():
        raise UserError(f"There are no predictions {path}; check the path.")
    return RecordsForm(path, index_lines(path, by_line=True) if _is_lines(path) else _array_of(path))


def _array_of(path: Path) -> JsonArray:
    """The one array of a JSON file, or what an object there holds under `annotations`."""
    with open(path, "rb") as handle:
        start = handle.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return index_arrays(path, ["annotations"])["annotations"] if start == b"{" else index_records(path)


def _is_lines(path: Path) -> bool:
    """Whether a file is JSON Lines: its first line is a JSON object by itself, and no COCO-like file."""
    with open(path, "rb") as handle:
        if handle.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
            return False  # its first line may be all of it
        handle.seek(0)
        first = handle.readline().removeprefix(b"\xef\xbb\xbf")
    try:
        record = json.loads(first)
    except ValueError:
        return path.suffix.lower() in (".jsonl", ".ndjson")
    return isinstance(record, dict) and "annotations" not in record


def file_stem(sample_id: str) -> str:
    """Name of a sample's PNG file, without its ending: letters, digits, `.`, `_` and `-`, the rest as %XX."""
    return quote(sample_id, safe="")
