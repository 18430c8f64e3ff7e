"""`vrsbench`: the rule of VRSBench's referring task (and of GeoChat's models, which share its IoU)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from eval.bootstrap import Ratio
from eval.box_cases import BoxCase, BoxVerdict, centre_in
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, box_figures
from eval.query_table import QueryTable
from prompter.types import Box

NAME = "vrsbench"
UNITS = 100
"""Both boxes are whole hundredths of the image's sides."""


def judge(case: BoxCase) -> BoxVerdict:
    """Take the answer's first box, in whole hundredths, and count its last row and column in."""
    if not case.boxes or case.target is None:
        return BoxVerdict(0.0, False, bool(case.boxes))
    box = case.boxes[0]
    iou = inclusive_iou(hundredths(box, case.image_wh), hundredths(case.target, case.image_wh))
    return BoxVerdict(iou, centre_in(box, case.target), True)


def hundredths(box: Box, image_wh: tuple[int, int]) -> NDArray[np.int64]:
    """A box in pixels as whole hundredths of the image's sides, XYXY, int64 [4]."""
    sides = (*image_wh, *image_wh)
    units = [math.floor(UNITS * value / side + 0.5) for value, side in zip(box, sides, strict=True)]
    return np.array(units, dtype=np.int64)


def inclusive_iou(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """IoU of two boxes, int64 [4], whose second corner belongs to them: each side is one unit longer."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]) + 1
    both = int(np.prod(np.maximum(sides, 0)))
    areas = [int(np.prod(box[2:] - box[:2] + 1)) for box in (first, second)]
    return both / (sum(areas) - both)


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Mean IoU and box-acc@0.5 and @0.7 over queries with one object."""
    verdicts, single = table.verdicts[NAME], table.objects == 1
    return box_figures(verdicts.ious, single, (0.5, 0.7))


PROTOCOL = ScoringProtocol(
    name=NAME,
    title="VRSBench, referring",
    view=View.NATIVE,
    metrics=metrics,
    source="lx709/VRSBench eval_fianl/eval_utils.py, compute_metrics.ipynb at d38cee1",
    quirks=(
        "Boxes are whole hundredths of the image and one unit is added to every side, "
        "so small boxes overlap more than they do.",
        "Of several boxes the first one counts.",
        "Their models answer in hundredths as text; here the box that was read is brought to them.",
        "Its cumIoU, which leaves out what cannot be read, is not computed.",
    ),
    judge=judge,
    needs_masks=False,
)
