"""Baselines that need no language model: a floor, a ceiling, and something to debug with.

Trivial ones look at the image at most; oracles look at the target (`envs.oracle`), so they say
what the segmenter could reach if the policy were perfect. All answer in the image frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from envs.masks import mask_to_box
from envs.oracle import interior_points, oracle_prompts, target_masks
from envs.sample import Sample
from prompter.errors import UserError
from prompter.registry import Entry, Registry
from prompter.runs.jsonl import to_line
from prompter.types import Answer, Instance, PromptSet

Baseline = Callable[[Sample], PromptSet]


def centre_point(sample: Sample) -> PromptSet:
    """One positive point at the centre of the image."""
    width, height = sample.image_wh
    return PromptSet((Instance(positive_points=((width / 2, height / 2),)),))


def whole_image(sample: Sample) -> PromptSet:
    """One box around the whole image."""
    width, height = sample.image_wh
    return PromptSet((Instance(box=(0.0, 0.0, float(width), float(height))),))


def largest_blob(sample: Sample) -> PromptSet:
    """Box and interior point of the largest connected region of the rarer class after Otsu's threshold.

    Empty if the image has one grey level.
    """
    grey = cv2.cvtColor(sample.image_array(), cv2.COLOR_RGB2GRAY)
    _, binary = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    foreground = binary != 0
    if foreground.mean() > 0.5:
        foreground = ~foreground
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(
        foreground.astype(np.uint8), connectivity=8
    )
    if count < 2:
        return PromptSet()
    blob = labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    return PromptSet((Instance(box=mask_to_box(blob), positive_points=interior_points(blob, 1)),))


def no_target(sample: Sample) -> PromptSet:
    """Always "there is no such thing here"."""
    return PromptSet()


def oracle_box(sample: Sample) -> PromptSet:
    """The tight box of each target object."""
    return _oracle(sample, box=True, points=0)


def oracle_point(sample: Sample) -> PromptSet:
    """One point well inside each target object."""
    return _oracle(sample, box=False, points=1)


def oracle_box_point(sample: Sample) -> PromptSet:
    """The tight box of each target object and one point well inside it."""
    return _oracle(sample, box=True, points=1)


def _oracle(sample: Sample, *, box: bool, points: int) -> PromptSet:
    if sample.target is not None:
        return oracle_prompts(target_masks(sample), box=box, points=points)
    instances = []
    for x1, y1, x2, y2 in sample.boxes:  # a box-only set: the centre of the box is the best guess
        centres = (((x1 + x2) / 2, (y1 + y2) / 2),) * min(points, 1)
        has_area = x2 > x1 and y2 > y1  # VRSBench holds boxes without
        if centres or (box and has_area):
            instances.append(Instance((x1, y1, x2, y2) if box and has_area else None, centres))
    return PromptSet(tuple(instances))


_HERE = "eval.answerers.baselines"

BASELINES: Registry[Baseline] = Registry(
    "baseline",
    {
        "centre-point": Entry(f"{_HERE}:centre_point", "a point at the centre of the image"),
        "whole-image": Entry(f"{_HERE}:whole_image", "a box around the image"),
        "largest-blob": Entry(f"{_HERE}:largest_blob", "the largest region after Otsu's threshold"),
        "no-target": Entry(f"{_HERE}:no_target", "always says that there is nothing"),
        "oracle-box": Entry(f"{_HERE}:oracle_box", "the true boxes"),
        "oracle-point": Entry(f"{_HERE}:oracle_point", "a point inside each true object"),
        "oracle-box-point": Entry(f"{_HERE}:oracle_box_point", "the true boxes, and a point inside each"),
    },
)
"""Every baseline by the name that follows `baseline:`; a rule of your own is `baseline:MODULE:FUNCTION`."""


class BaselineAnswerer:
    """Answers by a rule that needs no model. The completion is the prompts as JSON, image frame."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        answers = []
        for sample in samples:
            prompts = self._baseline(sample)
            answers.append(Answer(to_line({"prompts": prompts.to_json()}).rstrip(), prompts, 0))
        return answers

    def close(self) -> None:
        """Nothing to release."""


def build_baseline(name: str, options: Mapping[str, Any]) -> BaselineAnswerer:
    """Make the answerer of a baseline, by its name or "module:function".

    Raises:
        UserError: if there is none of that name, or options are given.
    """
    rule = BASELINES.resolve(name)
    if options:
        raise UserError(f"A baseline takes no options, but got {', '.join(options)}.")
    return BaselineAnswerer(rule)
