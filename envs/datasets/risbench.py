"""RISBench: 52,472 expressions on 512 x 512 images.

Lines of the val file name images called `train_*.png`: the file says the split, not the name. The
test file has one line more than the 16,158 published.
"""

from __future__ import annotations

from pathlib import Path

from envs.datasets.reading.phrases import open_phrases
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root, need_existing

NAME = "risbench"


def open_risbench(split: str, *, root: Path | None = None, skip_bad: bool = False) -> RecordSource:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `img_rgb/`, `mask/` (also seen: `images/`, `masks/`) and
            `output_phrase_*.txt`. Label images have one or three channels; non-zero is target.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a line is bad.
    """
    names = [f"output_phrase_{split}.txt"]
    folder = find_root(NAME, root, names, nested=["RISBench", "RISBench_dataset"])
    return open_phrases(
        NAME,
        split,
        folder / names[0],
        need_existing(NAME, folder, ["img_rgb", "images"]),
        need_existing(NAME, folder, ["mask", "masks"]),
        ".png",
        lambda label: label > 0,
        skip_bad,
    )
