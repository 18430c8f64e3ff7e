"""RefSegRS: 4,420 expressions on 512 x 512 images; label images are TIFFs of several channels."""

from __future__ import annotations

from pathlib import Path

from envs.datasets.reading.phrases import open_phrases
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root, need_existing
from prompter.errors import UserError

NAME = "refsegrs"
THRESHOLDS = (0, 50, 255)


def open_refsegrs(
    split: str,
    *,
    root: Path | None = None,
    threshold: int = 0,
    skip_bad: bool = False,
) -> RecordSource:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `images/`, `masks/` and `output_phrase_*.txt`.
        threshold: which label values (the largest of the channels) are target. Three rules are in
            use: 0 (above 0), 50 (above 50) and 255 (exactly 255). They differ on grey edges only.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, a line is bad, or the threshold is another.
    """
    if threshold not in THRESHOLDS:
        raise UserError(
            f"option 'threshold' of dataset {NAME!r} must be one of {THRESHOLDS}, but is {threshold}."
        )
    names = [f"output_phrase_{split}.txt", f"phrase_txts/output_phrase_{split}.txt"]
    folder = find_root(NAME, root, names, nested=["RefSegRS", "rs_ref_seg/RefSegRS"])
    return open_phrases(
        NAME,
        split,
        need_existing(NAME, folder, names),
        need_existing(NAME, folder, ["images"]),
        need_existing(NAME, folder, ["masks"]),
        ".tif",
        (lambda label: label == 255) if threshold == 255 else lambda label: label > threshold,
        skip_bad,
    )
