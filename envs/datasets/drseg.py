"""DRSeg: 10,000 drone images with one reasoning question and one target each, in LISA's style.

The files themselves were not seen. What is relied on: the authors' loader, which is LISA's with
another folder, and the split 3:2:5 of their paper. Images and annotations are looked for side by
side in the split's folder, or in subfolders of it.
"""

from __future__ import annotations

from pathlib import Path

from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root
from envs.datasets.reasonseg import open_lisa_folder

NAME = "drseg"


def open_drseg(
    split: str, *, root: Path | None = None, skip_bad: bool = False
) -> RecordSource[tuple[str, int]]:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with one folder per split.
        skip_bad: leave bad files out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a file is bad.
    """
    folder = find_root(NAME, root, [split], nested=["DRSeg", "data/DRSeg"])
    return open_lisa_folder(NAME, split, folder / split, "all", skip_bad)
