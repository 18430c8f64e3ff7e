"""The reward: intersection over union of the segmenter's mask and the target."""

from __future__ import annotations

from envs.masks import intersection_and_union
from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.types import ParseFailure, Reading


def score_counts(reading: Reading, has_target: bool, intersection: int, union: int) -> float:
    """Score an answer from pixel counts, in [0, 1]: the rule behind `mask_iou`.

    Evaluation's strict protocol calls this too, so training and evaluation cannot disagree.

    Args:
        reading: what was read in the completion.
        has_target: whether the target mask holds a pixel, ignored ones included.
        intersection, union: pixels of prediction and target that no ignore mask covers.
    """
    if isinstance(reading, ParseFailure):
        return 0.0
    if not has_target:
        return 1.0 if reading.is_empty else 0.0
    return 1.0 if union == 0 else intersection / union


def mask_iou(rollout: Rollout) -> float | None:
    """Score a rollout by the IoU of its union mask with its target, in [0, 1].

    - an answer that did not parse scores 0;
    - a target without a pixel ("no target") scores 1 for the empty answer and 0 for any other,
      even if the segmenter happened to return an empty mask: the policy answered wrongly;
    - otherwise continuous IoU at the image's own resolution; pixels under `ignore` count in
      neither intersection nor union;
    - an executor failure scores None: the rollout is left out of its group.

    Raises:
        UserError: if the rollout's set gives boxes and no masks.
    """
    if rollout.target is None:
        raise UserError(
            f"Sample {rollout.sample_id!r} of {rollout.dataset} has boxes and no mask; "
            f"use the reward box_iou for box-only sets."
        )
    if isinstance(rollout.reading, ParseFailure):
        return 0.0
    if rollout.executor_error is not None:
        return None
    prediction, target = rollout.prediction_mask, rollout.target_mask
    if prediction is None or target is None:
        raise ValueError(f"rollout of {rollout.sample_id!r} has neither a prediction nor an error")
    counts = intersection_and_union(prediction, target, rollout.ignore_mask)
    return score_counts(rollout.reading, rollout.has_target, *counts)
