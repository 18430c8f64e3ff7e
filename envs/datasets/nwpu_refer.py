"""NWPU-Refer: REFER format with one, several or no target per expression.

Several targets of one expression are written as several references with the same image and
sentence; they are joined here. An annotation's segmentation is polygons, a run-length encoding, or
missing; where it is missing, its box is filled, as loaders in circulation do, and a box without
area stands for "no target". Sentences come in English and Chinese. Only the file names and the
forms of the segmentation are verified; the rest of this reading is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.refer import Reference, ReferReader, read_references
from envs.datasets.reading.roots import find_root, need_existing
from envs.masks import Mask

NAME = "nwpu-refer"


def open_nwpu_refer(
    split: str,
    *,
    root: Path | None = None,
    language: Literal["english", "all"] = "english",
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `new_refs(unc).p`, `new_instances.json` and `image/`.
        language: "english" takes sentences of ASCII letters only; "all" takes every sentence.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    names = ["new_refs(unc).p", "refs(unc).p"]
    folder = find_root(NAME, root, names)
    images = need_existing(NAME, folder, ["image/image", "image", "images"])
    instances = need_existing(NAME, folder, ["new_instances.json", "instances.json"])
    skipped: list[str] | None = [] if skip_bad else None
    references = read_references(need_existing(NAME, folder, names), [split], "raw", skipped)
    if language == "english":
        references = [_english(one) for one in references]
        references = [one for one in references if one.sentences]
    reader = ReferReader(
        NAME,
        split,
        join_targets(references),
        instances,
        images,
        missing_segmentation=fill_box,
        skipped=skipped,
    )
    return reader.source(skip_bad, skipped or ())


def join_targets(references: Iterable[Reference]) -> list[Reference]:
    """Give each (image, sentence) one reference that holds the annotations of all that share it."""
    joined: dict[tuple[int, str], Reference] = {}
    for reference in references:
        for number, sentence in enumerate(reference.sentences):
            key = (reference.image_id, sentence)
            if key in joined:
                ids = (*joined[key].annotation_ids, *reference.annotation_ids)
                joined[key] = replace(joined[key], annotation_ids=tuple(dict.fromkeys(ids)))
            else:
                identity = f"{reference.reference_id}.{number}"
                joined[key] = replace(reference, reference_id=identity, sentences=(sentence,))
    return list(joined.values())


def fill_box(annotation: Mapping[str, Any], hw: tuple[int, int]) -> Mask:
    """Fill `bbox` (x, y, width, height), rounded outwards; nothing when it is missing or has no area."""
    mask = np.zeros(hw, dtype=np.bool_)
    box = annotation.get("bbox") or [0, 0, 0, 0]
    x, y, width, height = (float(value) for value in box)
    if width > 0 and height > 0:
        x1, y1 = max(int(np.floor(x)), 0), max(int(np.floor(y)), 0)
        x2, y2 = int(np.ceil(x + width)), int(np.ceil(y + height))
        mask[y1 : max(y2, 0), x1 : max(x2, 0)] = True
    return mask


def _english(reference: Reference) -> Reference:
    return replace(reference, sentences=tuple(text for text in reference.sentences if text.isascii()))
