"""Which rollouts to show: the ends and the whole range, never a random pick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.query_table import QueryTable


@dataclass(frozen=True)
class CaseGroup:
    """Queries shown together.

    Args:
        title, note: heading and one sentence on how they were chosen.
        rows: rows of the table, in the order to show them.
    """

    title: str
    note: str
    rows: tuple[int, ...]


def choose_cases(
    after: QueryTable, before: QueryTable | None = None, *, per_group: int = 4, across: int = 6
) -> list[CaseGroup]:
    """Choose queries to show; no query is shown twice, and a group prefers different images
    and shows at most one no-target query while there are others.

    Args:
        after: the run to show.
        before: the same queries in the same order before training, if there is such a run.
        per_group: queries per extreme (most improved, most worsened, best, worst).
        across: queries spread evenly over the range of scores.

    Returns:
        Groups that are not empty. Queries whose segmenter failed are never shown.

    Raises:
        ValueError: if `before` holds other queries.
    """
    if before is not None and not np.array_equal(before.samples, after.samples):
        raise ValueError("before and after must hold the same queries in the same order")
    scores = after.scores
    usable = ~np.isnan(scores)
    if before is not None:
        usable &= ~np.isnan(before.scores)
    free = usable.copy()
    groups: list[CaseGroup] = []

    def take(title: str, note: str, ranked: NDArray[np.int64], count: int) -> None:
        rows = _spread(ranked[free[ranked]], after, count)
        free[rows] = False
        if rows:
            groups.append(CaseGroup(title, note, tuple(rows)))

    if before is not None:
        gain = np.where(usable, scores - before.scores, 0.0)
        take(
            "Most improved",
            "The largest gains in IoU, different images first.",
            _ranked(-gain, gain > 0),
            per_group,
        )
        take(
            "Most worsened",
            "The largest losses in IoU, different images first.",
            _ranked(gain, gain < 0),
            per_group,
        )
    targeted = usable & after.has_target
    take(
        "Best",
        "The highest IoU among queries with a target, different images first.",
        _ranked(-scores, targeted),
        per_group,
    )
    take("Worst", "The lowest IoU, different images first.", _ranked(scores, usable), per_group)
    ordered = _ranked(scores, usable)
    places = np.linspace(0, max(len(ordered) - 1, 0), across + 2)[1:-1].round().astype(int)
    picks = ordered[np.unique(places)] if len(ordered) else ordered
    take("Across the range", "Evenly spaced by rank of IoU, low to high.", picks, across)
    return groups


def _ranked(keys: NDArray[np.float64], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Allowed rows by ascending key, int64 [rows]; ties keep the order of the table."""
    order = np.argsort(keys, kind="stable")
    return order[allowed[order]]


def _spread(rows: NDArray[np.int64], table: QueryTable, count: int) -> list[int]:
    """The first `count` rows, preferring new images and, after one, queries that have a target.

    Scores of no-target queries are 0 or 1 and say little in a picture; without this they would
    fill the extremes.
    """
    preferred: list[int] = []
    rest: list[int] = []
    images: set[int] = set()
    empty = 0
    for place, row in enumerate(rows):
        if len(preferred) == count:
            break
        image = int(table.images[row])
        if image not in images and (bool(table.has_target[row]) or empty < 1):
            preferred.append(place)
            images.add(image)
            empty += not table.has_target[row]
        elif len(rest) < count:
            rest.append(place)
    chosen = sorted([*preferred, *rest][:count])
    return [int(rows[place]) for place in chosen]
