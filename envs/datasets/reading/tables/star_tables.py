"""The tables that StAR (ysj9909/StAR) publishes for its evaluation, one hub dataset per split.

Their columns, by its code and one card: `image`, `text`, `mask` (rows of booleans; all targets of the
question joined), `image_id`, `ann_id`, `img_height`, `img_width`, and in ReasonSeg-X `reasoning_type`. Its
training table has `problem` and `solution_mask`, a list of such masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.tables.hub import HubTable, is_hub_id, open_hub_table
from envs.datasets.reading.tables.table_samples import Answer, asked, open_rows
from prompter.errors import UserError

TEXT_COLUMNS = ("text", "problem")
MASK_COLUMNS = ("mask", "solution_mask")
TYPE_COLUMN = "reasoning_type"


def open_star_table(
    name: str,
    split: str,
    place: str,
    own_split: str,
    table_split: str | None,
    skip_bad: bool,
    tags: Mapping[str, str] | None = None,
) -> RecordSource[tuple[int, int]]:
    """Open a table.

    Args:
        name, split: of the dataset.
        place: a dataset on the hub, or a folder of tables.
        own_split: how StAR calls the split; a dataset on the hub must be named after it.
        table_split: the table's own name of the split; without it, the hub's are called "train", as
            `datasets` calls a table without splits, and those of val, test and train by their name.
        skip_bad: leave bad rows out, told in `.skipped`, instead of raising.
        tags: added to each sample's.

    Raises:
        UserError: if it cannot be loaded, lacks a column, is of another split, or a row is bad.
    """
    parts = own_split.split("_")
    if table_split is None and is_hub_id(place) and len(parts) > 1:
        if not Path(place).name.lower().endswith(own_split):
            raise UserError(
                f"{place} is not named after the split {own_split!r} of {name!r}, and nothing in it says "
                f"which split it is; if it is that one, say how it calls it by the option 'table_split'."
            )
        table_split = "train"
    table = open_hub_table(place, own_split, table_split)
    image, text = table.column(["image"]), table.column(TEXT_COLUMNS)
    reader = _StarReader(table, text, table.column(MASK_COLUMNS), dict(tags or {}))
    ids = "image_id" if "image_id" in table.columns else None
    return open_rows(
        name,
        split,
        table,
        image,
        reader,
        image_key=None if ids is None else lambda row: table.value(row, ids),
        skip_bad=skip_bad,
    )


@dataclass(frozen=True)
class _StarReader:
    """A `RowReader` of one question a row."""

    table: HubTable
    text_column: str
    mask_column: str
    tags: dict[str, str] = field(default_factory=dict)

    def questions(self, row: int) -> Sequence[tuple[int, str]]:
        with blaming(self.table.where(row, self.text_column)):
            return asked(self.table.value(row, self.text_column))

    def answer(self, row: int, number: int, wh: tuple[int, int]) -> Answer:
        tags = dict(self.tags)
        if TYPE_COLUMN in self.table.columns:
            kind = self.table.value(row, TYPE_COLUMN)
            if kind is not None and str(kind).strip():
                tags["reasoning"] = str(kind).strip()
        value = self.table.value(row, self.mask_column)
        if not _is_stack(value):
            return Answer(self.table.mask(row, self.mask_column, wh), tags=tags)
        with blaming(self.table.where(row, self.mask_column)):
            stack = np.asarray(value, dtype=np.bool_)
            if stack.shape[1:] != (wh[1], wh[0]):
                raise ValueError(
                    f"its masks are {stack.shape[1]} x {stack.shape[2]} (height x width), "
                    f"but its image is {wh[1]} x {wh[0]}"
                )
            return Answer(np.asarray(stack.any(axis=0)), tags=tags)


def _is_stack(value: Any) -> bool:
    """Whether a value is a list of masks, each rows of pixels."""
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth == 3
