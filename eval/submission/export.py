"""Rollouts -> files of predictions that other programs read, and `prompter score` reads back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from envs.masks import decode_rle, polygons_to_mask
from envs.polygons import mask_to_polygons
from envs.rollout import Rollout
from eval.submission.forms import INDEX, file_stem
from eval.submission.records import prediction_records, rollout_prediction
from prompter.errors import UserError
from prompter.runs.files import atomic_folder, atomic_write
from prompter.runs.jsonl import to_line

FORMS = ("rle", "polygons", "png")


@dataclass
class Exported:
    """What was written: samples, masks, and how many pixels of the masks polygons could not say."""

    samples: int = 0
    masks: int = 0
    pixels_lost: int = 0


def export(rollouts: Iterable[Rollout], form: Literal["rle", "polygons", "png"], out: Path) -> Exported:
    """Write the predictions of rollouts.

    `rle` and `polygons` write one JSON array in the manner of COCO's results, or JSON Lines where `out` ends
    in `.jsonl`. `png` writes a folder of masks (0 and 255) with an index that holds what a PNG cannot:
    answers that could not be read, prompts and scores.

    Args:
        rollouts: of one evaluation, one per sample.
        form: of the masks.
        out: a new file, or a new folder for `png`.

    Raises:
        UserError: if `out` exists already, or two rollouts have one sample.
    """
    if out.exists():
        raise UserError(f"{out} exists already; name a new file or folder with --out.")
    done = Exported()
    if form == "png":
        with atomic_folder(out) as folder, atomic_write(folder / INDEX) as index:
            for record in _records(rollouts, form, done, folder):
                index.write(to_line(record))
        return done
    lines = out.suffix.lower() == ".jsonl"
    with atomic_write(out) as handle:
        for number, record in enumerate(_records(rollouts, form, done, None)):
            handle.write("" if lines else "[\n" if number == 0 else ",\n")
            handle.write(to_line(record) if lines else to_line(record).rstrip("\n"))
        handle.write("" if lines else "\n]\n")
    return done


def _records(
    rollouts: Iterable[Rollout], form: str, done: Exported, folder: Path | None
) -> Iterator[Mapping[str, Any]]:
    seen: set[str] = set()
    for rollout in rollouts:
        if rollout.sample_id in seen:
            raise UserError(
                f"The rollouts hold sample {rollout.sample_id!r} twice; export those of an evaluation."
            )
        seen.add(rollout.sample_id)
        done.samples += 1
        records = prediction_records(rollout_prediction(rollout))
        for number, record in enumerate(records, start=1):
            segmentation = record.pop("segmentation", None)
            if segmentation is not None:
                done.masks += bool(segmentation)
                stem = file_stem(rollout.sample_id) + (f"_{number}" if len(records) > 1 else "")
                record["segmentation"] = (
                    segmentation
                    if form == "rle" or (form == "polygons" and not segmentation)
                    else _drawn(segmentation, rollout.mask_hw, done, folder, stem)
                )
            yield {
                "sample_id": rollout.sample_id,
                "image_id": rollout.image_id,
                "category_id": 1,  # COCO's tools want one
                **record,
            }


def _drawn(rle: Any, hw: tuple[int, int], done: Exported, folder: Path | None, stem: str) -> Any:
    """A mask as the name of its PNG, which is written, or, without a folder, as polygons."""
    mask = decode_rle(rle, hw) if rle else np.zeros(hw, np.bool_)
    if folder is not None:
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{stem}.png")
        return f"{stem}.png"
    polygons = mask_to_polygons(mask)
    done.pixels_lost += int((polygons_to_mask(polygons, hw) != mask).sum())
    return polygons


def write_questions(samples: Iterable[Any], out: Path) -> int:
    """Write a benchmark's questions as JSON Lines, for a program that is to answer them; return their number.

    Keys: `sample_id`, `image_id`, `image_wh` ([width, height] in pixels), `query`. Targets are not in it.
    """
    count = 0
    with atomic_write(out) as handle:
        for sample in samples:
            record = {name: getattr(sample, name) for name in ("sample_id", "image_id", "image_wh", "query")}
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count
