"""`think2seg`: the rule of Think2Seg-RS."""

from __future__ import annotations

import numpy as np

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, parsed, said_none
from eval.query_table import Outcome, QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Compute gIoU, cIoU and P@0.5 as the released evaluation does.

    Empty targets score 1 for `[]` and 0 otherwise, and enter no union, whatever was predicted. A
    targeted query without a mask (failed parse, or `[]`) scores 0 and adds its target's area to
    the union. P@0.5 divides by the queries that have a mask; any parsed answer to an empty target
    has one (all zeros).
    """
    areas = table.areas[View.SQUARE_840]
    targeted = areas.target > 0
    segmented = targeted & (table.outcomes == Outcome.TARGETS)
    ious = np.zeros(len(table))
    np.divide(areas.intersection, areas.union, out=ious, where=segmented)
    ious[~targeted & said_none(table)] = 1.0
    union = np.where(segmented, areas.union, np.where(targeted, areas.target, 0))
    has_mask = segmented | (~targeted & parsed(table))
    return {
        "gIoU": Ratio.of(ious, 1.0),
        "cIoU": Ratio.of(np.where(segmented, areas.intersection, 0), union, undefined=0.0),
        "P@0.5": Ratio.of(has_mask & (ious >= 0.5), has_mask, undefined=0.0),
    }


PROTOCOL = ScoringProtocol(
    name="think2seg",
    title="Think2Seg-RS",
    view=View.SQUARE_840,
    metrics=metrics,
    source="Think2Seg-RS src/eval/test_think2seg-rs_qwen.py, test_think2seg-rs_ref.py",
    quirks=(
        "False positives on empty targets never lower cIoU.",
        "P@0.5 leaves out completions without a mask, so failing to answer raises it.",
        "Of an image's questions one is drawn at random (dataset option `question=random:0`).",
        "The reference segmenter sees the image squashed to 840 x 840; ours sees it as it is.",
    ),
)
