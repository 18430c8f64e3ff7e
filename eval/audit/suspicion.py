"""How suspicious a label is: what speaks against it, weighed by what that is worth on this split.

Most disagreement with labels is the predictions' fault, so disagreement alone says little. Two kinds of
evidence are held against what is usual on the split itself, most of whose labels are right:

    predictions   The IoU with labels that is usual where predictions agree as they do here: across policies,
                  across segmenters, in number, and on a mask or on "no target". Policies that are wrong
                  together agree without being right, which lowers what agreement is worth. It counts as far
                  as no prediction at all sides with the label: one that does clears it, because hitting a
                  wrong label by chance is rare.
    segmenter     What part of the IoU that is usual for labels of this size the segmenter falls short of when
                  it draws from the label's own boxes.

What is usual is a ridge regression, fitted on four fifths of the images and read on the last one, so that a
label has no part in what is expected of it. Both are between 0 and 1, and either suffices: the suspicion is
1 - (1 - predictions)(1 - segmenter). Weak policies are expected little of, so they say little, and the
segmenter decides.
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


@dataclass(frozen=True)
class Suspicion:
    """What a split's evidence comes to; each array is [queries].

    Args:
        expected: usual IoU of the consensus with the label; NaN where there is no consensus.
        expected_redrawn: usual IoU of the segmenter's mask with the label; NaN where there is none.
        by_predictions, by_segmenter: the two kinds of evidence, 0 to 1; 0 where there is none.
        total: both together, 0 to 1.
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
    expected = usual(_agreement_features(evidence), np.array([one.consensus_iou for one in evidence]), images)
    best = np.array([np.nan_to_num(one.ious, nan=0.0).max() for one in evidence])
    by_predictions = np.nan_to_num(expected, nan=0.0) * (1 - best)
    redrawn = np.array([one.redrawn_iou for one in evidence])
    expected_redrawn = usual(_label_features(evidence), redrawn, images)
    lacking = 1 - redrawn / np.maximum(expected_redrawn, 1e-9)
    by_segmenter = np.clip(np.nan_to_num(lacking, nan=0.0), 0.0, 1.0)
    total = 1 - (1 - by_predictions) * (1 - by_segmenter)
    return Suspicion(expected, expected_redrawn, by_predictions, by_segmenter, total)


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
