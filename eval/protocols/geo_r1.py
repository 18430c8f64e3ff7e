"""`geo-r1`: the rule of Geo-R1."""

from __future__ import annotations

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, per_query_iou
from eval.query_table import QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """gIoU with a union of 0 scored 0, cIoU summed, over masks cut to the answer's boxes."""
    areas = table.areas[View.NATIVE_CLIPPED]
    return {
        "gIoU": Ratio.of(per_query_iou(areas, empty_union=0.0), 1.0),
        "cIoU": Ratio.of(areas.intersection, areas.union, undefined=0.0),
    }


PROTOCOL = ScoringProtocol(
    name="geo-r1",
    title="Geo-R1",
    view=View.NATIVE_CLIPPED,
    metrics=metrics,
    source="Geo-R1 run_scripts/test_gres_eval.py",
    quirks=(
        "A correct empty answer scores 0.",
        "Every predicted mask is cut to its own box; spill outside the box is not punished.",
    ),
)
