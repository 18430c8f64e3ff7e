"""Metrics as ratios of sums, and what that buys: one bootstrap for all of them.

gIoU is the sum of IoUs over the number of queries, cIoU the sum of intersections over the sum of
unions, P@t the number of hits over the number of queries, and so on. Written as two columns, one
number per query, every metric can be resampled, broken down and compared in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Float = NDArray[np.float64]

_RESAMPLED = 250_000
"""Draws held at one time, 8 bytes each, whatever the number of queries."""


@dataclass(frozen=True)
class Ratio:
    """A metric: sum of `numerator` over (sum of `denominator` + `smoothing`).

    Args:
        numerator, denominator: float64 [queries].
        smoothing: constant added to the summed denominator, where a reference code does so.
        undefined: the value when the denominator is 0; None means that there is no value.
    """

    numerator: Float
    denominator: Float
    smoothing: float = 0.0
    undefined: float | None = None

    @classmethod
    def of(
        cls,
        numerator: ArrayLike,
        denominator: ArrayLike,
        *,
        smoothing: float = 0.0,
        undefined: float | None = None,
    ) -> Ratio:
        """Make a ratio from any arrays; a scalar denominator counts the same for every query."""
        top = np.asarray(numerator, dtype=np.float64)
        bottom = np.broadcast_to(np.asarray(denominator, dtype=np.float64), top.shape)
        return cls(top, bottom, smoothing, undefined)

    def value(self) -> float | None:
        """The metric over all queries."""
        bottom = float(self.denominator.sum()) + self.smoothing
        return self.undefined if bottom == 0 else float(self.numerator.sum()) / bottom

    def values(self, weights: Float) -> Float:
        """The metric under resamples.

        Args:
            weights: how often each query was drawn, float64 [resamples, queries].

        Returns:
            float64 [resamples]; NaN where the metric has no value.
        """
        bottom = weights @ self.denominator + self.smoothing
        fill = np.nan if self.undefined is None else self.undefined
        result = np.full(len(weights), fill)
        np.divide(weights @ self.numerator, bottom, out=result, where=bottom != 0)
        return result


@dataclass(frozen=True)
class Interval:
    """A bootstrap percentile interval."""

    low: float
    high: float

    def to_json(self) -> list[float]:
        """Return [low, high]."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap.

    Args:
        rounds: number of resamples.
        level: share of them inside the interval.
        seed: makes the intervals reproducible.
    """

    rounds: int = 1000
    level: float = 0.95
    seed: int = 0


def intervals(
    ratios: Mapping[str, Ratio], clusters: NDArray[np.int64] | None = None, settings: Bootstrap | None = None
) -> dict[str, Interval | None]:
    """Bootstrap percentile intervals of metrics over the same queries.

    Args:
        ratios: metrics by name, all over the same queries.
        clusters: cluster of each query, int64 [queries]; whole clusters are drawn. Queries on one
            image are not independent, so drawing images gives the honest, usually wider interval.
            None draws single queries.
        settings: see `Bootstrap`.

    Returns:
        An interval by name; None where a metric has no value.
    """
    settings = settings or Bootstrap()
    if not ratios:
        return {}
    grouped = {name: _grouped(ratio, clusters) for name, ratio in ratios.items()}
    units = len(next(iter(grouped.values())).numerator)
    found: dict[str, list[Float]] = {name: [] for name in grouped}
    for weights in _resamples(units, settings):
        for name, ratio in grouped.items():
            found[name].append(ratio.values(weights))
    return {name: _percentiles(parts, settings) for name, parts in found.items()}


@dataclass(frozen=True)
class Difference:
    """A paired comparison of one metric, `after` minus `before`, on the same queries.

    Args:
        before, after, difference: the metric and its change.
        by_query, by_image, by_tile: bootstrap intervals of the difference, drawing single queries, whole
            images or whole tiles; both runs see the same draw. `by_tile` is None without tiles, too.
    """

    before: float | None
    after: float | None
    difference: float | None
    by_query: Interval | None
    by_image: Interval | None
    by_tile: Interval | None = None

    def to_json(self) -> dict[str, float | list[float] | None]:
        """Return a JSON-ready dict; `by_tile` is left out where there is none."""
        data: dict[str, float | list[float] | None] = {
            "before": self.before,
            "after": self.after,
            "difference": self.difference,
            "by_query": interval_json(self.by_query),
            "by_image": interval_json(self.by_image),
        }
        return data if self.by_tile is None else {**data, "by_tile": interval_json(self.by_tile)}


def interval_json(interval: Interval | None) -> list[float] | None:
    """Return [low, high], or None."""
    return None if interval is None else interval.to_json()


def paired_difference(
    before: Ratio,
    after: Ratio,
    images: NDArray[np.int64],
    settings: Bootstrap | None = None,
    tiles: NDArray[np.int64] | None = None,
) -> Difference:
    """Compare a metric of two runs query by query.

    Args:
        before, after: the metric over the same queries in the same order.
        images: image of each query, int64 [queries].
        settings: see `Bootstrap`.
        tiles: tile of each query, int64 [queries]; None draws none.

    Raises:
        ValueError: if the two have different numbers of queries.
    """
    settings = settings or Bootstrap()
    if len(before.numerator) != len(after.numerator):
        raise ValueError(
            f"a paired comparison needs the same queries, "
            f"but got {len(before.numerator)} and {len(after.numerator)}"
        )
    found: dict[str, Interval | None] = {"tile": None}
    drawn = {"query": None, "image": images} | ({} if tiles is None else {"tile": tiles})
    for name, clusters in drawn.items():
        first, second = _grouped(before, clusters), _grouped(after, clusters)
        parts = [
            second.values(weights) - first.values(weights)
            for weights in _resamples(len(first.numerator), settings)
        ]
        found[name] = _percentiles(parts, settings)
    values = (before.value(), after.value())
    change = None if values[0] is None or values[1] is None else values[1] - values[0]
    return Difference(values[0], values[1], change, found["query"], found["image"], found["tile"])


@dataclass(frozen=True)
class PooledDifference:
    """A metric's change, `after` minus `before`, of a recipe that was trained with several seeds.

    A training run is one draw: another seed gives another policy. So there are two sources of chance, the
    images and the seeds, and they cross: every seed is seen on every image.

    Args:
        difference: mean of the seeds' changes; None if one has no value.
        by_seed: the change of each seed, in the order given.
        by_image: interval of that mean for these very seeds: whole images are drawn, the same ones for all
            seeds and both sides.
        by_seed_and_image: in each round seeds are drawn as well as images, with replacement and independently
            (the pigeonhole bootstrap: A. B. Owen, arXiv:0712.1111). None with one seed. Of S seeds the draws
            show (S - 1) / S of the variance among seeds, which is not corrected.
        over_seeds: Student's t interval of the mean over seeds for these very images, with S - 1 degrees of
            freedom: what the few seeds alone tell. None with one seed, or if one has no value.
    """

    difference: float | None
    by_seed: tuple[float | None, ...]
    by_image: Interval | None
    by_seed_and_image: Interval | None
    over_seeds: Interval | None


def pooled_difference(
    pairs: Sequence[tuple[Ratio, Ratio]], images: NDArray[np.int64], settings: Bootstrap | None = None
) -> PooledDifference:
    """Compare a metric before and after, over several seeds.

    Args:
        pairs: of each seed the metric before and after, all over the same queries in the same order.
        images: image of each query, int64 [queries].
        settings: see `Bootstrap`.

    Raises:
        ValueError: if there is no seed, or the numbers of queries differ.
    """
    settings = settings or Bootstrap()
    if not pairs or any(len(one.numerator) != len(images) for pair in pairs for one in pair):
        raise ValueError("a pooled difference needs at least one pair, and all over the same queries")
    values = [(before.value(), after.value()) for before, after in pairs]
    by_seed = tuple(None if None in pair else pair[1] - pair[0] for pair in values)  # type: ignore[operator]
    known = np.array([one for one in by_seed if one is not None])
    whole = len(known) == len(pairs)
    clustered = [(_grouped(before, images), _grouped(after, images)) for before, after in pairs]
    rng = np.random.default_rng([settings.seed, len(pairs)])
    fixed: list[Float] = []
    drawn: list[Float] = []
    for weights in _resamples(len(clustered[0][0].numerator), settings):
        changes = np.stack([after.values(weights) - before.values(weights) for before, after in clustered])
        fixed.append(changes.mean(axis=0))
        chosen = rng.integers(0, len(pairs), changes.shape)
        drawn.append(np.take_along_axis(changes, chosen, axis=0).mean(axis=0))
    return PooledDifference(
        float(known.mean()) if whole else None,
        by_seed,
        _percentiles(fixed, settings),
        _percentiles(drawn, settings) if len(pairs) > 1 else None,
        _student(known, settings.level) if whole and len(known) > 1 else None,
    )


def _student(values: Float, level: float) -> Interval:
    """Student's t interval of the mean of at least two independent values."""
    reach = float(stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(float(values.mean()) - reach, float(values.mean()) + reach)


def student_interval(
    before: Ratio, after: Ratio, clusters: NDArray[np.int64], level: float = 0.95
) -> Interval | None:
    """Student's t interval of a paired difference with clusters as units, for where they are few.

    Resamples of three clusters take ten values, and their percentiles are too near each other. This is the
    delta method's variance over clusters with the factor G / (G - 1) and t quantiles of G - 1 degrees of
    freedom, the least that is advised for few clusters (Cameron and Miller, A Practitioner's Guide to
    Cluster-Robust Inference, Journal of Human Resources 2015, section VI).

    Args:
        before, after: the metric over the same queries in the same order.
        clusters: cluster of each query, int64 [queries].
        level: of the interval.

    Returns:
        None with fewer than two clusters, or where the metric has no value.
    """
    first, second = _grouped(before, clusters), _grouped(after, clusters)
    units = len(first.numerator)
    values = (first.value(), second.value())
    if units < 2 or values[0] is None or values[1] is None:
        return None
    pull = np.zeros(units)  # how far each cluster moves the difference
    for one, value, sign in ((first, values[0], -1), (second, values[1], 1)):
        whole = float(one.denominator.sum()) + one.smoothing
        if whole:
            pull += sign * (one.numerator - value * one.denominator) / whole
    error = float(np.sqrt(units / (units - 1) * (pull**2).sum()))
    reach = float(stdtrit(units - 1, (1 + level) / 2)) * error
    change = values[1] - values[0]
    return Interval(change - reach, change + reach)


def _grouped(ratio: Ratio, clusters: NDArray[np.int64] | None) -> Ratio:
    """Add up the queries of each cluster."""
    if clusters is None:
        return ratio
    _, codes = np.unique(clusters, return_inverse=True)
    return Ratio(
        np.asarray(np.bincount(codes, weights=ratio.numerator), dtype=np.float64),
        np.asarray(np.bincount(codes, weights=ratio.denominator), dtype=np.float64),
        ratio.smoothing,
        ratio.undefined,
    )


def _resamples(units: int, settings: Bootstrap) -> Iterator[Float]:
    """Yield blocks of resamples, float64 [block, units]: how often each unit was drawn.

    Draws depend on nothing but `units` and the settings, so metrics and runs are resampled alike.
    """
    if units == 0:
        return
    generator = np.random.default_rng(settings.seed)
    block = max(1, _RESAMPLED // units)
    for start in range(0, settings.rounds, block):
        weights = np.empty((min(block, settings.rounds - start), units))
        for row in weights:
            row[:] = np.bincount(generator.integers(0, units, units), minlength=units)
        yield weights


def _percentiles(parts: list[Float], settings: Bootstrap) -> Interval | None:
    values = np.concatenate(parts) if parts else np.empty(0)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return None
    tail = (1 - settings.level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))
