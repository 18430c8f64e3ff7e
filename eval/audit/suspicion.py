"""How suspicious a label is: the odds that it is wrong, from what speaks against it on this split.

Most disagreement with labels is the predictions' fault, so disagreement alone says little. Two kinds of
evidence are weighed by what they are worth on the split itself, most of whose labels are right, and their
likelihood ratios multiplied (naive Bayes):

    predictions   The IoU with labels that is usual where predictions agree as they do here (across policies,
                  across segmenters, in number, on a mask or on "no target") is taken for the chance that they
                  are right; its odds count as far as no prediction at all sides with the label. One that does
                  clears it: hitting a wrong label by chance is rare. Policies that are wrong together agree
                  without being right, which lowers what agreement is worth.
    segmenter     How far the segmenter, given the label's own boxes, falls short of the IoU that is usual for
                  labels of this size, against the spread of that on the split, with a heavy tail.

What is usual is a ridge regression, fitted on four fifths of the images and read on the last one, so that a
label has no part in what is expected of it. Weak policies are expected little of, so they say little, and
the segmenter decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.audit.evidence import Evidence

Float = NDArray[np.float64]

FOLDS = 5
FEWEST = 20
"""With fewer queries than this, what is usual is their mean: a regression would fit chance."""

PRIOR = 0.05
"""Share of labels taken to be wrong; it moves the suspicion, not the order."""

_SURE = 0.98
"""Predictions are never taken to be right more often than this."""

_BY_CHANCE = 0.05
"""How often, against a right one, a wrong label is hit by some prediction."""

_UNSEEN = 0.4
"""Share of wrong labels that the segmenter cannot tell: they hold another object, or none."""


@dataclass(frozen=True)
class Suspicion:
    """What a split's evidence comes to; each array is [queries].

    Args:
        expected: usual IoU of the consensus with the label; NaN where there is no consensus.
        expected_redrawn: usual IoU of the segmenter's mask with the label; NaN where there is none.
        by_predictions, by_segmenter: logarithm of each likelihood ratio, wrong against right label; 0 for all
            queries where there is no such evidence at all.
        total: probability that the label is wrong, were both independent and `PRIOR` true, 0 to 1.
    """

    expected: Float
    expected_redrawn: Float
    by_predictions: Float
    by_segmenter: Float
    total: Float


def suspect(evidence: Sequence[Evidence]) -> Suspicion:
    """Weigh a split's evidence up; a query's images are told apart by `image_id`."""
    numbers: dict[str, int] = {}
    images = np.array([numbers.setdefault(one.image_id, len(numbers)) for one in evidence])
    found = np.array([one.consensus_iou for one in evidence])
    expected = usual(_agreement_features(evidence), found, images)
    best = np.array([np.nan_to_num(one.ious, nan=0.0).max() for one in evidence])
    right = np.minimum(np.nan_to_num(expected), _SURE)
    odds = right * (1 - best) / (1 - right)
    by_predictions = np.where(np.isnan(expected), 0.0, np.log(_BY_CHANCE + odds))

    redrawn = np.array([one.redrawn_iou for one in evidence])
    expected_redrawn = usual(_label_features(evidence), redrawn, images)
    by_segmenter = _shortfall_ratio(1 - redrawn / np.maximum(expected_redrawn, 1e-9))
    log_odds = np.log(PRIOR / (1 - PRIOR)) + by_predictions + by_segmenter
    return Suspicion(expected, expected_redrawn, by_predictions, by_segmenter, _logistic(log_odds))


def _shortfall_ratio(shortfalls: Float) -> Float:
    """Logarithm of the likelihood ratio of shortfalls (shares of the usual IoU), [queries].

    Where one is unknown (NaN: a label without a pixel has no boxes), it counts as the usual, 0.

    Those of right labels follow a Lomax distribution of shape 2 with the split's median; of wrong ones,
    `_UNSEEN` do so too, and the rest are anything from 0 to 1.
    """
    known = ~np.isnan(shortfalls)
    if not known.any():
        return np.zeros(len(shortfalls))
    scale = max(float(np.median(np.abs(shortfalls[known]))) / (np.sqrt(2) - 1), 0.01)
    lacking = np.clip(np.nan_to_num(shortfalls), 0.0, 1.0)
    ratio = _UNSEEN + (1 - _UNSEEN) * scale / 2 * (1 + lacking / scale) ** 3
    return np.log(ratio)


def _agreement_features(evidence: Sequence[Evidence]) -> Float:
    """What the predictions show among themselves, float64 [queries, 4]; NaN where unknown.

    Whether they say "no target" is one of them: that is easily agreed on.
    """
    rows = []
    for one in evidence:
        says_none = one.consensus is not None and not one.decoded(one.consensus).any()
        rows.append([one.across, one.within, float(np.mean(one.members)), float(says_none)])
    return np.array(rows)


def _label_features(evidence: Sequence[Evidence]) -> Float:
    """The logarithm of the label's share of the image, and its square, float64 [queries, 2]."""
    sizes = np.log([1e-4 + float(one.decoded(one.label).mean()) for one in evidence])
    return np.stack([sizes, sizes**2], axis=1)


def usual(features: Float, values: Float, groups: NDArray[np.int64], penalty: float = 1.0) -> Float:
    """What `values` usually are where features are such, each read from a fit without its own fold.

    Args:
        features: float64 [queries, features]; NaN counts as the column's mean.
        values: in [0, 1], float64 [queries]; those that are NaN take no part.
        groups: int64 [queries]; queries of one group are in one fold.
        penalty: of the ridge, on standardised features.

    Returns:
        float64 [queries]; NaN where `values` is.
    """
    known = ~np.isnan(values)
    result = np.full(len(values), np.nan)
    if not known.any():
        return result
    if known.sum() < FEWEST:
        result[known] = values[known].mean()
        return result
    design = _standardised(features[known])
    targets, folds = values[known], groups[known] % FOLDS
    found = np.empty(len(targets))
    for fold in range(FOLDS):
        here = folds == fold
        rest = ~here if here.sum() < len(here) else here  # all of one group: nothing else to learn from
        weights = _fit(design[rest], targets[rest], penalty)
        found[here] = _logistic(design[here] @ weights)
    result[known] = found
    return result


def _standardised(features: Float) -> Float:
    """Columns of mean 0 and deviation 1 after a column of ones, float64 [queries, 1 + features]."""
    there = ~np.isnan(features)
    counts = np.maximum(there.sum(0), 1)
    filled = np.where(there, features, 0.0)
    filled = np.where(there, features, filled.sum(0) / counts)
    spread = filled.std(0)
    centred = (filled - filled.mean(0)) / np.where(spread > 1e-9, spread, 1.0)
    return np.column_stack([np.ones(len(features)), centred])


def _fit(design: Float, targets: Float, penalty: float) -> Float:
    """Weights of a logistic regression on shares, with a ridge on all but the first, by Newton's method."""
    ridge = np.diag([1e-6, *[penalty] * (design.shape[1] - 1)])
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        fitted = _logistic(design @ weights)
        slope = design.T @ (targets - fitted) - ridge @ weights
        curvature = (design.T * (fitted * (1 - fitted))) @ design + ridge
        step = np.clip(np.linalg.solve(curvature, slope), -4.0, 4.0)
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _logistic(values: Float) -> Float:
    return 1.0 / (1.0 + np.exp(-np.clip(values, -30.0, 30.0)))
