"""RefSegRS: 4,420 expressions on 512 x 512 images; label images are TIFFs of several channels.

The authors' hub dataset holds a zip of the files; opened by its id it gives pictures without questions, so
unpack the zip and give its folder. Copies as tables that have the questions are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from envs.datasets.reading.layouts.phrases import open_phrases
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root, need_existing, table_place
from envs.datasets.reading.tables.table_samples import ColumnNames, open_flat_table
from envs.masks import Mask
from prompter.errors import UserError

NAME = "refsegrs"
NESTED = ("RefSegRS", "rs_ref_seg/RefSegRS")
COLUMNS = ColumnNames(text=("phrase", "text", "sentence", "expression", "caption", "question"))
THRESHOLDS = (0, 50, 255)


def open_refsegrs(
    split: str,
    *,
    root: Path | None = None,
    threshold: int = 0,
    encoding: str | None = None,
    table_split: str | None = None,
    columns: dict[str, str] | None = None,
    skip_bad: bool = False,
) -> RecordSource:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `images/`, `masks/` and `output_phrase_*.txt`, a folder of tables, or a hub id.
        threshold: which label values (the largest of the channels) are target. Three rules are in
            use: 0 (above 0), 50 (above 50) and 255 (exactly 255). They differ on grey edges only.
        encoding: of the text files, where it is not UTF-8.
        table_split: the table's own name of the split, where it is to be another.
        columns: which columns of a table hold `image`, `text` and `mask`, where they are not found.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, a line is bad, or the threshold is another.
    """
    if threshold not in THRESHOLDS:
        raise UserError(
            f"option 'threshold' of dataset {NAME!r} must be one of {THRESHOLDS}, but is {threshold}."
        )

    def is_target(label: NDArray[Any]) -> Mask:
        return label == 255 if threshold == 255 else label > threshold

    names = [f"output_phrase_{split}.txt", f"phrase_txts/output_phrase_{split}.txt"]
    place = table_place(NAME, root, names, NESTED)
    if place is not None:
        return open_flat_table(
            NAME,
            split,
            place,
            COLUMNS,
            columns=columns,
            table_split=table_split,
            own=is_target,
            skip_bad=skip_bad,
        )
    folder = find_root(NAME, root, names, NESTED)
    return open_phrases(
        NAME,
        split,
        need_existing(NAME, folder, names),
        need_existing(NAME, folder, ["images"]),
        need_existing(NAME, folder, ["masks"]),
        ".tif",
        is_target,
        skip_bad,
        encoding,
    )
