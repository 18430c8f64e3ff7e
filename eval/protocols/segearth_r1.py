"""`segearth-r1`: the rule of SegEarth-R1."""

from __future__ import annotations

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, per_query_iou, precision
from eval.query_table import QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """gIoU with 1e-5 added to each union, a union of 0 scores 1; cIoU summed; P@t is IoU > t."""
    areas = table.areas[View.PADDED_1024]
    ious = per_query_iou(areas, empty_union=1.0, smoothing=1e-5)
    return {
        "gIoU": Ratio.of(ious, 1.0),
        "cIoU": Ratio.of(areas.intersection, areas.union, smoothing=1e-10),
        **precision(ious, (0.5, 0.6, 0.7, 0.8, 0.9), strictly=True),
    }


PROTOCOL = ScoringProtocol(
    name="segearth-r1",
    title="SegEarth-R1",
    view=View.PADDED_1024,
    metrics=metrics,
    source="SegEarth-R1 segearth_r1/eval_and_test/eval.py, eval_dataset/RS_val_dataset.py",
    quirks=(
        "Masks are compared at 1024 pixels on the long side, never at native resolution.",
        "Any empty mask on an empty target scores 1, so a completion that does not parse does too.",
        "Of an image's questions only the first is asked (dataset option `question=first`).",
        "The reference code feeds the ground-truth answer text to its model; that part is not reproduced.",
    ),
)
