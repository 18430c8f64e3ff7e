"""`rmsin`: the rule of RMSIN, LAVT and FIANet."""

from __future__ import annotations

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, per_query_iou, precision
from eval.query_table import QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """gIoU ("mIoU") with a union of 0 scored 0; cIoU ("oIoU") summed; P@t is IoU >= t."""
    areas = table.areas[View.SQUARE_480]
    ious = per_query_iou(areas, empty_union=0.0)
    return {
        "gIoU": Ratio.of(ious, 1.0),
        "cIoU": Ratio.of(areas.intersection, areas.union),
        **precision(ious, (0.5, 0.6, 0.7, 0.8, 0.9)),
    }


PROTOCOL = ScoringProtocol(
    name="rmsin",
    title="RMSIN, LAVT, FIANet",
    view=View.SQUARE_480,
    metrics=metrics,
    source="RMSIN test.py `evaluate`",
    quirks=(
        "Prediction and target are both squashed to 480 x 480.",
        "A correct empty answer scores 0.",
    ),
)
