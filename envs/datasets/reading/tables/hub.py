"""Tables of images, questions and masks: on the hub by id, or a local folder of parquet, arrow or JSON lines.

Parquet and arrow are memory-mapped by the `datasets` library, JSON lines are read by their positions; a row
is decoded when it is asked for. `reading/tables/table_samples.py` makes samples of the rows.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from envs.datasets.reading.json_index import JsonArray, index_lines
from envs.datasets.reading.pixels.annotations import annotation_to_mask
from envs.datasets.reading.pixels.images import not_zero
from envs.datasets.reading.pixels.label_rule import Label
from envs.datasets.reading.pixels.labels import OwnRule, read_label_image, target_of
from envs.datasets.reading.pixels.pictures import read_header, read_rgb
from envs.datasets.reading.records import blaming
from envs.datasets.reading.rules import ReadingRules, applied, in_force
from envs.datasets.reading.tables.table_files import pick_split, table_files
from envs.masks import Mask, union
from prompter.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

HUB_PREFIX = "hub:"


def is_hub_id(place: str | Path) -> bool:
    """Whether `place` names a dataset on the hub: "hub:owner/name", or "owner/name" alone.

    "owner/name" is a local path where its folder "owner" exists: a mistyped path is not asked of the hub.
    """
    text = str(place)
    if text.startswith(HUB_PREFIX):
        return True
    looks_like_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None
    return looks_like_id and not Path(text).exists() and not Path(text).parent.is_dir()


class Rows(Protocol):
    """The rows of one split, as plain values: images are undecoded, `{"bytes": …, "path": …}` or a path."""

    columns: Sequence[str]

    def __len__(self) -> int: ...

    def value(self, number: int, column: str) -> Any:
        """One value."""
        ...


class ArrowRows:
    """Rows of a memory-mapped table."""

    def __init__(self, table: Dataset) -> None:
        self._table = table.with_format("arrow")  # nothing is decoded
        self._views: dict[str, Dataset] = {}
        self.columns: Sequence[str] = table.column_names

    def __len__(self) -> int:
        return len(self._table)

    def value(self, number: int, column: str) -> Any:
        view = self._views.get(column)
        if view is None:  # only this column's bytes are touched
            view = self._views[column] = self._table.select_columns([column])
        return view[number].column(0)[0].as_py()


class LineRows:
    """Rows of files of JSON lines; a column that a line lacks is None there."""

    def __init__(self, files: Sequence[JsonArray]) -> None:
        self._files = files
        self._ends = list(accumulate(len(file) for file in files))
        heads = (file[index] for file in files for index in range(min(len(file), 20)))
        self.columns: Sequence[str] = list(dict.fromkeys(key for record in heads for key in record))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def value(self, number: int, column: str) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} rows, but row {number} was asked for")
        file = bisect_right(self._ends, number)
        return self._files[file][number - (self._ends[file - 1] if file else 0)].get(column)


@dataclass(frozen=True)
class HubImage:
    """Loads one image of a table as PIL RGB when called."""

    rows: Rows
    place: str
    number: int
    column: str
    folder: str | None
    rules: ReadingRules = field(default_factory=in_force)

    def __call__(self) -> Image.Image:
        with applied(self.rules), blaming(self._where()):
            return read_rgb(self._stored())

    def wh(self) -> tuple[int, int]:
        """(width, height) in pixels, from the header."""
        with applied(self.rules), blaming(self._where()):
            return read_header(self._stored()).wh

    def stored(self) -> bytes | Path:
        """The encoded image, or the path of its file; names the image as well."""
        with blaming(self._where()):
            return self._stored()

    def _stored(self) -> bytes | Path:
        return stored_image(self.rows.value(self.number, self.column), self.folder)

    def _where(self) -> str:
        return f"{self.place}, row {self.number}, column {self.column!r}"


def stored_image(value: Any, folder: str | Path | None) -> bytes | Path:
    """The encoded bytes of an undecoded image value, or the path of its file.

    Args:
        value: bytes, `{"bytes": …, "path": …}`, a path, or a list that holds one of these.
        folder: what paths are relative to; None where there can be none, in a table from the hub.

    Raises:
        ValueError: if it is none of these; a list of several does not say which one is asked about.
    """
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"it must hold one image, but holds {len(value)}")
        value = value[0]
    if isinstance(value, bytes):
        return value
    path = value
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        path = value.get("path")
    if not isinstance(path, str) or not path:
        raise ValueError(f"it must hold an image, but holds a {type(value).__name__}")
    if folder is None:
        raise ValueError(f"it names the file {path!r}, but the table holds no files")
    return Path(folder) / path


class HubTable:
    """Rows of one split; `place` names it in errors, `folder` is what paths in it are relative to."""

    def __init__(self, place: str, rows: Rows, folder: str | None = None) -> None:
        self.place = place
        self.folder = folder
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        return self._rows.columns

    def column(self, names: Sequence[str], remedy: str = "") -> str:
        """The first of `names` that is a column; UserError listing the columns when there is none."""
        for name in names:
            if name in self._rows.columns:
                return name
        found = ", ".join(self._rows.columns)
        raise UserError(
            f"{self.place} has no column {' or '.join(map(repr, names))}; it has: {found}.{remedy}"
        )

    def value(self, number: int, column: str) -> Any:
        """One value; images are not decoded."""
        with blaming(self.where(number, column)):
            return self._rows.value(number, column)

    def where(self, number: int, column: str) -> str:
        """Names a value for errors; rows are counted from 0."""
        return f"{self.place}, row {number}, column {column!r}"

    def image(self, number: int, column: str) -> HubImage:
        """A picklable loader of one image."""
        return HubImage(self._rows, self.place, number, column, self.folder)

    def text(self, number: int, column: str) -> str:
        """One question; UserError when it is not text or empty."""
        text = self.value(number, column)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{self.where(number, column)}: it must be text, but is {text!r}.")
        return text.strip()

    def mask(self, number: int, column: str, wh: tuple[int, int], own: OwnRule | str = "two") -> Mask:
        """One mask [height, width] for an image of `wh` (width, height).

        It may be stored as an image or the path of one, of whose values `own` says which are target (see
        `pixels.images.read_mask`); as rows of numbers (not zero is target); as a run-length encoding or
        polygons, also written as text; as a list of images, which are joined; or be missing for "no
        target".
        """
        value = self.value(number, column)
        with blaming(self.where(number, column)):
            return self._read_mask(value, (wh[1], wh[0]), own)

    def _read_mask(self, value: Any, hw: tuple[int, int], own: OwnRule | str) -> Mask:
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            value = json.loads(value)
        if isinstance(value, list) and value and all(_is_image(one) for one in value):
            return union((self._read_mask(one, hw, own) for one in value), hw)
        if _is_image(value):
            return target_of(read_label_image(stored_image(value, self.folder)), hw, own)
        if isinstance(value, list) and value and _is_grid(value, hw):
            return target_of(Label(np.asarray(value)), hw, not_zero)
        return annotation_to_mask(value, hw)


def _is_image(value: Any) -> bool:
    return isinstance(value, bytes | str) or (isinstance(value, dict) and "counts" not in value)


def _is_grid(value: list[Any], hw: tuple[int, int]) -> bool:
    """Whether nested lists are rows of pixels, not polygons; both are lists of lists of numbers.

    Rows are equally long, and as the image is; or, of another size, they hold booleans, or are many and
    hold zeros and one other number, which polygons that have an area do not.
    """
    if not all(isinstance(row, list) and len(row) == len(value[0]) for row in value) or not value[0]:
        return False
    if (len(value), len(value[0])) == tuple(hw):
        return True
    pixels = {pixel if isinstance(pixel, bool | int | float) else None for row in value for pixel in row}
    if None in pixels:
        return False
    is_boolean = all(isinstance(pixel, bool) for pixel in value[0])
    return is_boolean or (min(len(value), len(value[0])) >= 8 and len(pixels - {0}) <= 1)


def no_pixel(hw: tuple[int, int]) -> Mask:
    """A mask of (height, width) with no pixel."""
    return np.zeros(hw, dtype=np.bool_)


def open_hub_table(
    place: str, split: str, table_split: str | None = None, *, also: str | None = None
) -> HubTable:
    """Open a split of a hub dataset (see `is_hub_id`) or of a local folder of tables (see `table_files`).

    Args:
        place: the id, or the folder.
        split: which split is asked for; `table_files.pick_split` says which of the table's it is.
        table_split: the table's own name of the split, when it is to be another.
        also: the name that the split has in a table of several sets; it goes before `split`, and then no
            name that only contains `split` is taken for it.

    Raises:
        UserError: if it cannot be loaded or has no such split.
    """

    def chosen(found: list[str]) -> str:
        if table_split is None:
            return also if also in found else pick_split(str(place), split, found, is_exact=also is not None)
        if table_split not in found:
            raise UserError(f"{place} has no split {table_split!r}; it has: {', '.join(found)}.")
        return table_split

    if is_hub_id(place):
        tables = _load_from_hub(str(place))
        return HubTable(str(place), ArrowRows(tables[chosen(list(tables))]))
    files = table_files(Path(place))
    paths = files[chosen(list(files))]
    # Paths inside a table are relative to its folder; `data/` of a copy from the hub is no place for them.
    folder = paths[0].parent.parent if paths[0].parent.name == "data" else paths[0].parent
    if paths[0].suffix == ".jsonl":
        return HubTable(str(place), LineRows([index_lines(path) for path in paths]), str(folder))
    return HubTable(str(place), ArrowRows(_load_files(paths)), str(folder))


def _load_from_hub(place: str) -> Any:
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(place.removeprefix(HUB_PREFIX))
    except (OSError, ValueError, DatasetsError, pyarrow.ArrowException) as error:
        raise UserError(
            f"there is no local folder {place.removeprefix(HUB_PREFIX)!r}, and as a dataset on the hub it "
            f"cannot be loaded: {' '.join(str(error).split())}"
        ) from error


def _load_files(paths: Sequence[Path]) -> Dataset:
    import pyarrow
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    files = {"train": [str(path) for path in paths]}
    try:
        for path in paths:
            if path.suffix == ".arrow":
                _read_through(path)
        with _without_progress_bars():  # nothing is downloaded
            return load_dataset(paths[0].suffix[1:], data_files=files)["train"]
    except (OSError, ValueError, DatasetsError, pyarrow.ArrowException) as error:
        culprit = _unreadable(paths) or paths[0].parent
        raise UserError(f"{culprit} cannot be loaded as a table: {' '.join(str(error).split())}") from error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            enable_progress_bars()


def _unreadable(files: Sequence[Path]) -> Path | None:
    """The first parquet or arrow file that cannot be read to its end."""
    import pyarrow

    for path in files:
        try:
            _read_through(path)
        except (OSError, ValueError, pyarrow.ArrowException):
            return path
    return None


def _read_through(path: Path) -> None:
    """Read a file once; what the library raises says that it is broken.

    Arrow files carry no checksums: offsets that point beyond their data would be followed, so they are
    looked at before any value is.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    if path.suffix == ".parquet":
        with ParquetFile(path) as table:
            for _ in table.iter_batches(batch_size=64):
                pass
        return
    with pyarrow.memory_map(str(path)) as source:
        try:
            batches = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:  # the format of files, not of streams
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        for batch in batches:
            batch.validate(full=True)
