"""Tables of images and masks in parquet: a dataset on the hub by its id, or a local folder.

The table is memory-mapped by the `datasets` library; a row is decoded when it is asked for.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from envs.datasets.reading.annotations import annotation_to_mask
from envs.datasets.reading.images import label_values
from envs.datasets.reading.records import blaming
from envs.masks import Mask, as_mask
from prompter.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_SPLITS = {"train": ("train",), "val": ("val", "validation", "dev"), "test": ("test",)}


def is_hub_id(place: str | Path) -> bool:
    """Whether `place` looks like "owner/name" and is no local folder."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", str(place)) is not None and not Path(place).exists()


@dataclass(frozen=True)
class HubImage:
    """Loads one image of a table as PIL RGB when called."""

    table: Dataset
    place: str
    number: int
    column: str

    def __call__(self) -> Image.Image:
        with blaming(self._where()), Image.open(io.BytesIO(self._bytes())) as image:
            return image.convert("RGB")

    def wh(self) -> tuple[int, int]:
        """(width, height) in pixels, from the header."""
        with blaming(self._where()), Image.open(io.BytesIO(self._bytes())) as image:
            return image.size

    def _bytes(self) -> bytes:
        return stored_bytes(self.table[self.number][self.column])

    def _where(self) -> str:
        return f"{self.place}, row {self.number}, column {self.column!r}"


def stored_bytes(value: Any) -> bytes:
    """The encoded bytes of an undecoded image value: `{"bytes": …, "path": …}`, or bytes themselves."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, dict) or ("bytes" not in value and "path" not in value):
        raise ValueError(f"it must hold an image, but holds a {type(value).__name__}")
    return value["bytes"] if value.get("bytes") is not None else Path(value["path"]).read_bytes()


class HubTable:
    """Rows of one split; `place` names it in errors."""

    def __init__(self, place: str, table: Dataset) -> None:
        self.place = place
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def column(self, names: Sequence[str]) -> str:
        """The first of `names` that is a column; UserError listing the columns when there is none."""
        for name in names:
            if name in self._table.column_names:
                return name
        found = ", ".join(self._table.column_names)
        raise UserError(f"{self.place} has no column {' or '.join(map(repr, names))}; it has: {found}.")

    def value(self, number: int, column: str) -> Any:
        """One value; images are not decoded."""
        with blaming(f"{self.place}, row {number}, column {column!r}"):
            return self._table.select_columns([column])[number][column]

    def image(self, number: int, column: str) -> HubImage:
        """A picklable loader of one image."""
        return HubImage(self._table.select_columns([column]), self.place, number, column)

    def text(self, number: int, column: str) -> str:
        """One question; UserError when it is not text or empty."""
        text = self.value(number, column)
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{self.place}, row {number}, column {column!r}: it must be text, but is {text!r}."
            )
        return text.strip()

    def mask(self, number: int, column: str, wh: tuple[int, int]) -> Mask:
        """One mask [height, width] for an image of `wh` (width, height).

        It may be stored as an image (non-zero is target), as rows of numbers, as a run-length encoding
        or polygons, or be missing for "no target".
        """
        value = self.value(number, column)
        with blaming(f"{self.place}, row {number}, column {column!r}"):
            if isinstance(value, bytes) or (isinstance(value, dict) and "counts" not in value):
                with Image.open(io.BytesIO(stored_bytes(value))) as image:
                    mask = label_values(image) != 0
            elif isinstance(value, list) and value and _is_grid(value, wh):
                mask = as_mask(np.asarray(value))
            else:
                mask = annotation_to_mask(value, (wh[1], wh[0]))
            if mask.shape != (wh[1], wh[0]):
                raise ValueError(
                    f"it is {mask.shape[0]} x {mask.shape[1]} (height x width), "
                    f"but its image is {wh[1]} x {wh[0]}"
                )
            return mask


def _is_grid(value: list[Any], wh: tuple[int, int]) -> bool:
    """Whether nested lists are rows of pixels, not polygons; both are lists of lists of numbers."""
    return len(value) == wh[1] and isinstance(value[0], list) and len(value[0]) == wh[0]


def open_hub_table(place: str, split: str) -> HubTable:
    """Open a split of a hub dataset (by id) or of a local folder of parquet files.

    A place with a single split is taken as the one asked for (the ports of ReasonSeg call every
    split "test"), unless its own name ends in that of another split.

    Raises:
        UserError: if it cannot be loaded or has no such split.
    """
    import pyarrow
    from datasets import Image as ImageFeature
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    files: dict[str, list[str]] = {}
    try:
        if is_hub_id(place):
            tables = load_dataset(place)
        else:
            files = _local_files(Path(place))
            tables = load_dataset("parquet", data_files=files)
    except (OSError, ValueError, DatasetsError, pyarrow.ArrowException) as error:
        culprit = _unreadable([path for paths in files.values() for path in paths]) or place
        raise UserError(f"{culprit} cannot be loaded as a table: {' '.join(str(error).split())}") from error
    table = tables[_pick_split(place, split, list(tables))]
    for column, feature in table.features.items():
        if isinstance(feature, ImageFeature):
            table = table.cast_column(column, ImageFeature(decode=False))
    return HubTable(place, table)


def _local_files(folder: Path) -> dict[str, list[str]]:
    """Split -> parquet files; the split is the word a file name begins with, or that of its folder."""
    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        words = [re.split(r"[-_.]", path.name)[0], path.parent.name]
        split = next((name for word in words for name, known in _SPLITS.items() if word in known), "test")
        files.setdefault(split, []).append(str(path))
    return files


def _unreadable(files: Sequence[str]) -> str | None:
    """The first parquet file that cannot be read to its end."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for path in files:
        try:
            with ParquetFile(path) as table:
                for _ in table.iter_batches(batch_size=64):
                    pass
        except (OSError, ValueError, pyarrow.ArrowException):
            return path
    return None


def _pick_split(place: str, split: str, found: list[str]) -> str:
    for name in _SPLITS[split]:
        if name in found:
            belongs_to_another = len(found) == 1 and _named_split(place) not in (None, split)
            if not belongs_to_another:
                return name
    if len(found) == 1 and _named_split(place) in (None, split):
        return found[0]
    raise UserError(f"{place} has no split {split!r}; it has: {', '.join(found)}.")


def _named_split(place: str) -> str | None:
    """The split that a place's own name ends in ("…/ReasonSeg_val" is "val")."""
    last = re.split(r"[-_]", Path(place).name.lower())[-1]
    return next((name for name, known in _SPLITS.items() if last in known), None)
