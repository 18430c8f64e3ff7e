"""`lisa`: the rule of LISA, taken over by LISAt and PixelLM."""

from __future__ import annotations

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, per_query_iou
from eval.query_table import QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """gIoU with 1e-5 added to each union and to the number of sentences; a union of 0 scores 1.

    cIoU is foreground intersection over union, summed, with 1e-10 added to the union.
    """
    areas = table.areas[View.NATIVE]
    return {
        "gIoU": Ratio.of(per_query_iou(areas, empty_union=1.0, smoothing=1e-5), 1.0, smoothing=1e-5),
        "cIoU": Ratio.of(areas.intersection, areas.union, smoothing=1e-10),
    }


PROTOCOL = ScoringProtocol(
    name="lisa",
    title="LISA, LISAt, PixelLM",
    view=View.NATIVE,
    metrics=metrics,
    source="LISA train_ds.py `validate`, utils/utils.py",
    quirks=(
        "Any empty mask on an empty target scores 1, so a completion that does not parse does too.",
        "Pixels of value 255 count nowhere.",
    ),
)
