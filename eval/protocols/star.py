"""`star`: the rule of StAR (ReasonSeg-R, ReasonSeg-X)."""

from __future__ import annotations

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, per_query_iou
from eval.query_table import QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """gIoU with a union of 0 scored 1, cIoU summed, at native resolution."""
    areas = table.areas[View.NATIVE_WITH_IGNORED]
    return {
        "gIoU": Ratio.of(per_query_iou(areas, empty_union=1.0), 1.0),
        "cIoU": Ratio.of(areas.intersection, areas.union),
    }


PROTOCOL = ScoringProtocol(
    name="star",
    title="StAR",
    view=View.NATIVE_WITH_IGNORED,
    metrics=metrics,
    source="ysj9909/StAR evaluation_scripts/calculate_iou.py, evaluation_star.py at 3ba7b9a",
    quirks=("An answer that does not parse scores 1 on an empty target: both masks are empty.",),
)
