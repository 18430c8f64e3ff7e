"""What a confidence is worth: calibration error, risk against coverage, and when to abstain.

The *risk* of an answer is 1 - IoU, or 1 - [IoU >= 0.5]. *Coverage* is the share of the questions that are
answered when only the surest are. All figures treat equal confidences alike: whichever of them comes first,
each counts with the mean risk of its equals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

BINS = 10
"""Bins of equal width over [0, 1] of the expected calibration error; an edge belongs to the upper one."""


def calibration_bins(confidence: Float, outcome: Float) -> list[dict[str, float]]:
    """The bins that hold something: `low`, `high`, `queries`, and the means `confidence` and `outcome`.

    Args:
        confidence: in [0, 1], float64 [queries].
        outcome: what it is an estimate of, in [0, 1], float64 [queries].
    """
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "queries": int(held.sum()),
            "confidence": float(confidence[held].mean()),
            "outcome": float(outcome[held].mean()),
        }
        for number in range(BINS)
        if (held := places == number).any()
    ]


def calibration_error(confidence: Float, outcome: Float) -> float:
    """Expected calibration error: the bins' |mean confidence - mean outcome|, weighted by their queries.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3. For a continuous
    outcome (IoU) in the place of the accuracy, it is the same with the mean outcome.
    """
    bins = calibration_bins(confidence, outcome)
    total = sum(one["queries"] for one in bins)
    return sum(one["queries"] * abs(one["confidence"] - one["outcome"]) for one in bins) / total


@dataclass(frozen=True)
class RiskCoverage:
    """Risk against coverage, from the surest answer on.

    Args:
        threshold: confidence from which on an answer is given, float64 [levels], decreasing.
        coverage: share of the questions with at least that, float64 [levels], increasing up to 1.
        risk: mean risk of those, float64 [levels].
        area: mean of the risk over all numbers of answers, 1 to all (AURC): Geifman, Uziel and El-Yaniv,
            Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019.
    """

    threshold: Float
    coverage: Float
    risk: Float
    area: float


def risk_coverage(confidence: Float, risk: Float) -> RiskCoverage:
    """Risk against coverage.

    Args:
        confidence: float64 [queries], at least one; any scale, -inf for an answer that nothing speaks for.
        risk: in [0, 1], float64 [queries].
    """
    levels, places = np.unique(-confidence, return_inverse=True)
    counts = np.bincount(places).astype(np.float64)
    sums = np.bincount(places, weights=risk)
    answered = np.cumsum(counts)
    total = np.cumsum(sums)
    # Inside a level each answer counts with the level's mean.
    expected = np.repeat(sums / counts, counts.astype(np.int64))
    area = float((np.cumsum(expected) / np.arange(1, len(expected) + 1)).mean())
    return RiskCoverage(-levels, answered / answered[-1], total / answered, area)


def best_area(risk: Float) -> float:
    """AURC of the best order there is: by the risk itself."""
    return risk_coverage(-risk, risk).area


def covered(confidence: Float, coverage: float) -> Float:
    """How far each answer is among the surest share of all: float64 [queries], 1, 0, or between for equals.

    Args:
        confidence: float64 [queries].
        coverage: the share, in (0, 1].
    """
    levels, places = np.unique(-confidence, return_inverse=True)
    counts = np.bincount(places, minlength=len(levels)).astype(np.float64)
    before = np.cumsum(counts) - counts
    share = np.clip((coverage * len(confidence) - before) / counts, 0.0, 1.0)
    return np.asarray(share[places])
