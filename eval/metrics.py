"""Metrics of an evaluation: every protocol with its intervals, breakdowns, and paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.premise import TRUTH_TAGS
from envs.rollout import Rollout
from eval.bootstrap import (
    Bootstrap,
    Difference,
    Ratio,
    interval_json,
    intervals,
    paired_difference,
)
from eval.mask_views import View
from eval.protocols import PROTOCOLS, apply, covered, needs
from eval.protocols.base import ScoringProtocol
from eval.query_table import Outcome, QueryTable, build_table
from prompter.errors import UserError
from rewards.replay import read_rollouts

STRICT = PROTOCOLS["strict"]

BREAKDOWN_METRICS = ("gIoU", "cIoU", "P@0.5", "box-acc@0.5")
"""Metrics shown per tag, protocol `strict`."""

SIZE_TAG = "target-size"
"""Breakdown key made here: the target's share of the image."""

_SIZES = ((0.001, "under 0.1 %"), (0.01, "0.1 to 1 %"), (0.1, "1 to 10 %"), (np.inf, "over 10 %"))
_SIZE_NAMES = [*(name for _, name in _SIZES), "no target", "unknown"]


def score_file(
    path: Path | str,
    protocols: Sequence[ScoringProtocol],
    watch: Callable[[Iterable[Rollout]], Iterable[Rollout]] | None = None,
) -> QueryTable:
    """Read a file of rollouts into the table that the given protocols need; no model is loaded.

    `watch` sees them on the way, one by one, and passes them on.

    Raises:
        UserError: if the file cannot be read, holds no rollout, or a line is not a rollout.
    """
    rollouts: Iterable[Rollout] = read_rollouts(path)
    table = table_for(rollouts if watch is None else watch(rollouts), protocols)
    if not len(table):
        raise UserError(f"{path} holds no rollouts; was the evaluation run?")
    return table


def table_for(rollouts: Iterable[Rollout], protocols: Iterable[ScoringProtocol]) -> QueryTable:
    """The table that the given protocols need, of rollouts that are read one by one."""
    return build_table(rollouts, *needs(protocols))


def summarise(
    table: QueryTable, protocols: Iterable[ScoringProtocol], bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Compute everything that is reported about one file of rollouts, as a JSON-ready dict.

    Keys: `queries`, `images`, `executor_failures` (left out of every metric), `parse_failures`
    (by kind), `mended` (answers that reading mended, by how; left out where there is none), `no_target`
    (queries whose target is empty), `mean_tokens`, `mean_executor_score`
    (None if unknown), `protocols` (name -> `queries`, `metrics` -> name -> `value`, `by_query`,
    `by_image`: bootstrap intervals drawing queries or whole images), and `breakdown`
    (tag -> value -> `queries` and strict metrics).
    """
    bootstrap = bootstrap or Bootstrap()
    reported = {}
    for protocol in protocols:
        rows = covered(protocol, table)
        reported[protocol.name] = {
            "queries": len(rows),
            "metrics": with_intervals(apply(protocol, table), rows.images, bootstrap),
        }
    scores = table.executor_scores[~np.isnan(table.executor_scores)]
    return {
        "queries": len(table),
        "images": len(np.unique(table.images)),
        "executor_failures": int((table.outcomes == Outcome.EXECUTOR_FAILED).sum()),
        "parse_failures": dict(sorted(table.failures.items())),
        **({"mended": dict(sorted(table.mended.items()))} if table.mended else {}),
        "no_target": int((~table.has_target).sum()),
        "mean_tokens": float(table.tokens.mean()) if table.tokens.any() else None,
        "mean_executor_score": float(scores.mean()) if scores.size else None,
        "protocols": reported,
        "breakdown": breakdown(table),
    }


def with_intervals(
    ratios: Mapping[str, Ratio], images: NDArray[np.int64], bootstrap: Bootstrap | None = None
) -> dict[str, dict[str, Any]]:
    """Metrics over the same queries, JSON-ready: name -> `value`, `by_query` and `by_image` (intervals).

    Args:
        ratios: metrics by name.
        images: image of each query, int64 [queries].
        bootstrap: settings of the intervals.
    """
    by_query, by_image = intervals(ratios, None, bootstrap), intervals(ratios, images, bootstrap)
    return {
        name: {
            "value": ratio.value(),
            "by_query": interval_json(by_query[name]),
            "by_image": interval_json(by_image[name]),
        }
        for name, ratio in ratios.items()
    }


def breakdown(table: QueryTable) -> dict[str, dict[str, dict[str, Any]]]:
    """Strict metrics per tag and value, and per size of the target; not by tags that are of one image only.

    Returns:
        tag -> value -> {"queries": …, metric: value or None, …}.
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for tag in dict.fromkeys(tag for tags in table.tag_sets for tag in tags if tag not in TRUTH_TAGS):
        by_value = _by_value(table, tag)
        if by_value:  # a part of a table may hold no query with this tag
            result[tag] = by_value
    result[SIZE_TAG] = _by_value(table, SIZE_TAG)
    return result


def rows_by_value(table: QueryTable, tag: str) -> dict[str, NDArray[np.bool_]]:
    """The rows of each value of a tag, or of each size of the target (`SIZE_TAG`): bool [queries].

    Sizes are in their order, other values by name; a value that no row has is left out.
    """
    if tag == SIZE_TAG:
        values, codes = _SIZE_NAMES, _sizes(table)
    else:
        values = sorted({tags[tag] for tags in table.tag_sets if tag in tags})
        place = {value: index for index, value in enumerate(values)}
        of_set = np.array(
            [place[tags[tag]] if tag in tags else -1 for tags in table.tag_sets], dtype=np.int64
        )
        codes = of_set[table.tags]
    found = {value: codes == code for code, value in enumerate(values)}
    return {value: rows for value, rows in found.items() if rows.any()}


def _by_value(table: QueryTable, tag: str) -> dict[str, dict[str, Any]]:
    """Number of rows and strict metrics of each value of a tag."""
    result: dict[str, dict[str, Any]] = {}
    for value, rows in rows_by_value(table, tag).items():
        part = table.select(rows)
        ratios = apply(STRICT, part)
        metrics = {name: ratios[name].value() for name in BREAKDOWN_METRICS}
        result[value] = {"queries": len(part), **metrics}
    return result


def _sizes(table: QueryTable) -> NDArray[np.int64]:
    """Position in `_SIZE_NAMES` of each query's target: int64 [queries]."""
    shares = table.areas[View.NATIVE].target / table.pixels
    codes = np.searchsorted([limit for limit, _ in _SIZES], shares, side="right")
    codes[shares == 0] = _SIZE_NAMES.index("unknown")
    codes[~table.has_target] = _SIZE_NAMES.index("no target")
    return codes


def compare(
    before: QueryTable,
    after: QueryTable,
    metrics: Sequence[str] = ("gIoU", "cIoU", "P@0.5", "P@0.7", "N-acc", "T-acc", "parse-failures"),
    protocol: ScoringProtocol = STRICT,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Difference]:
    """Compare two runs on the queries both answered.

    Raises:
        UserError: if the two share no query.
    """
    first, second = shared_answers(before, after, protocol)
    ratios = (protocol.metrics(first), protocol.metrics(second))
    return {
        name: paired_difference(ratios[0][name], ratios[1][name], first.images, bootstrap, tiles(first))
        for name in metrics
        if name in ratios[0]
    }


def shared_answers(
    before: QueryTable, after: QueryTable, protocol: ScoringProtocol = STRICT
) -> tuple[QueryTable, QueryTable]:
    """Both tables reduced to what a comparison looks at: the queries that a protocol covers in both.

    A query whose segmenter failed in one of them is left out of both.

    Raises:
        UserError: as `shared_queries`.
    """
    return shared_queries(covered(protocol, before), covered(protocol, after))


def tiles(table: QueryTable) -> NDArray[np.int64] | None:
    """The tile of each query, int64 [queries]; None where tiles are the images themselves."""
    return None if np.array_equal(table.tiles, table.images) else table.tiles


def shared_queries(first: QueryTable, second: QueryTable) -> tuple[QueryTable, QueryTable]:
    """Return both tables reduced to the samples they share, in the order of the first.

    Raises:
        UserError: if they share none, or a table holds a sample twice.
    """
    for table in (first, second):
        if len(np.unique(table.samples)) != len(table):
            raise UserError("A run holds a sample twice, so it cannot be compared query by query.")
    _, rows, partners = np.intersect1d(first.samples, second.samples, assume_unique=True, return_indices=True)
    if not len(rows):
        raise UserError("The two runs share no query; evaluate both on the same benchmark and split.")
    order = np.argsort(rows)
    return first.select(rows[order]), second.select(partners[order])
