"""`visionreasoner-nonobj`: VisionReasoner's later rule, for sets with empty targets."""

from __future__ import annotations

import numpy as np

from eval.bootstrap import Ratio
from eval.box_cases import NOTHING, BoxCase, BoxVerdict, best_of, centre_in, enclosing
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, box_accuracy, per_query_iou
from eval.query_table import QueryTable

NAME = "visionreasoner-nonobj"


def judge(case: BoxCase) -> BoxVerdict:
    """Take the one box of the answer, or the box round all of them, that fits best.

    Without a target, an answer without a box is right: it scores 1.
    """
    boxes = list(case.boxes or ())
    if case.target is None:
        return BoxVerdict(float(not boxes), False, bool(boxes))
    box, iou = best_of([*boxes, enclosing(boxes) or NOTHING], case.target)
    return BoxVerdict(iou, centre_in(box, case.target), bool(boxes))


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """gIoU with a union of 0 scored 0, but 1 where there is neither a target nor a box; cIoU summed.

    N-acc is the share of empty targets answered without a box (0 where there is no empty target);
    box-acc@0.5 asks for an IoU above 0.5 and looks at all queries.
    """
    areas, verdicts = table.areas[View.NATIVE_WITH_IGNORED], table.verdicts[NAME]
    empty = areas.target == 0
    right = empty & ~verdicts.read
    everyone = np.ones(len(table), dtype=np.bool_)
    return {
        "gIoU": Ratio.of(np.where(right, 1.0, per_query_iou(areas, empty_union=0.0)), 1.0),
        "cIoU": Ratio.of(areas.intersection, areas.union, undefined=0.0),
        "N-acc": Ratio.of(right, empty, undefined=0.0),
        **box_accuracy(verdicts.ious, everyone, (0.5,), strictly=True),
    }


PROTOCOL = ScoringProtocol(
    name=NAME,
    title="VisionReasoner with empty targets (gRefCOCO)",
    view=View.NATIVE_WITH_IGNORED,
    metrics=metrics,
    source="JIA-Lab-research/VisionReasoner evaluation/calculate_iou_with_bbox_nonobj.py, "
    "evaluation_segmentation.py, vision_reasoner/models/visurf_model.py at c013132",
    quirks=(
        'An answer that does not parse has no box and so counts as a right "no target" on an empty one.',
        "Any one of the answer's boxes may hit the target's box, or the box round all of them.",
    ),
    judge=judge,
)
