"""NWPU-Refer: REFER format with one, several or no target per expression.

Several targets of one expression are written as several references with the same image and
sentence; they are joined here. An annotation's segmentation is polygons, a run-length encoding, or
missing; where it is missing, its box is filled, as loaders in circulation do, and a box without
area stands for "no target". Sentences come in English and Chinese. No record of the set was seen:
file names, the forms of the segmentation and what is skipped are those of three loaders of others;
how the set writes "no target" is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from envs.datasets.reading.language import is_english
from envs.datasets.reading.layouts.refer import Reference, ReferReader, read_references
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root, need_existing
from envs.masks import Mask

NAME = "nwpu-refer"
NOT_ENGLISH = "sentences that are not English (the option language=all takes them)"


def open_nwpu_refer(
    split: str,
    *,
    root: Path | None = None,
    language: Literal["english", "all"] = "english",
    targets: Literal["joined", "single"] = "joined",
    unknown: Literal["leave_out", "refuse"] = "leave_out",
    encoding: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `new_refs(unc).p`, `new_instances.json` and `image/`.
        language: "english" takes sentences whose letters are all Latin (`is_english`); "all" takes every
            sentence. What is not taken is counted in `.left_out`.
        targets: "joined" gives an expression all the targets that references with the same image and
            sentence name; "single" makes each reference a sample of its own, as one loader does.
        unknown: annotations that the instances do not hold are left out of their references and counted,
            as the loaders in circulation do, or they are errors.
        encoding: of the text, where it is not UTF-8.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    names = ["new_refs(unc).p", "refs(unc).p"]
    folder = find_root(NAME, root, names, nested=["NWPU-Refer"])
    images = need_existing(NAME, folder, ["image/image", "image", "images"])
    instances = need_existing(NAME, folder, ["new_instances.json", "instances.json"])
    skipped: list[str] | None = [] if skip_bad else None
    left_out: Counter[str] = Counter()
    path = need_existing(NAME, folder, names)
    references = read_references(path, split, "raw", skipped, left_out, empty="leave_out", encoding=encoding)
    if language == "english":
        references = only_english(references, left_out)
    reader = ReferReader(
        NAME,
        split,
        join_targets(references) if targets == "joined" else references,
        instances,
        images,
        missing_segmentation=fill_box,
        leave_out_unknown=unknown == "leave_out",
        skipped=skipped,
        left_out=left_out,
    )
    return reader.source(skip_bad, skipped or ())


def only_english(references: Iterable[Reference], left_out: Counter[str]) -> list[Reference]:
    """Keep the English sentences, and the references that have one; count the other sentences."""
    kept = []
    for reference in references:
        sentences = tuple(text for text in reference.sentences if is_english(text))
        if len(sentences) < len(reference.sentences):
            left_out[NOT_ENGLISH] += len(reference.sentences) - len(sentences)
        if sentences:
            kept.append(replace(reference, sentences=sentences))
    return kept


def join_targets(references: Iterable[Reference]) -> list[Reference]:
    """Give each (image, sentence) one reference that holds the annotations of all that share it."""
    joined: dict[tuple[int, str], Reference] = {}
    for reference in references:
        for number, sentence in enumerate(reference.sentences):
            key = (reference.image_id, sentence)
            if key in joined:
                joined[key] = _with_targets(joined[key], reference)
            else:
                identity = f"{reference.reference_id}.{number}"
                joined[key] = replace(reference, reference_id=identity, sentences=(sentence,))
    return list(joined.values())


def _with_targets(first: Reference, other: Reference) -> Reference:
    """The first reference with the annotations of the other one, each once, and their categories."""
    named = dict(zip(first.annotation_ids, first.own_categories(), strict=True))
    for annotation, category in zip(other.annotation_ids, other.own_categories(), strict=True):
        named.setdefault(annotation, category)
    return replace(first, annotation_ids=tuple(named), category_ids=tuple(named.values()))


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
