"""From evidence to a queue, and what a queue finds of faults that were planted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.executors.base import Executor
from envs.sample import Sample
from eval.audit.evidence import Evidence
from eval.audit.kinds import kind_of
from eval.audit.planting import FAULTS, Label, plant_faults
from eval.audit.predictors import Audited
from eval.audit.queue import Entry, Queue, number_or_none, queue_key
from eval.audit.redraw import redraw
from eval.audit.suspicion import Suspicion, suspect
from eval.query_table import build_table
from rewards.replay import read_rollouts

HEAD = 0.1
"""The head of a queue: the share of it whose worth is measured."""


def order_of(suspicion: NDArray[np.float64]) -> list[int]:
    """Positions of the queries, the most suspicious first, of float64 [queries]; equals keep their order."""
    return [int(position) for position in np.argsort(-suspicion, kind="stable")]


ORDERS = {"both": "total", "predictions": "by_predictions", "segmenter": "by_segmenter"}
"""What a queue may be ordered by -> field of `Suspicion`. Where policies are weak, the segmenter alone does
better than both: `measure_planted` tells."""


def build_queue(
    audited: Audited,
    runs: Sequence[Path],
    evidence: Sequence[Evidence],
    executor: str | None,
    order: str = "both",
) -> Queue:
    """Rank the queries of an audit.

    Args:
        audited: what was compared.
        runs: the folders, for `audit.json`.
        evidence: one per query, in the order of the split.
        executor: name of the segmenter that drew from the labels' boxes, or None.
        order: of `ORDERS`.
    """
    suspicion = suspect(evidence)
    keys = getattr(suspicion, ORDERS[order])
    entries = [
        _entry(rank, evidence[position], suspicion, position)
        for rank, position in enumerate(order_of(keys), start=1)
    ]
    facts: dict[str, Any] = {
        "key": queue_key(entries),
        **audited.asked,
        "runs": [str(run) for run in runs],
        "policies": list(audited.policies),
        "predictors": [
            {"name": one.name, "policy": one.policy, "gIoU": number_or_none(_giou(one.path, len(evidence)))}
            for one in audited.predictors
        ],
        "executor": executor,
        "order": order,
        "queries": len(entries),
        "unanswered": sum(one.consensus is None for one in evidence),
    }
    return Queue(facts, entries)


def _giou(path: Path, queries: int) -> float:
    """gIoU, protocol strict, of the first so many queries of a file."""
    scores = build_table(read_rollouts(path)).scores[:queries]
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else math.nan


def _entry(rank: int, one: Evidence, suspicion: Suspicion, position: int) -> Entry:
    by_segmenter = suspicion.by_segmenter[position] > suspicion.by_predictions[position]
    label = one.decoded(one.label)
    against = one.redrawn if by_segmenter else one.consensus
    other = label if against is None else one.decoded(against)
    if one.ignore is not None:
        counted = ~one.decoded(one.ignore)
        label, other = label & counted, other & counted
    return Entry(
        rank=rank,
        sample_id=one.sample_id,
        image_id=one.image_id,
        image_wh=one.image_wh,
        query=one.query,
        suspicion=round(float(suspicion.total[position]), 4),
        kind=kind_of(label, other),
        because="segmenter" if by_segmenter else "predictions",
        agreement=number_or_none(one.agreement),
        across=number_or_none(one.across),
        within=number_or_none(one.within),
        consensus_iou=number_or_none(one.consensus_iou),
        expected_iou=number_or_none(suspicion.expected[position]),
        redrawn_iou=number_or_none(one.redrawn_iou),
        expected_redrawn_iou=number_or_none(suspicion.expected_redrawn[position]),
        policies=one.policies,
        members=one.members,
        ious=tuple(map(number_or_none, one.ious)),
        label=one.label,
        consensus=one.consensus,
        redrawn=one.redrawn,
        ignore=one.ignore,
    )


@dataclass
class Found:
    """Faults of one kind: how many were planted, and how many of them were in the head of the queue."""

    planted: int = 0
    found: int = 0


def measure_planted(
    evidence: Sequence[Evidence],
    share: float,
    seeds: Iterable[int],
    samples: Mapping[str, Sample],
    executor: Executor | None,
) -> dict[str, Any]:
    """Plant faults again and again, and count those in the first `HEAD` of the queue.

    Args:
        evidence: one per query, with the labels as they are; their own faults, if they have any, stay in
            and take room in the head.
        share: how many labels to spoil in each round.
        seeds: one per round.
        samples: by sample id, for the segmenter.
        executor: draws from the spoilt labels' boxes, if the others' were drawn, too.

    Returns:
        `head` (queries), `rounds`, `found` (share over all rounds), `found_per_round`, `kinds`: kind ->
        `planted`, `found`, and `orders`: another order of the queue -> the share it finds: by
        `disagreement` (mean IoU of all predictions with the label, the lowest first), by `consensus` (its
        IoU with the label), by each of the two kinds of evidence alone, and by `both`.
    """
    labels = [Label(one.sample_id, one.image_id, one.label) for one in evidence]
    head = max(1, round(HEAD * len(evidence)))
    counts = {kind: Found() for kind in FAULTS}
    per_round = []
    by_order: dict[str, list[float]] = {}
    for seed in seeds:
        planted = plant_faults(labels, share, seed)
        spoilt = [one.with_label(planted[one.sample_id].rle) for one in evidence if one.sample_id in planted]
        if executor is not None:
            spoilt = list(redraw(spoilt, samples, executor))
        by_id = {one.sample_id: one for one in spoilt}
        shown: set[str] = set()
        for order, keys in _orders([by_id.get(one.sample_id, one) for one in evidence]).items():
            shown = {evidence[position].sample_id for position in order_of(keys)[:head]}
            by_order.setdefault(order, []).append(len(shown & planted.keys()) / len(planted))
        for name, fault in planted.items():
            counts[fault.kind].planted += 1
            counts[fault.kind].found += name in shown
        per_round.append(by_order["both"][-1])
    return {
        "head": head,
        "rounds": len(per_round),
        "found": float(np.mean(per_round)),
        "found_per_round": per_round,
        "kinds": {kind: vars(one) for kind, one in counts.items()},
        "orders": {name: float(np.mean(found)) for name, found in by_order.items()},
    }


def _orders(evidence: Sequence[Evidence]) -> dict[str, NDArray[np.float64]]:
    """What a queue could be ordered by, each float64 [queries], higher first; the queue's own is the last."""
    suspicion = suspect(evidence)
    ious = np.nan_to_num([one.ious for one in evidence], nan=0.0)
    agreed = np.array([one.consensus_iou for one in evidence])
    return {
        "disagreement": 1 - ious.mean(axis=1),
        "consensus": 1 - np.nan_to_num(agreed, nan=1.0),
        "predictions": suspicion.by_predictions,
        "segmenter": suspicion.by_segmenter,
        "both": suspicion.total,
    }
