"""RRSIS-D: 17,402 expressions on 800 x 800 images of 20 categories, in the REFER format."""

from __future__ import annotations

from pathlib import Path

from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.refer import Overlap, ReferReader, read_references
from envs.datasets.reading.roots import find_root, need_existing

NAME = "rrsis-d"


def open_rrsis_d(
    split: str, *, root: Path | None = None, overlap: Overlap = "union", skip_bad: bool = False
) -> RecordSource[tuple[int, int]]:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `rrsisd/` and `images/`.
        overlap: "union" joins an annotation's polygons; "reference" keeps what was drawn exactly
            once, as the reference code does, so that overlaps of two parts drop out.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    folder = find_root(NAME, root, ["rrsisd/refs(unc).p"])
    images = need_existing(NAME, folder, ["images/rrsisd/JPEGImages", "images/JPEGImages", "JPEGImages"])
    instances = need_existing(NAME, folder, ["rrsisd/instances.json"])
    skipped: list[str] | None = [] if skip_bad else None
    references = read_references(folder / "rrsisd/refs(unc).p", [split], "raw", skipped)
    reader = ReferReader(NAME, split, references, instances, images, overlap=overlap, skipped=skipped)
    return reader.source(skip_bad, skipped or ())
