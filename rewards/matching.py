"""One-to-one matching of answers and targets (Hungarian algorithm)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def matched_mean(scores: NDArray[np.float64], answers: int, targets: int) -> float:
    """Mean score of the best one-to-one matching; whatever is left over on either side counts 0.

    Args:
        scores: [answers or fewer, targets], each in [0, 1].
        answers, targets: how many there are in all; the larger one divides the sum.

    Returns:
        A number in [0, 1]; 1.0 when there are neither answers nor targets.
    """
    if answers == 0 and targets == 0:
        return 1.0
    if scores.size == 0:
        return 0.0
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return float(scores[rows, columns].sum() / max(answers, targets))
