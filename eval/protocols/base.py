"""What a protocol is: a view of the masks and a rule that turns pixel counts into metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.bootstrap import Ratio
from eval.box_cases import BoxJudge
from eval.mask_views import View
from eval.query_table import Areas, Outcome, QueryTable


@dataclass(frozen=True)
class ScoringProtocol:
    """One way of computing metrics.

    Args:
        name: what users type.
        title: whose rule it is, in one line.
        view: how it looks at the masks.
        metrics: the rule: table -> metrics by name. The table holds no query whose segmenter
            failed and, where masks are needed, only queries whose target is a mask.
        source: the file the rule was read in.
        quirks: what a reader of its numbers should know, one sentence each; pages show those of the
            protocols that come with this package.
        judge: its own look at the answer as a box; `metrics` finds the verdicts under `name`. None if it
            has none.
        needs_masks: whether queries whose target is a box and no mask are left out.
        reads_text: whether the judge reads the completion by a rule of its own, so that predictions without
            one cannot be scored by it.
    """

    name: str
    title: str
    view: View
    metrics: Callable[[QueryTable], dict[str, Ratio]]
    source: str
    quirks: tuple[str, ...] = ()
    judge: BoxJudge | None = None
    needs_masks: bool = True
    reads_text: bool = False


def per_query_iou(areas: Areas, *, empty_union: float, smoothing: float = 0.0) -> NDArray[np.float64]:
    """Intersection over (union + smoothing) of each query, and `empty_union` where the union is 0.

    Returns:
        float64 [queries].
    """
    result = np.full(len(areas.union), empty_union, dtype=np.float64)
    np.divide(areas.intersection, areas.union + smoothing, out=result, where=areas.union > 0)
    return result


def precision(
    ious: NDArray[np.float64], thresholds: tuple[float, ...], *, strictly: bool = False
) -> dict[str, Ratio]:
    """P@t for each threshold: share of queries with IoU >= t, or > t where `strictly`."""
    return {
        f"P@{threshold}": Ratio.of(ious > threshold if strictly else ious >= threshold, 1.0)
        for threshold in thresholds
    }


def parsed(table: QueryTable) -> NDArray[np.bool_]:
    """Whether each answer parsed: bool [queries]."""
    return table.outcomes != Outcome.PARSE_FAILED


def said_none(table: QueryTable) -> NDArray[np.bool_]:
    """Whether each answer says "no target": bool [queries]."""
    return table.outcomes == Outcome.NO_TARGET


def box_figures(
    ious: NDArray[np.float64],
    counted: NDArray[np.bool_],
    thresholds: tuple[float, ...],
    centres: NDArray[np.bool_] | None = None,
) -> dict[str, Ratio]:
    """`box-IoU`, the mean over the counted queries, `box_accuracy`, and `centre-acc` if there are centres.

    Args:
        ious: float64 [queries], finite.
        counted: bool [queries].
        thresholds: as `box_accuracy` takes them.
        centres: whether the centre of the box hits, bool [queries].
    """
    figures = {"box-IoU": Ratio.of(ious * counted, counted), **box_accuracy(ious, counted, thresholds)}
    if centres is not None:
        figures["centre-acc"] = Ratio.of(centres & counted, counted)
    return figures


def box_accuracy(
    ious: NDArray[np.float64],
    counted: NDArray[np.bool_],
    thresholds: tuple[float, ...],
    *,
    strictly: bool = False,
) -> dict[str, Ratio]:
    """`box-acc@t` for each threshold: share of the counted queries whose box has an IoU >= t.

    Args:
        ious: float64 [queries]; not looked at where a query does not count.
        counted: bool [queries].
        thresholds: t.
        strictly: > t instead of >= t.
    """
    return {
        f"box-acc@{threshold}": Ratio.of(
            counted & (ious > threshold if strictly else ious >= threshold), counted
        )
        for threshold in thresholds
    }
