"""`strict`: ours. Native resolution, every query counts, every failure counts against the policy."""

from __future__ import annotations

import numpy as np

from eval.bootstrap import Ratio
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, parsed, precision, said_none
from eval.query_table import Outcome, QueryTable

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Compute the strict metrics.

    - gIoU: mean reward `rewards.mask.mask_iou`, so training and evaluation agree: a correct empty
      answer 1, a false positive on an empty target 0, a failed parse 0.
    - cIoU: sum of intersections over sum of unions; false positives on empty targets and the
      targets of failed parses are in the union.
    - P@t: share of all queries with a score of at least t.
    - N-acc: share of no-target queries with an empty answer. T-acc: share of targeted queries
      with an answer that names an instance. A failed parse is right in neither.
    - box-acc@0.5: share of targeted queries where the box around the answer (its boxes, else its
      mask) and the box around the target have an IoU of at least 0.5.
    - instance-precision, -recall, -F1: `eval.instance_scores`, averaged over the queries of sets that
      tell objects apart.
    - parse-failures: share of completions that are no answer. no-target-answers: share of
      completions that say "no target".

    Queries with boxes and no mask have no gIoU, cIoU and P@t.
    """
    areas = table.areas[View.NATIVE]
    scores = np.where(table.has_mask, table.scores, 0.0)
    masked = table.has_mask.astype(np.float64)
    result = {
        "gIoU": Ratio.of(scores, masked),
        "cIoU": Ratio.of(areas.intersection, areas.union),
    }
    for name, ratio in precision(scores, THRESHOLDS).items():
        result[name] = Ratio.of(ratio.numerator * masked, masked)
    targeted = table.has_target
    result["N-acc"] = Ratio.of(said_none(table) & ~targeted, ~targeted)
    result["T-acc"] = Ratio.of((table.outcomes == Outcome.TARGETS) & targeted, targeted)
    result["box-acc@0.5"] = Ratio.of(np.nan_to_num(table.box_ious) >= 0.5, targeted)
    countable = ~np.isnan(table.selection[:, 0])
    for column, name in enumerate(("instance-precision", "instance-recall", "instance-F1")):
        result[name] = Ratio.of(np.nan_to_num(table.selection[:, column]), countable)
    result["parse-failures"] = Ratio.of(~parsed(table), 1.0)
    result["no-target-answers"] = Ratio.of(said_none(table), 1.0)
    return result


PROTOCOL = ScoringProtocol(
    name="strict",
    title="Prompter: native resolution, every query counts",
    view=View.NATIVE,
    metrics=metrics,
    source="eval/protocols/strict.py",
    needs_masks=False,
)
