"""What a training run answered best, as a set to imitate: mask IoU alone says which answers these are.

    prompter cold-start recipes/configs/cold-start-answers.yaml --options.runs '[runs/adapt-area]'

A run of GRPO keeps every answer that it drew, with its mask. For each question that it asked, this set has
the best of those that it gave about the image, to this question or to another one: a box around the wrong
house is right for the question that means that house (arXiv:1707.01495). The sample's target is the mask that
the segmenter made of that answer, never the set's own. Questions without a good enough answer are left out.

A policy that starts where the run began, and imitates these answers several times over, is best-of-n
distillation (`recipes.training.imitation`) whose n is all that was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from envs.datasets import may_open, open_dataset
from envs.datasets.reading.records import RecordSource
from envs.masks import RLE, Mask, decode_rle, encode_rle, iou, union
from envs.rollout import Rollout
from envs.rollouts import image_key
from envs.sample import Sample
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.types import PromptSet
from rewards.replay import read_rollouts

NAME = "answers"


@dataclass(frozen=True)
class _Best:
    """The best answer to a question: its place in the set, its IoU, and a mask for each thing it prompts."""

    index: int
    iou: float
    instances: tuple[RLE, ...]


def open_answers(
    split: str, *, runs: Sequence[Path], floor: float = 0.5, lend: bool = True, trust: bool = False
) -> RecordSource[_Best]:
    """Open the best answers of training runs.

    Args:
        split: any name.
        runs: folders of `prompter train`, of runs that asked the same questions.
        floor: least mask IoU of an answer with its question's target, pixels to ignore left out; where there
            is nothing to find, that of an empty answer is 1.
        lend: whether answers to other questions about the same image count.
        trust: import the runs' dataset if it is code.

    Raises:
        UserError: if a folder is no training run, their datasets differ or cannot be opened, or no answer is
            good enough.
    """
    config = _dataset(runs)
    if not may_open(config["name"], trust):
        raise UserError(
            f"the dataset of {runs[0]} is code, {config['name']!r}: give trust: true if you know it."
        )
    source = open_dataset(config["name"], config["split"], **(config.get("options") or {}))
    lent_to = image_key if lend else _sample_id
    given: dict[str, dict[str, Rollout]] = {}
    asked: set[str] = set()
    for path in [path for run in runs for _, path in RunFolder(run).step_rollouts()]:
        for rollout in read_rollouts(path):
            asked.add(rollout.sample_id)
            if rollout.prediction is not None:
                given.setdefault(lent_to(rollout), {})[rollout.completion] = rollout
    best = []
    for index, sample in enumerate(source):
        if sample.sample_id not in asked or sample.target is None:
            continue
        found = _best(sample, index, list(given.get(lent_to(sample), {}).values()))
        if found is not None and found.iou >= floor:
            best.append(found)
    if not best:
        raise UserError(
            f"no answer in {', '.join(map(str, runs))} has a mask IoU of {floor} with its question's target."
        )

    def build(record: _Best) -> Sample:
        sample = source[record.index]
        return replace(
            sample,
            dataset=NAME,
            split=split,
            target=encode_rle(union(map(decode_rle, record.instances), sample.mask_hw)),
            instances=record.instances,
            ignore=None,
            boxes=(),
            tags={**sample.tags, "answer-iou": f"{record.iou:.2f}"},
        )

    return RecordSource(NAME, split, best, build)


def _sample_id(one: Sample | Rollout) -> str:
    return one.sample_id


def _dataset(runs: Sequence[Path]) -> Mapping[str, Any]:
    """Name, split and options of the set that all of these runs trained on."""
    if not runs:
        raise UserError("runs: name at least one folder of `prompter train`.")
    found: list[Mapping[str, Any]] = []
    for run in runs:
        folder = RunFolder(run)
        config = folder.read_config().get("dataset") or {}
        if "name" not in config or not folder.step_rollouts():
            raise UserError(f"{run} keeps no rollouts of training, from which answers could be taken.")
        found.append({key: config.get(key) for key in ("name", "split", "options")})
        if found[-1] != found[0]:
            raise UserError(
                f"{runs[0]} and {run} were trained on different questions: see `dataset` in their configs."
            )
    return found[0]


def _best(sample: Sample, index: int, known: list[Rollout]) -> _Best | None:
    target = sample.target_mask()
    ignore = None if sample.ignore is None else decode_rle(sample.ignore, sample.mask_hw)
    worths = [iou(rollout.prediction_mask, target, ignore) for rollout in known]
    if not worths:
        return None
    place = max(range(len(worths)), key=worths.__getitem__)
    return _Best(index, worths[place], tuple(map(encode_rle, parts_of(known[place]))))


def parts_of(rollout: Rollout) -> list[Mask]:
    """What each prompt of an answer found, bool [height, width] each, without what is empty or said twice.

    Of the union that a rollout keeps, a box's part is what lies in it, and a point's the connected component
    under it: the specks that segmenters leave beside an object would else be objects of their own.
    """
    mask = rollout.prediction_mask
    assert mask is not None and isinstance(rollout.reading, PromptSet)
    if rollout.predicted_instances:
        return [one for one in rollout.predicted_instance_masks if one.any()]
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    parts: list[Mask] = []
    for prompt in rollout.reading.instances:
        within = np.zeros_like(mask)
        if prompt.box is not None:
            x1, y1, x2, y2 = (max(0, value) for value in prompt.box)
            within[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)] = True
        else:
            x, y = prompt.positive_points[0]
            within = labels == labels[min(int(y), mask.shape[0] - 1), min(int(x), mask.shape[1] - 1)]
        part = mask & within
        if part.any() and not any(np.array_equal(part, one) for one in parts):
            parts.append(part)
    return parts if parts or not mask.any() else [mask]
