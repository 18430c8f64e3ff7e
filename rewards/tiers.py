"""Rewards in steps of IoU, as two published recipes have them. Opt-in.

A step tells apart good and better coarsely: answers within one step earn alike, so that a group whose
answers all fall into one step teaches nothing. Both are divided by their largest value, to lie in [0, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.rollout import Rollout
from rewards.instances import matched_instances, needs_instances
from rewards.mask import mask_iou

SAM_R1 = ((0.5, 2.0), (0.7, 3.0), (0.8, 4.0))
"""SAM-R1 (arXiv:2505.22596): points above each IoU, of at most 4; 0 up to the first."""

STAR = ((0.3, 1.0), (0.5, 2.0), (0.7, 3.0), (0.8, 4.0), (0.9, 5.0))
"""StAR (arXiv:2603.14382, `verl/workers/sam_worker.py` of its code): of at most 5."""


def in_tiers(ious: ArrayLike, tiers: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """What IoUs earn, of the shape of `ious`, float64 in [0, 1].

    Args:
        ious: each in [0, 1].
        tiers: (IoU, points) in rising order of both; an IoU earns the points of the last it is above.
    """
    above = np.array([iou for iou, _ in tiers])
    points = np.array([0.0, *(point for _, point in tiers)]) / tiers[-1][1]
    return points[np.searchsorted(above, np.asarray(ious, dtype=np.float64), side="left")]


def tiered_mask_iou(rollout: Rollout) -> float | None:
    """`rewards.mask.mask_iou` in the steps of SAM-R1: above 0.5, 0.7 and 0.8 it earns 0.5, 0.75 and 1.

    None and the rules for parse failures and "no target" are those of `mask_iou`.
    """
    iou = mask_iou(rollout)
    return None if iou is None else float(in_tiers(iou, SAM_R1))


@needs_instances
def tiered_instance_iou(rollout: Rollout) -> float | None:
    """Objects matched one to one by what they earn, in the steps of StAR: above 0.3, 0.5, 0.7, 0.8, 0.9.

    The sum over pairs is divided by the larger number of objects, as in StAR and in `instance_mask_iou`,
    whose rules hold for all else. Sets that do not tell objects apart earn the same steps of `mask_iou`.
    StAR adds rewards of boxes, points, count and format, which are left out here.
    """
    return matched_instances(rollout, lambda ious: in_tiers(ious, STAR))
