"""`rela`: the rule of ReLA for generalised referring segmentation (gRefCOCO)."""

from __future__ import annotations

import numpy as np

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, parsed, said_none
from eval.query_table import QueryTable


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Compute gIoU, cIoU, P@t, N-acc and T-acc.

    No-target queries: a correct "no target" scores 1 and adds nothing to either sum; any other
    answer scores 0 and adds what it predicted to the union. Targeted queries: "no target" has no
    intersection. P@t divides by the targeted queries. Without a no-target query N-acc and T-acc
    are 0, as there. A failed parse, which ReLA cannot have, decides neither way: it is counted
    right in neither accuracy.
    """
    areas = table.areas[View.NATIVE_WITH_IGNORED]
    targeted = areas.target > 0
    none = said_none(table)
    intersection = np.where(targeted & ~none, areas.intersection, 0)
    union = np.where(targeted | ~none, areas.union, 0)
    ious = np.zeros(len(table))
    np.divide(intersection, areas.union, out=ious, where=targeted & (areas.union > 0))
    scores = np.where(targeted, ious, none)
    result = {"gIoU": Ratio.of(scores, 1.0), "cIoU": Ratio.of(intersection, union)}
    for threshold in (0.7, 0.8, 0.9):
        result[f"P@{threshold}"] = Ratio.of(targeted & (ious >= threshold), targeted)
    named = parsed(table) & ~none
    some_without_target = bool((~targeted).any())
    result["T-acc"] = Ratio.of(targeted & named & some_without_target, targeted, undefined=0.0)
    result["N-acc"] = Ratio.of(~targeted & none, ~targeted, undefined=0.0)
    return result


PROTOCOL = ScoringProtocol(
    name="rela",
    title="ReLA (gRefCOCO)",
    view=View.NATIVE_WITH_IGNORED,
    metrics=metrics,
    source="ReLA gres_model/evaluation/refer_evaluation.py",
    quirks=("Without a no-target query N-acc and T-acc are reported as 0.",),
)
