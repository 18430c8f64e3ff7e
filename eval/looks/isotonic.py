"""Isotonic regression: the non-decreasing function of one figure that is nearest to what was observed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing, piecewise linear function.

    Args:
        x: knots, float64 [knots], increasing; at least one.
        y: values there, float64 [knots], non-decreasing. Between knots it is linear, beyond them constant.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def __call__(self, values: ArrayLike) -> NDArray[np.float64]:
        """The function at `values`, float64 of their shape."""
        return np.asarray(np.interp(np.asarray(values, dtype=np.float64), self.x, self.y))


def fit_isotonic(x: ArrayLike, y: ArrayLike) -> Isotonic:
    """Fit by least squares with the pool-adjacent-violators algorithm.

    Points of equal `x` count as one, with their mean. A block of pooled points keeps its first and its last
    `x` as knots. Source: Barlow, Bartholomew, Bremner and Brunk, Statistical Inference under Order
    Restrictions, 1972, section 1.2.

    Args:
        x, y: float [points], finite; at least one point.

    Raises:
        ValueError: if they differ in length, hold no point, or a number that is not finite.
    """
    inputs, wanted = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if inputs.shape != wanted.shape or inputs.ndim != 1 or not inputs.size:
        raise ValueError(
            f"isotonic regression needs as many x as y, and one at least; got {inputs.shape}, {wanted.shape}"
        )
    if not (np.isfinite(inputs).all() and np.isfinite(wanted).all()):
        raise ValueError("isotonic regression needs finite numbers")
    knots, places = np.unique(inputs, return_inverse=True)
    weights = np.bincount(places).astype(np.float64)
    means = np.bincount(places, weights=wanted) / weights
    blocks: list[tuple[float, float, int]] = []  # mean, weight, first point
    for place, (mean, weight) in enumerate(zip(means, weights, strict=True)):
        first = place
        while blocks and blocks[-1][0] >= mean:
            earlier_mean, earlier_weight, first = blocks.pop()
            joined = earlier_weight + weight
            mean, weight = (earlier_mean * earlier_weight + mean * weight) / joined, joined
        blocks.append((float(mean), float(weight), first))
    ends = [first - 1 for _, _, first in blocks[1:]] + [len(knots) - 1]
    pairs = [
        (knots[place], mean)
        for (mean, _, first), last in zip(blocks, ends, strict=True)
        for place in dict.fromkeys((first, last))
    ]
    xs, ys = zip(*pairs, strict=True)
    return Isotonic(np.array(xs), np.array(ys))
