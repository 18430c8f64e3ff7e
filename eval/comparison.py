"""Two evaluations of the same queries side by side: metrics, paired intervals, the parts of a gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.tiles import tile_of
from envs.rollout import Rollout
from eval.bootstrap import Bootstrap, Difference, Interval
from eval.figures import percent, points, points_between
from eval.gain import FEW_TILES, Change, Gain, Part, split_gain
from eval.metrics import compare, shared_answers, shared_queries, tiles
from eval.query_table import QueryTable, build_table
from prompter.runs.tables import text_table
from rewards.replay import read_rollouts

DRAWN = {"by_image": "drawing images", "by_query": "drawing queries", "by_tile": "drawing tiles"}
"""Field of an interval -> what was drawn for it."""


@dataclass(frozen=True)
class Comparison:
    """What `compare_tables` found.

    Args:
        queries, images: shared by both and counted.
        tiles: how many tiles the images are from; None where tiles are the images themselves.
        left_out: shared queries that count in neither, because a segmenter failed on one.
        only_before, only_after: queries that only one holds; they are left out.
        metrics: strict metrics by name.
        gain: the difference in gIoU split; None where no query has a gIoU.
    """

    queries: int
    images: int
    tiles: int | None
    left_out: int
    only_before: int
    only_after: int
    metrics: Mapping[str, Difference]
    gain: Gain | None

    @property
    def drawn(self) -> list[str]:
        """Fields of the intervals there are, the most honest last: images, queries, tiles."""
        return ["by_image", "by_query", *(["by_tile"] if self.tiles is not None else [])]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict: the counts, `metrics` by name and `gain`."""
        return {
            "queries": self.queries,
            "images": self.images,
            "tiles": self.tiles,
            "left_out": self.left_out,
            "only_before": self.only_before,
            "only_after": self.only_after,
            "metrics": {name: found.to_json() for name, found in self.metrics.items()},
            "gain": None if self.gain is None else self.gain.to_json(),
        }


def compare_files(
    before: Path,
    after: Path,
    bootstrap: Bootstrap | None = None,
    tile: Callable[[Rollout], str] = tile_of,
) -> Comparison:
    """Compare two files of rollouts; no model is loaded.

    Raises:
        UserError: as `compare_tables`, or if a file cannot be read.
    """
    first, second = (build_table(read_rollouts(path), tile=tile) for path in (before, after))
    return compare_tables(first, second, bootstrap)


def compare_tables(before: QueryTable, after: QueryTable, bootstrap: Bootstrap | None = None) -> Comparison:
    """Compare two evaluations on the queries both answered, protocol `strict`.

    Raises:
        UserError: if they share no query, hold one twice, or give a shared one different targets.
    """
    held, _ = shared_queries(before, after)
    shared, _ = shared_answers(before, after)
    coarser = tiles(shared)
    return Comparison(
        queries=len(shared),
        images=len(np.unique(shared.images)),
        tiles=None if coarser is None else len(np.unique(coarser)),
        left_out=len(held) - len(shared),
        only_before=len(before) - len(held),
        only_after=len(after) - len(held),
        metrics=compare(before, after, bootstrap=bootstrap),
        gain=split_gain(before, after, bootstrap),
    )


def metric_rows(found: Comparison) -> list[list[str]]:
    """A heading, and a row per metric that has a value: before, after, difference and its intervals."""
    rows = [["", "before", "after", "difference", *(f"95 %, {DRAWN[by]}" for by in found.drawn)]]
    for name, one in found.metrics.items():
        if one.before is not None or one.after is not None:
            figures = [percent(one.before), percent(one.after), points(one.difference)]
            rows.append([name, *figures, *_between(one, found.drawn)])
    return rows


def gain_rows(found: Comparison) -> list[list[str]]:
    """A heading, a row per part of the gain, and their sum; empty where there is no gain."""
    gain, main = found.gain, found.metrics["gIoU"]
    if gain is None:
        return []
    total = points(main.difference)
    rounded = gain.rounded(total, decimals=2)
    heading = ["", "points", *(f"95 %, {DRAWN[by]}" for by in found.drawn), "queries", "better", "worse"]
    rows = [heading]
    for part, change in gain.parts.items():
        rows.append([str(part), rounded[part], *_between(change, found.drawn), *_counts(change)])
    sums = [str(sum(getattr(one, name) for one in gain.parts.values())) for name in _COUNTS]
    return [*rows, ["all four", total, *_between(main, found.drawn), *sums]]


_COUNTS = ("queries", "better", "worse")


def _counts(change: Change) -> list[str]:
    return [str(getattr(change, name)) for name in _COUNTS]


def _between(one: Change | Difference, drawn: Sequence[str]) -> list[str]:
    limits: list[Interval | None] = [getattr(one, by) for by in drawn]
    return [points_between(interval) for interval in limits]


def answered_sentence(found: Comparison) -> str:
    """What changed where both answers name instances, whatever their number; "" where there is no gain."""
    if found.gain is None:
        return ""
    change, named = found.gain.both_answered, found.gain.named
    if named is None:
        return "No query has a target that both answered."
    drawn = "; ".join(f"{points_between(getattr(change, by))} {DRAWN[by]}" for by in found.drawn)
    return (
        f"Where both answered a target, with however many instances ({change.queries} queries): "
        f"{points(change.value)} points of IoU a query, 95 % {drawn}; "
        f"{named[0]:.2f} -> {named[1]:.2f} instances an answer."
    )


def remarks(found: Comparison) -> list[str]:
    """What a reader of the figures should know, one sentence each."""
    said = []
    if found.left_out:
        said.append(f"INCOMPLETE: a segmenter failed on {found.left_out} shared queries, which are left out.")
    if found.only_before or found.only_after:
        said.append(
            f"Only the {found.queries + found.left_out} shared queries are compared: the first holds "
            f"{found.only_before} more, the second {found.only_after}."
        )
    if found.tiles is not None and found.tiles < FEW_TILES:
        text = f"The images are from {found.tiles} tiles only: an interval that draws tiles is too narrow."
        if found.gain is not None and (few := found.gain.by_few_tiles):
            text += (
                f" By Student's t over {found.tiles} tiles: gIoU {points_between(few.get('all'))}, "
                f"localisation {points_between(few.get(Part.LOCALISATION))}."
            )
        said.append(text)
    return said


def comparison_text(found: Comparison) -> list[str]:
    """The comparison as lines of a terminal."""
    lines = text_table(metric_rows(found), numbers=True)
    split = gain_rows(found)
    if split:
        lines += ["where the difference in gIoU comes from", *text_table(split, numbers=True)]
        lines.append(answered_sentence(found))
    return [*lines, *remarks(found)]
