"""The same rollouts scored on the original and on the repaired labels, with paired intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from envs.rollout import Rollout
from eval.audit.decisions import Decision
from eval.audit.predictors import Predictor
from eval.audit.queue import Entry
from eval.audit.repair import Repair
from eval.bootstrap import Bootstrap, interval_json
from eval.figures import percent, points, points_between
from eval.metrics import compare
from eval.query_table import QueryTable, build_table, sample_digest
from prompter.runs.tables import text_table
from rewards.replay import read_rollouts

METRICS = ("gIoU", "cIoU", "P@0.5", "N-acc", "T-acc")


def relabelled(rollouts: Iterable[Rollout], repair: Repair) -> Iterator[Rollout]:
    """Rollouts with repaired labels; those of dropped samples are left out.

    A replaced label has no objects told apart, and no stored reward.
    """
    for rollout in rollouts:
        if rollout.sample_id in repair.dropped:
            continue
        label = repair.labels.get(rollout.sample_id)
        yield rollout if label is None else replace(rollout, target=label, instances=(), rewards={})


def score_both(
    predictors: Sequence[Predictor],
    entries: Mapping[str, Entry],
    decisions: Mapping[str, Decision],
    repair: Repair,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Any]:
    """Score every predictor on both sets of labels, protocol `strict`.

    Differences are over the queries that both hold. Where the predictions' own mask became the label, the
    predictors that voted for it gain by construction; `difference_elsewhere` leaves those queries out.

    Returns:
        predictor -> `queries` (how many per set of labels), `voted` (how many new labels it had a vote in)
        and `metrics`: metric -> `before`, `after`, `difference` (shared queries), `by_query`, `by_image`
        (95 % intervals of the difference);
        for gIoU also `difference_elsewhere` and its `elsewhere_by_image`.
    """
    result: dict[str, Any] = {}
    for number, predictor in enumerate(predictors):
        before = build_table(read_rollouts(predictor.path))
        after = build_table(relabelled(read_rollouts(predictor.path), repair))
        voted = {
            name
            for name, decision in decisions.items()
            if decision.verdict == "consensus" and entries[name].members[number]
        }
        changes = compare(before, after, METRICS, bootstrap=bootstrap)
        elsewhere = compare(_without(before, voted), _without(after, voted), ("gIoU",), bootstrap=bootstrap)
        metrics = {name: change.to_json() for name, change in changes.items()}
        metrics["gIoU"]["difference_elsewhere"] = elsewhere["gIoU"].difference
        metrics["gIoU"]["elsewhere_by_image"] = interval_json(elsewhere["gIoU"].by_image)
        result[predictor.name] = {
            "queries": {"original": len(before), "repaired": len(after)},
            "voted": len(voted),
            "metrics": metrics,
        }
    return result


def _without(table: QueryTable, samples: Iterable[str]) -> QueryTable:
    left_out = np.array([sample_digest(name) for name in samples], dtype=np.int64)
    return table.select(~np.isin(table.samples, left_out))


def both_scores_text(scores: Mapping[str, Any]) -> str:
    """The scores as a text table: a row per predictor and metric."""
    rows = [
        ["predictor", "metric", "original", "repaired", "difference", "95 %", "without own votes", "95 %"]
    ]
    for name, one in scores.items():
        for metric, values in one["metrics"].items():
            if values["before"] is None and values["after"] is None:
                continue
            elsewhere = "difference_elsewhere" in values
            rows.append(
                [
                    name,
                    metric,
                    percent(values["before"]),
                    percent(values["after"]),
                    points(values["difference"]),
                    points_between(values["by_image"]),
                    points(values["difference_elsewhere"]) if elsewhere else "",
                    points_between(values["elsewhere_by_image"]) if elsewhere else "",
                ]
            )
    return "\n".join(
        [
            *text_table(rows, numbers=True),
            "protocol strict, per cent, on the queries that both hold; intervals of the paired difference,",
            "bootstrap, drawing images. Without own votes: queries whose new label this predictor voted for",
            "are left out, because it gains on them by construction.",
        ]
    )
