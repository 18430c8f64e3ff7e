"""Box reward, for sets that have boxes and no masks (VRSBench, DIOR-RSVG). Opt-in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.boxes import pairwise_box_iou
from envs.masks import mask_to_box
from envs.rollout import Rollout
from prompter.types import Box, ParseFailure
from rewards.matching import matched_mean


def target_boxes(rollout: Rollout) -> list[Box]:
    """Boxes of the targets, XYXY half-open pixels: the set's own, else the tight boxes of its masks."""
    if rollout.boxes:
        return list(rollout.boxes)
    masks = rollout.instance_masks or (() if rollout.target_mask is None else (rollout.target_mask,))
    boxes = map(mask_to_box, masks)
    return [box for box in boxes if box is not None]


def answered_boxes(rollout: Rollout) -> list[Box]:
    """Boxes of an answer that parsed, XYXY half-open pixels, one per instance that has one."""
    if isinstance(rollout.reading, ParseFailure):
        return []
    return [instance.box for instance in rollout.reading.instances if instance.box is not None]


def box_iou(rollout: Rollout) -> float:
    """Mean IoU of the answer's boxes with the target boxes under the best one-to-one matching.

    Boxes left over on either side count 0. No target and an empty answer score 1; an answer that
    did not parse scores 0. The segmenter is not consulted, so this is never None.
    """
    if isinstance(rollout.reading, ParseFailure):
        return 0.0
    wanted = target_boxes(rollout)
    if not wanted:
        return 1.0 if rollout.reading.is_empty else 0.0
    scores: NDArray[np.float64] = pairwise_box_iou(answered_boxes(rollout), wanted)
    # An instance without a box is an answer too: it is left over and counts 0.
    return matched_mean(scores, len(rollout.reading), len(wanted))
