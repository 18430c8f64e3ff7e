"""gIoU against the number of looks, all from one sampling: K samples are the first K of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.bootstrap import Bootstrap, Ratio
from eval.looks.ballot import Ballot
from eval.looks.combining import answer_of
from eval.looks.records import read_looks
from eval.looks.rules import RULES, USES_TRUTH
from eval.metrics import with_intervals
from eval.query_table import sample_digest
from rewards.mask import mask_iou

SHOWN_RULES = tuple(rule for rule in RULES if rule != "greedy")


def numbers_of_looks(samples: int) -> list[int]:
    """1, 2, 4, … up to a number of samples, and that number."""
    powers = [2**power for power in range(samples.bit_length()) if 2**power <= samples]
    return list(dict.fromkeys([*powers, samples]))


@dataclass(frozen=True)
class LookScores:
    """The reward `mask_iou` of every rule's answer after 1, 2, 4, … looks.

    Args:
        images: number of each question's image, int64 [queries].
        numbers: how many looks, increasing.
        greedy: float64 [queries]; NaN where the segmenter failed.
        rules: by name, float64 [queries, numbers]; NaN where the segmenter failed.
    """

    images: NDArray[np.int64]
    numbers: tuple[int, ...]
    greedy: NDArray[np.float64]
    rules: Mapping[str, NDArray[np.float64]]


def score_looks(path: Path, names: Sequence[str] = SHOWN_RULES) -> LookScores | None:
    """Score a file of looks under several rules; None for a set with boxes and no masks.

    Args:
        path: as `eval.looks.records` keeps it.
        names: of rules, as `RULES` resolves them.
    """
    rules = {name: RULES.resolve(name) for name in names}
    images: list[int] = []
    greedy: list[float] = []
    found: dict[str, list[list[float]]] = {name: [] for name in rules}
    numbers: list[int] = []
    for looks in read_looks(path):
        if looks[0].target is None:
            return None
        numbers = numbers or numbers_of_looks(len(looks) - 1)
        whole = Ballot(looks)
        images.append(sample_digest("\0".join((looks[0].dataset, looks[0].split, looks[0].image_id))))
        greedy.append(float(whole.truth[0]))
        ballots = [whole.first(number) for number in numbers]
        for name, rule in rules.items():
            row = []
            for ballot in ballots:
                choice = rule(ballot)
                if choice.mask is None:
                    row.append(float(ballot.truth[choice.look]))
                else:
                    score = mask_iou(answer_of(ballot, choice))
                    row.append(np.nan if score is None else score)
            found[name].append(row)
    return LookScores(
        np.unique(np.array(images, dtype=np.int64), return_inverse=True)[1],
        tuple(numbers),
        np.array(greedy),
        {name: np.array(rows) for name, rows in found.items()},
    )


def curve_of(scores: LookScores, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """gIoU of greedy and of every rule, and its paired difference to greedy, with intervals; JSON-ready.

    Keys: `samples` (the numbers of looks), `greedy` (a metric), and `rules`: name -> `gIoU` and `difference`,
    a metric per number of looks each, and `uses_truth`. A metric is `value`, `by_query` and `by_image`, as in
    `eval.metrics.summarise`. Questions whose segmenter failed on either side are left out of a difference.
    """
    ratios = {"greedy": _mean(scores.greedy)}
    for name, table in scores.rules.items():
        for column, number in enumerate(scores.numbers):
            ratios[f"{name}/{number}"] = _mean(table[:, column])
            ratios[f"{name}/{number}/difference"] = _mean(table[:, column] - scores.greedy)
    metrics = with_intervals(ratios, scores.images, bootstrap)
    return {
        "samples": list(scores.numbers),
        "greedy": metrics["greedy"],
        "rules": {
            name: {
                "uses_truth": name in USES_TRUTH,
                "gIoU": [metrics[f"{name}/{number}"] for number in scores.numbers],
                "difference": [metrics[f"{name}/{number}/difference"] for number in scores.numbers],
            }
            for name in scores.rules
        },
    }


def _mean(values: NDArray[np.float64]) -> Ratio:
    """The mean of what is not NaN, as a ratio."""
    known = ~np.isnan(values)
    return Ratio.of(np.nan_to_num(values) * known, known)
