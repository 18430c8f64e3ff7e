"""`strict-boxes`: ours, for boxes. What the lenient rules about boxes are set beside."""

from __future__ import annotations

import numpy as np

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, box_figures
from eval.query_table import QueryTable

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Compute the strict figures about boxes, over queries with one object.

    The box round the answer (its boxes, else its mask) is set against the box round the target. The answer
    is read as everywhere in this project: in the policy's own frame, and an answer that does not parse, or
    says "no target", scores 0.
    """
    ious, single = np.nan_to_num(table.box_ious), table.objects == 1
    return box_figures(ious, single, THRESHOLDS)


PROTOCOL = ScoringProtocol(
    name="strict-boxes",
    title="Prompter: one box round the answer, read strictly",
    view=View.NATIVE,
    metrics=metrics,
    source="eval/protocols/strict_boxes.py",
    needs_masks=False,
)
