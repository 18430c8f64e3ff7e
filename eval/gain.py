"""Where a gain comes from: the difference in gIoU of two evaluations, split into four parts that add up.

Protocol `strict`; before and after answer the same queries. gIoU is the mean of one score a query, so the
difference is the mean of one change a query. Every query is put into exactly one part by its two answers
alone, never by its score, and by the first of these that holds:

- **form**: one of the two completions could not be read (or neither could; that is a change of 0). Whatever
  a query gains by becoming readable counts here, also where the answer then sits well.
- **refusal**: both could be read, and there is nothing to find, or at least one of them says "no target".
  So a question about nothing that is now declined counts here, and a target that is now answered, or now
  refused.
- **count**: there is a target, both answers name instances, and not the same number of them.
- **localisation**: there is a target, and both answers name the same number of instances. Nothing but *where*
  they are has changed.

A part's figure is the sum of the changes of its queries, over the number of *all* queries: so the four add up
to the difference in gIoU, exactly (they are kept as fractions). Localisation is a low estimate of what was
learned about where: what came with readability, with an answer instead of a refusal, or with one more
instance, is counted elsewhere.

Beside the sum stands **both answered**: the mean change of IoU over the queries with a target for which
both answers name instances, however many. Its queries are those of count and localisation, its denominator is
their own number. Localisation that is bought or hidden by naming more or fewer instances shows here.

A query whose segmenter failed in one of the evaluations is in no part, because `strict` leaves it out; nor is
one whose target is a box and no mask, which has no gIoU.

Intervals are paired: before and after are resampled alike, and all parts by the same draws, so the parts of
every resample add up, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.bootstrap import Bootstrap, Interval, Ratio, interval_json, intervals, student_interval
from eval.mask_views import View
from eval.metrics import shared_answers, tiles
from eval.protocols.base import parsed, said_none
from eval.query_table import QueryTable
from prompter.errors import UserError

FEW_TILES = 10
"""Below so many, an interval that draws tiles is too narrow: resamples of three tiles can take ten values."""


class Part(StrEnum):
    """A part of a gain, as this module's text defines it."""

    FORM = "form"
    REFUSAL = "refusal"
    COUNT = "count"
    LOCALISATION = "localisation"


@dataclass(frozen=True)
class Change:
    """A change with its intervals.

    Args:
        queries: how many queries it is about.
        better, worse: how many of them score higher, lower; the others score as before.
        exact: the change in [-1, 1]; None where there is no query.
        by_query, by_image, by_tile: 95 % bootstrap intervals that draw queries, whole images, whole tiles;
            None where there is nothing to draw, and `by_tile` where tiles are the images themselves.
    """

    queries: int
    better: int
    worse: int
    exact: Fraction | None
    by_query: Interval | None
    by_image: Interval | None
    by_tile: Interval | None

    @property
    def value(self) -> float | None:
        """The change as a float."""
        return None if self.exact is None else float(self.exact)


@dataclass(frozen=True)
class Gain:
    """The difference in gIoU of two evaluations and its parts.

    Args:
        queries: the queries that count in both.
        difference: gIoU after minus gIoU before, in [-1, 1].
        parts: a change per part; their `exact` add up to `difference`.
        both_answered: the mean change where there is a target and both answers name instances; not a part.
        named: how many instances such an answer names on average, before and after; None without any.
        by_few_tiles: Student's t interval over tiles of the whole ("all") and of each part
            (`eval.bootstrap.student_interval`), where there are fewer than `FEW_TILES`; else empty.
    """

    queries: int
    difference: Fraction
    parts: Mapping[Part, Change]
    both_answered: Change
    named: tuple[float, float] | None
    by_few_tiles: Mapping[str, Interval]

    def rounded(self, total: str, decimals: int) -> dict[Part, str]:
        """The parts in points, as text with their sign, rounded so that they add up to the printed total.

        Each is rounded to the nearest; the few units that the sum is then off go to those that rounding
        moved most (largest remainder). So a part is less than one unit of the last digit from its value.

        Args:
            total: the difference in points as it stands beside the parts, with so many decimals.
            decimals: digits after the point.

        Raises:
            ValueError: if `total` is not the difference.
        """
        unit = Fraction(1, 10**decimals)
        wanted = {part: 100 * (change.exact or Fraction(0)) / unit for part, change in self.parts.items()}
        given = {part: round(value) for part, value in wanted.items()}
        missing = int(Fraction(total) / unit) - sum(given.values())
        if abs(Fraction(total) - 100 * self.difference) >= unit:
            raise ValueError(f"the parts add up to {float(100 * self.difference)} points, not to {total}")
        step = 1 if missing > 0 else -1
        for part in sorted(wanted, key=lambda one: step * (given[one] - wanted[one]))[: abs(missing)]:
            given[part] += step
        return {part: f"{float(value * unit):+.{decimals}f}" for part, value in given.items()}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; the values of `parts` add up to `difference` in their decimals."""
        total = f"{float(self.difference) + 0.0:+.12f}"
        shares = self.rounded(f"{float(total) * 100:+.10f}", 10)
        return {
            "queries": self.queries,
            "difference": float(total),
            "parts": {
                part: {"value": round(float(shares[part]) / 100, 12), **_json(change)}
                for part, change in self.parts.items()
            },
            "both_answered": {
                "value": self.both_answered.value,
                **_json(self.both_answered),
                "named": None if self.named is None else list(self.named),
            },
            **({"by_few_tiles": few} if (few := _few_json(self.by_few_tiles)) else {}),
        }


def _few_json(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    return {name: interval.to_json() for name, interval in found.items()}


def _json(change: Change) -> dict[str, Any]:
    data = {"queries": change.queries, "better": change.better, "worse": change.worse}
    drawn = {name: interval_json(getattr(change, name)) for name in ("by_query", "by_image", "by_tile")}
    if drawn["by_tile"] is None:
        del drawn["by_tile"]
    return {**data, **drawn}


def parts_of(before: QueryTable, after: QueryTable) -> dict[Part, NDArray[np.bool_]]:
    """Put the queries of two tables, which hold the same in the same order, into the parts.

    Returns:
        Part -> bool [queries]; every query is True in exactly one.
    """
    readable = parsed(before) & parsed(after)
    answered = readable & before.has_target & ~said_none(before) & ~said_none(after)
    same = before.named == after.named
    return {
        Part.FORM: ~readable,
        Part.REFUSAL: readable & ~answered,
        Part.COUNT: answered & ~same,
        Part.LOCALISATION: answered & same,
    }


def split_gain(before: QueryTable, after: QueryTable, bootstrap: Bootstrap | None = None) -> Gain | None:
    """Split the difference in gIoU between two evaluations, over the queries that count in both.

    Returns:
        None if no query that they share has a mask as its target: then there is no gIoU.

    Raises:
        UserError: if they share no query, or give a shared one different targets.
    """
    first, second = shared_answers(before, after)
    _refuse_other_targets(first, second)
    masked = first.has_mask
    first, second = first.select(masked), second.select(masked)
    if not len(first):
        return None
    old, new = (np.array([Fraction(score) for score in one.scores.tolist()]) for one in (first, second))
    moved: NDArray[np.object_] = new - old
    parts = parts_of(first, second)
    answered = parts[Part.COUNT] | parts[Part.LOCALISATION]
    change = second.scores - first.scores
    ratios = {str(part): Ratio.of(np.where(rows, change, 0.0), 1.0) for part, rows in parts.items()}
    ratios["both answered"] = Ratio.of(np.where(answered, change, 0.0), answered)
    drawn = {
        "by_query": intervals(ratios, None, bootstrap),
        "by_image": intervals(ratios, first.images, bootstrap),
    }
    coarser = tiles(first)
    by_tile = {} if coarser is None else intervals(ratios, coarser, bootstrap)

    nothing = Ratio.of(np.zeros(len(first)), 1.0)
    few = {}
    if coarser is not None and len(np.unique(coarser)) < FEW_TILES:
        whole = {"all": Ratio.of(change, 1.0), **{str(part): ratios[str(part)] for part in parts}}
        few = {name: student_interval(nothing, ratio, coarser) for name, ratio in whole.items()}

    def summed(name: str, rows: NDArray[np.bool_], over: int) -> Change:
        exact = sum(moved[rows].tolist(), Fraction(0))
        return Change(
            queries=int(rows.sum()),
            better=int((change[rows] > 0).sum()),
            worse=int((change[rows] < 0).sum()),
            exact=exact / over if over else None,
            by_tile=by_tile.get(name),
            **{by: found[name] for by, found in drawn.items()},
        )

    return Gain(
        queries=len(first),
        difference=sum(moved.tolist(), Fraction(0)) / len(first),
        parts={part: summed(str(part), rows, len(first)) for part, rows in parts.items()},
        both_answered=summed("both answered", answered, int(answered.sum())),
        named=(float(first.named[answered].mean()), float(second.named[answered].mean()))
        if answered.any()
        else None,
        by_few_tiles={name: interval for name, interval in few.items() if interval is not None},
    )


def _refuse_other_targets(before: QueryTable, after: QueryTable) -> None:
    areas = [table.areas[View.NATIVE].target for table in (before, after)]
    other = (before.has_target != after.has_target) | (areas[0] != areas[1])
    if other.any():
        raise UserError(
            f"The two runs give {int(other.sum())} of {len(before)} shared queries different targets, so the "
            f"difference between them is not the answers' alone; score both on the same labels."
        )
