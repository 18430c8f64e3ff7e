"""RRSIS-D: 17,402 expressions on 800 x 800 images of 20 categories, in the REFER format.

As its converters print it: each reference has one sentence and one annotation, and all three share
one number; an annotation's segmentation is a list of one run-length encoding, its `bbox` is x1, y1,
x2, y2, and its category stands under `categories_id`, so that the reference's own `category_id` names
it. The loaders in circulation (RMSIN, RSRefSeg2) bring image and mask to one size each on its own, so
that a pair of different sizes is evaluated; the option `mask_size=resize`, which every set has, follows
them, for the published number of samples.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from envs.datasets.reading.layouts.refer import Overlap, ReferReader, read_references
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root, need_existing

NAME = "rrsis-d"
IMAGES = ("images/rrsisd/JPEGImages", "images/JPEGImages", "rrsisd/images/rrsisd/JPEGImages", "JPEGImages")


def open_rrsis_d(
    split: str,
    *,
    root: Path | None = None,
    overlap: Overlap = "union",
    encoding: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `rrsisd/` and `images/`.
        overlap: "union" joins an annotation's parts; "reference" keeps what was drawn exactly
            once, as the reference code does, so that overlaps of two parts drop out.
        encoding: of the text, where it is not UTF-8.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    folder = find_root(NAME, root, ["rrsisd/refs(unc).p"], nested=["RRSIS-D", "rs_ref_seg/RRSIS-D"])
    images = need_existing(NAME, folder, IMAGES)
    instances = need_existing(NAME, folder, ["rrsisd/instances.json"])
    skipped: list[str] | None = [] if skip_bad else None
    left_out: Counter[str] = Counter()
    path = folder / "rrsisd/refs(unc).p"
    references = read_references(path, split, "raw", skipped, left_out, encoding=encoding)
    reader = ReferReader(
        NAME,
        split,
        references,
        instances,
        images,
        overlap=overlap,
        skipped=skipped,
        left_out=left_out,
    )
    return reader.source(skip_bad, skipped or ())
