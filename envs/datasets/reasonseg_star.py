"""ReasonSeg-R and ReasonSeg-X, StAR's two benchmarks: ReasonSeg with its labels repaired, and one of its own.

Both are published as tables on the hub only. Their columns are those that StAR's evaluation reads; no row
of them was seen. ReasonSeg-X tells the kind of reasoning of each question, which becomes the tag `reasoning`.
"""

from __future__ import annotations

from pathlib import Path

from envs.datasets.reading.roots import default_root, not_found, table_place
from envs.datasets.reading.tables.star_tables import open_star_table
from envs.sample import SampleSource


def open_reasonseg_r(
    split: str, *, root: str | Path | None = None, table_split: str | None = None, skip_bad: bool = False
) -> SampleSource:
    """Open ReasonSeg-R, which is a test split.

    Args:
        split: test.
        root: the dataset on the hub, or a folder of parquet or arrow files of it.
        table_split: the table's own name of the split, when it is to be another.
        skip_bad: leave bad rows out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if it is not there, or a row is bad.
    """
    return _open("reasonseg-r", split, root, table_split, skip_bad)


def open_reasonseg_x(
    split: str, *, root: str | Path | None = None, table_split: str | None = None, skip_bad: bool = False
) -> SampleSource:
    """Open a split of ReasonSeg-X (train, val, test); arguments as for `open_reasonseg_r`."""
    return _open("reasonseg-x", split, root, table_split, skip_bad)


def _open(
    name: str, split: str, root: str | Path | None, table_split: str | None, skip_bad: bool
) -> SampleSource:
    place = table_place(name, root, [])
    if place is None:
        looked = default_root(name) if root is None else Path(root)
        raise not_found(name, ["table (parquet or arrow)"], [] if looked is None else [looked])
    return open_star_table(name, split, place, split, table_split, skip_bad)
