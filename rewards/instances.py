"""Instance-aware mask reward: every object must be found once. Opt-in.

The union mask cannot tell two objects from one: a single prompt that covers both scores as well
as one prompt each. This alternative matches predicted and target objects one to one (Hungarian
algorithm on mask IoU, as panoptic and instance segmentation metrics do) and divides by the larger
number of the two, so that missed, merged, doubled and invented objects all cost.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask, pairwise_iou
from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.types import ParseFailure
from rewards.mask import mask_iou
from rewards.matching import matched_mean

Worth = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""What IoUs earn: float64 of any shape in [0, 1] -> the same shape, in [0, 1]."""


def needs_instances(reward: Callable[[Rollout], float | None]) -> Callable[[Rollout], float | None]:
    """Mark a reward that reads `Rollout.predicted_instances`, so that rollouts are made with them.

    To be written as `@needs_instances` above the reward. They cost an RLE for each instance.
    """
    reward.needs_instances = True  # type: ignore[attr-defined]
    return reward


@needs_instances
def instance_mask_iou(rollout: Rollout) -> float | None:
    """Mean mask IoU under the best one-to-one matching of predicted and target objects, in [0, 1].

    Parse failures, no-target queries and executor failures score as in `mask_iou`. Sets that do
    not tell objects apart fall back to `mask_iou`. Pixels under `ignore` count nowhere.

    Raises:
        UserError: if the set has boxes and no masks, or the rollout was made without one mask per
            instance.
    """
    return matched_instances(rollout, lambda ious: ious)


@needs_instances
def disjoint_mask_iou(rollout: Rollout) -> float | None:
    """Mask IoU in which a pixel counts against the answer each further time that an instance covers it.

    Intersection over (union + pixels covered again): `mask_iou` where no two instances overlap, less where
    an object is said twice. It asks for no objects told apart in the set, which `instance_mask_iou` does.
    Rules for failures, "no target" and `ignore` are those of `mask_iou`.

    Raises:
        UserError: as `instance_mask_iou`.
    """
    iou, target = mask_iou(rollout), rollout.target_mask
    if not iou or target is None or isinstance(rollout.reading, ParseFailure) or rollout.reading.is_empty:
        return iou
    counted = np.ones_like(target) if rollout.ignore_mask is None else ~rollout.ignore_mask
    covered = np.zeros(target.shape, dtype=np.int64)
    for mask in _found(rollout):
        covered += mask & counted
    again = int(np.maximum(covered - 1, 0).sum())
    union = int(np.count_nonzero((target & counted) | (covered > 0)))
    return iou if union == 0 else iou * union / (union + again)


def _found(rollout: Rollout) -> tuple[Mask, ...]:
    """The mask of each instance of an answer that was read."""
    assert not isinstance(rollout.reading, ParseFailure)
    if len(rollout.predicted_instances) != len(rollout.reading):
        raise UserError(
            f"The rollout of sample {rollout.sample_id!r} keeps {len(rollout.predicted_instances)} instance "
            f"masks for {len(rollout.reading)} instances; make rollouts with keep_instances=True."
        )
    return rollout.predicted_instance_masks


def matched_instances(rollout: Rollout, worth: Worth) -> float | None:
    """The rule behind `instance_mask_iou`, with what an IoU earns; see there.

    Args:
        rollout: made with one mask per instance.
        worth: maps IoUs [objects found, objects wanted]; the matching maximises the sum of the result.
    """
    wanted = [mask for mask in rollout.instance_masks if mask.any()]
    failed = isinstance(rollout.reading, ParseFailure) or rollout.executor_error is not None
    if failed or rollout.target is None or not wanted:
        iou = mask_iou(rollout)
        return None if iou is None else float(worth(np.array(iou)))
    found = _found(rollout)
    return matched_mean(worth(pairwise_iou(found, wanted, rollout.ignore_mask)), len(found), len(wanted))
