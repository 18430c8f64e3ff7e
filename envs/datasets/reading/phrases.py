"""Sets whose questions are lines `<name> <phrase>` of a text file, with one label image per name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.datasets.reading.images import ImageFile, image_wh, read_mask
from envs.datasets.reading.records import RecordSource, blaming
from envs.masks import encode_rle
from envs.sample import Sample
from prompter.errors import UserError


@dataclass(frozen=True)
class _Line:
    number: int  # from 1
    name: str
    phrase: str


def open_phrases(
    name: str,
    split: str,
    phrases: Path,
    images: Path,
    masks: Path,
    suffix: str,
    is_target: Callable[[NDArray[Any]], NDArray[np.bool_]],
    skip_bad: bool,
) -> RecordSource[_Line]:
    """Open one split.

    Args:
        name, split: of the dataset.
        phrases: the text file.
        images, masks: folders of image and label files; a pair shares its name.
        suffix: ".tif" is added to names that have no suffix; names that have one keep it.
        is_target: the set's rule, label values [height, width] -> mask; the option `mask_values` goes before.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising.

    Raises:
        UserError: naming file and line of the first line without a phrase.
    """
    lines: list[_Line] = []
    skipped: list[str] = []
    with blaming(f"phrases {phrases}"):
        text = phrases.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        stem, _, phrase = line.strip().partition(" ")
        if phrase.strip():
            file_name = stem if Path(stem).suffix else stem + suffix
            lines.append(_Line(number, file_name, phrase.strip()))
            continue
        problem = (
            f"{phrases}, line {number}: it must be a name, a space and a phrase, but is {line.strip()!r}."
        )
        if not skip_bad:
            raise UserError(problem)
        skipped.append(problem)

    def build(line: _Line) -> Sample:
        with blaming(f"{phrases}, line {line.number}"):
            wh = image_wh(images / line.name)
            mask, ignored = read_mask(masks / line.name, wh, is_target)
        return Sample(
            sample_id=f"line-{line.number}",
            dataset=name,
            split=split,
            image_id=Path(line.name).stem,
            image_wh=wh,
            load_image=ImageFile(str(images / line.name)),
            query=line.phrase,
            target=encode_rle(mask),
            ignore=None if ignored is None else encode_rle(ignored),
        )

    return RecordSource(name, split, lines, build, skip_bad=skip_bad, skipped=skipped)
