"""Which rollouts to show: the ends and the whole range, and some by lot, which no result has chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.query_table import QueryTable

LOT_SEED, LOT_SIZE = 14, 24
"""Seed of the queries drawn by lot, and how many there are."""


@dataclass(frozen=True)
class CaseGroup:
    """Queries shown together.

    Args:
        title, note: heading and one sentence on how they were chosen.
        rows: rows of the table, in the order to show them.
        small: whether the pictures are small, many on a page.
    """

    title: str
    note: str
    rows: tuple[int, ...]
    small: bool = False


def draw_cases(
    after: QueryTable, before: QueryTable, *, count: int = LOT_SIZE, seed: int = LOT_SEED
) -> list[CaseGroup]:
    """Draw queries by lot, from their names and the seed alone: no answer and no score has a say.

    The same queries are drawn from every pair of runs that holds the same ones, in whatever order.

    Args:
        after, before: the same queries in the same order.
        count: how many to draw.
        seed: of the lot.

    Returns:
        One group, or none where there is nothing to draw. A query drawn whose segmenter failed has no
        picture; it is left out and counted in the note, not replaced.

    Raises:
        ValueError: if the two hold other queries.
    """
    if not np.array_equal(before.samples, after.samples):
        raise ValueError("before and after must hold the same queries in the same order")
    by_name = np.argsort(after.samples, kind="stable")
    drawn = by_name[np.random.default_rng(seed).permutation(len(by_name))[:count]]
    shown = drawn[~np.isnan(after.scores[drawn]) & ~np.isnan(before.scores[drawn])]
    if not len(shown):
        return []
    note = (
        f"{len(drawn)} of {len(after)} questions, drawn by lot (seed {seed}) from their names alone: no "
        f"answer and no score has chosen them, and every run on these questions shows the same."
    )
    if len(shown) < len(drawn):
        note += f" {len(drawn) - len(shown)} have no score, so no picture."
    return [CaseGroup("Drawn by lot", note, tuple(int(row) for row in shown), small=True)]


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
