"""Precision, recall and F1 of choosing objects, averaged over queries as ELISA reports them.

ELISA lets a language model choose among proposed masks and asks: of the chosen ones, how many
belong to the target, and of those that belong, how many were chosen? Per query, then averaged
(its F1 is below the harmonic mean of its precision and recall, as an average of F1s is).

For policies that propose their own objects, "chosen" are the answer's instances, and one belongs
when it can be paired one to one with a target object at an IoU of at least 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from envs.boxes import pairwise_box_iou
from envs.masks import mask_to_box, pairwise_iou
from envs.rollout import Rollout
from prompter.types import ParseFailure


@dataclass(frozen=True, slots=True)
class InstanceScore:
    """Precision, recall and F1 of one query, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def score_from_counts(hits: int, chosen: int, relevant: int) -> InstanceScore:
    """Score from counts. Choosing nothing where nothing is relevant is perfect; else nothing scores 0."""
    if chosen == 0 and relevant == 0:
        return InstanceScore(1.0, 1.0, 1.0)
    precision = hits / chosen if chosen else 0.0
    recall = hits / relevant if relevant else 0.0
    total = chosen + relevant
    return InstanceScore(precision, recall, 2 * hits / total)


def rollout_instance_score(rollout: Rollout, threshold: float = 0.5) -> InstanceScore | None:
    """Score an answer's instances against the target's objects.

    Instance masks are compared where the rollout keeps them, else boxes with the objects' tight
    boxes.

    Returns:
        None where there is nothing to compare: the segmenter failed, the set does not tell
        objects apart (unless there is no target at all), or an instance has neither a kept mask
        nor a box.
    """
    if rollout.executor_error is not None or rollout.target is None:
        return None
    wanted = [mask for mask in rollout.instance_masks if mask.any()]
    if not wanted and rollout.target_mask is not None and rollout.target_mask.any():
        return None
    if isinstance(rollout.reading, ParseFailure):
        return score_from_counts(0, 0, len(wanted)) if wanted else InstanceScore(0.0, 0.0, 0.0)
    chosen = len(rollout.reading)
    if chosen == 0 or not wanted:
        return score_from_counts(0, chosen, len(wanted))
    scores: NDArray[np.float64]
    if len(rollout.predicted_instances) == chosen:
        scores = pairwise_iou(rollout.predicted_instance_masks, wanted, None)
    else:
        boxes = [instance.box for instance in rollout.reading.instances if instance.box is not None]
        if len(boxes) != chosen:
            return None
        tight = [box for box in map(mask_to_box, wanted) if box is not None]
        scores = pairwise_box_iou(boxes, tight)
    rows, columns = linear_sum_assignment(scores >= threshold, maximize=True)
    hits = int((scores[rows, columns] >= threshold).sum())
    return score_from_counts(hits, chosen, len(wanted))
