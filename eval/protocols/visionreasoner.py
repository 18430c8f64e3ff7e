"""`visionreasoner`: the rule of VisionReasoner and Seg-Zero."""

from __future__ import annotations

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, per_query_iou
from eval.query_table import QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """gIoU with a union of 0 scored 0, cIoU summed, at native resolution."""
    areas = table.areas[View.NATIVE_WITH_IGNORED]
    return {
        "gIoU": Ratio.of(per_query_iou(areas, empty_union=0.0), 1.0),
        "cIoU": Ratio.of(areas.intersection, areas.union, undefined=0.0),
    }


PROTOCOL = ScoringProtocol(
    name="visionreasoner",
    title="VisionReasoner, Seg-Zero",
    view=View.NATIVE_WITH_IGNORED,
    metrics=metrics,
    source="VisionReasoner evaluation/evaluation_segmentation.py, calculate_iou_with_bbox.py",
    quirks=(
        "A correct empty answer scores 0.",
        "ReasonSeg's ignore regions count as background, unlike in LISA's numbers on the same set.",
    ),
)
