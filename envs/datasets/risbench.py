"""RISBench: 52,472 expressions on 512 x 512 images.

Lines of the val file name images called `train_*.png`: the file says the split, not the name. Every
expression has a name of its own, so that one picture lies there under several. The copy in circulation as
arrow files has the columns `image`, `mask` and `phrase`.
"""

from __future__ import annotations

from pathlib import Path

from envs.datasets.reading.layouts.phrases import open_phrases
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root, need_existing, table_place
from envs.datasets.reading.tables.table_samples import ColumnNames, open_flat_table

NAME = "risbench"
NESTED = ("RISBench", "RISBench_dataset")
COLUMNS = ColumnNames(text=("phrase", "text", "expression", "caption", "question"))


def open_risbench(
    split: str,
    *,
    root: Path | None = None,
    encoding: str | None = None,
    table_split: str | None = None,
    columns: dict[str, str] | None = None,
    skip_bad: bool = False,
) -> RecordSource:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `img_rgb/`, `mask/` (also seen: `images/`, `masks/`) and
            `output_phrase_*.txt`, a folder of tables, or a hub id. Label images have one or three
            channels; non-zero is target.
        encoding: of the text files, where it is not UTF-8.
        table_split: the table's own name of the split, where it is to be another.
        columns: which columns of a table hold `image`, `text` and `mask`, where they are not found.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a line is bad.
    """
    names = [f"output_phrase_{split}.txt"]
    place = table_place(NAME, root, names, NESTED)
    if place is not None:
        return open_flat_table(
            NAME,
            split,
            place,
            COLUMNS,
            columns=columns,
            table_split=table_split,
            own="nonzero",
            skip_bad=skip_bad,
        )
    folder = find_root(NAME, root, names, NESTED)
    return open_phrases(
        NAME,
        split,
        folder / names[0],
        need_existing(NAME, folder, ["img_rgb", "images"]),
        need_existing(NAME, folder, ["mask", "masks"]),
        ".png",
        "nonzero",
        skip_bad,
        encoding,
    )
