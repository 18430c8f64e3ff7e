"""Systems side by side on the same questions: figures with intervals, axes, and what training cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from eval.bootstrap import Bootstrap, PooledDifference, Ratio, interval_json, pooled_difference
from eval.metrics import SIZE_TAG, STRICT, rows_by_value, shared_queries
from eval.protocols import apply, covered
from eval.query_table import QueryTable
from eval.study import Arm, SeedResult, compare_arms
from prompter.errors import UserError

BASE = "base"
"""What the checkpoint is called that all systems start from."""

METRICS = ("gIoU", "cIoU", "N-acc", "T-acc", "parse-failures")
"""Figures of a system, protocol `strict`; the first is the one along axes."""

AXES: Mapping[str, str] = {
    "granularity": "semantic, instance or part",
    "multiplicity": "one, several or none",
    "reasoning": "explicit or implicit",
    "length": "short or long",
    SIZE_TAG: "size of the target, of the image",
}
"""Tags along which systems are compared, and what they say."""

_NO_SIZE = ("no target", "unknown")
"""Values of `SIZE_TAG` that are no size."""


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Args:
        minutes: at work on training; None if unknown.
        questions: asked while training, repeats counted.
        completions: sampled while training.
        weights: trained numbers; None if unknown.
        megabytes: on disk, of the policy's folder.
        seconds: of wall time per held-out question, the start of the process counted; None if unknown.
    """

    minutes: float | None
    questions: float
    completions: float
    weights: float | None
    megabytes: float | None
    seconds: float | None


@dataclass(frozen=True)
class SystemAnswers:
    """One finished run of a system: its answers to the held-out questions, and its cost."""

    seed: int
    table: QueryTable
    cost: Cost


@dataclass(frozen=True)
class Figure:
    """A metric, its mean over seeds, in [0, 1], or a difference of two.

    Args:
        value: None where it has none.
        interval: 95 % bootstrap, drawing images, for these very seeds; (low, high). None with one image.
        by_seed: of each seed.
    """

    value: float | None
    interval: tuple[float, float] | None
    by_seed: tuple[float | None, ...]


@dataclass(frozen=True)
class System:
    """What became of a system.

    Args:
        name: of the arm.
        kind: which command trained it.
        equal: what it has as much of as the reference: "time" or "questions"; "" for the untrained base.
        seeds: those that are finished.
        metrics: `METRICS`.
        against: the same, less the reference's with the same seeds, paired by question; None for the
            reference itself, and while the two share no seed.
        cost: means over seeds.
    """

    name: str
    kind: str
    equal: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Figure]
    against: Mapping[str, Figure] | None
    cost: Cost | None


@dataclass(frozen=True)
class AxisValue:
    """Questions with one value of an axis: how many on how many images, and each system's gIoU on them."""

    value: str
    questions: int
    images: int
    systems: Mapping[str, Figure]


@dataclass(frozen=True)
class Axis:
    """An axis with at least two values among the questions."""

    tag: str
    says: str
    values: tuple[AxisValue, ...]


@dataclass(frozen=True)
class SystemsFound:
    """Everything that a page of systems says in figures.

    Args:
        reference: name of the system that the others are compared with.
        questions, images, no_target: that all systems were asked, and how many have no target.
        left_out: questions that are in no figure, since a segmenter failed on them in some run.
        systems, axes: in their order.
        gains: of each trained system what it gained over the untrained checkpoint, and the parts of that;
            empty while that has not been asked.
        remarks: a sentence for each axis along which these questions do not differ.
    """

    reference: str
    questions: int
    images: int
    no_target: int
    left_out: int
    systems: tuple[System, ...]
    gains: tuple[Arm, ...]
    axes: tuple[Axis, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def compare_systems(
    answers: Mapping[str, Sequence[SystemAnswers]],
    reference: str,
    says: Mapping[str, tuple[str, str]],
    base: QueryTable | None = None,
    bootstrap: Bootstrap | None = None,
) -> SystemsFound:
    """Put systems side by side; one without a finished run is left out.

    Args:
        answers: of each system its finished runs.
        reference: the system that the others are compared with.
        says: `System.kind` and `System.equal` of each.
        base: what the untrained checkpoint answers; it stands first, under the name `BASE`.
        bootstrap: settings of the intervals.

    Raises:
        UserError: if there is nothing to compare, or two were asked different questions.
    """
    named: dict[str, list[tuple[int, QueryTable]]] = {} if base is None else {BASE: []}
    for name, runs in answers.items():
        if runs:
            named[name] = [(run.seed, run.table) for run in runs]
    if not any(named.values()):
        raise UserError("no run of this study is finished, so there is nothing to compare")
    if base is not None:
        # It was not trained, so it is the same with each seed that the reference has.
        seeds = [run.seed for run in answers.get(reference, ())] or [0]
        named[BASE] = [(seed, base) for seed in seeds]
    asked = len(next(iter(named.values()))[0][1])
    named = _aligned(named)
    first = next(iter(named.values()))[0][1]
    systems = []
    for name, tables in named.items():
        kind, equal = ("untrained", "") if name == BASE else says[name]
        costs = [run.cost for run in answers.get(name, ())]
        systems.append(
            System(
                name,
                kind,
                equal,
                () if name == BASE else tuple(seed for seed, _ in tables),
                _metrics([table for _, table in tables], bootstrap),
                None if name == reference else _against(named.get(reference, []), tables, bootstrap),
                _mean_cost(costs) if costs else None,
            )
        )
    axes, remarks = _axes(named, first, bootstrap)
    return SystemsFound(
        reference,
        len(first),
        len(np.unique(first.images)),
        int((~first.has_target).sum()),
        asked - len(first),
        tuple(systems),
        () if base is None else _gains(named, reference, bootstrap),
        axes,
        remarks,
    )


def _gains(
    named: Mapping[str, Sequence[tuple[int, QueryTable]]], reference: str, bootstrap: Bootstrap | None
) -> tuple[Arm, ...]:
    untrained = named[BASE][0][1]
    runs = {
        name: [SeedResult(seed, untrained, table) for seed, table in tables]
        for name, tables in named.items()
        if name != BASE
    }
    return tuple(compare_arms(runs, reference, bootstrap))


def _aligned(
    named: Mapping[str, Sequence[tuple[int, QueryTable]]],
) -> dict[str, list[tuple[int, QueryTable]]]:
    """All tables with the questions that count in each, in one order, so that a draw of images is the same
    draw for all of them."""
    asked = [(name, frozenset(table.samples.tolist())) for name, runs in named.items() for _, table in runs]
    for name, questions in asked:
        if questions != asked[0][1]:
            raise UserError(
                f"{asked[0][0]!r} and {name!r} were asked different questions, so they cannot be compared: "
                "remove the evaluation that is not of the study's questions, and run the study again"
            )
    scored = {name: [(seed, _scored(table)) for seed, table in runs] for name, runs in named.items()}
    tables = [table for runs in scored.values() for _, table in runs]
    first = tables[0]
    for table in tables[1:]:
        first, _ = shared_queries(first, table)
    return {
        name: [(seed, shared_queries(first, table)[1]) for seed, table in runs]
        for name, runs in scored.items()
    }


def _scored(table: QueryTable) -> QueryTable:
    table = covered(STRICT, table)
    return table.select(table.has_mask)


def _metrics(tables: Sequence[QueryTable], bootstrap: Bootstrap | None) -> dict[str, Figure]:
    ratios = [apply(STRICT, table) for table in tables]
    images = tables[0].images
    return {name: _figure([one[name] for one in ratios], images, bootstrap) for name in METRICS}


def _against(
    reference: Sequence[tuple[int, QueryTable]],
    tables: Sequence[tuple[int, QueryTable]],
    bootstrap: Bootstrap | None,
) -> dict[str, Figure] | None:
    theirs = dict(reference)
    pairs = [(apply(STRICT, theirs[seed]), apply(STRICT, table)) for seed, table in tables if seed in theirs]
    if not pairs:
        return None
    images = tables[0][1].images
    return {
        name: _json(
            pooled_difference([(one[name], two[name]) for one, two in pairs], images, bootstrap), images
        )
        for name in METRICS
    }


def _figure(ratios: Sequence[Ratio], images: NDArray[np.int64], bootstrap: Bootstrap | None) -> Figure:
    """A metric over seeds: its change from a metric that is 0 wherever it has a value."""
    pairs = [
        (Ratio(np.zeros(len(one.numerator)), one.denominator, one.smoothing, one.undefined), one)
        for one in ratios
    ]
    return _json(pooled_difference(pairs, images, bootstrap), images)


def _json(found: PooledDifference, images: NDArray[np.int64]) -> Figure:
    # Draws of a single image are all alike: they would say that nothing is uncertain.
    limits = interval_json(found.by_image) if len(np.unique(images)) > 1 else None
    return Figure(found.difference, None if limits is None else (limits[0], limits[1]), found.by_seed)


def _axes(
    named: Mapping[str, Sequence[tuple[int, QueryTable]]], first: QueryTable, bootstrap: Bootstrap | None
) -> tuple[tuple[Axis, ...], tuple[str, ...]]:
    """The axes along which the questions differ, and a sentence for each of the others."""
    axes, remarks = [], []
    for tag, says in AXES.items():
        rows = {value: one for value, one in rows_by_value(first, tag).items() if value not in _NO_SIZE}
        if len(rows) < 2:
            only = f"all that say it are {next(iter(rows))}" if rows else "they do not say it"
            remarks.append(f"{tag} ({says}) is left out: these questions do not differ in it, {only}.")
            continue
        values = []
        for value, chosen in rows.items():
            figures = {
                name: _figure(
                    [apply(STRICT, table.select(chosen))["gIoU"] for _, table in tables],
                    first.images[chosen],
                    bootstrap,
                )
                for name, tables in named.items()
            }
            images = len(np.unique(first.images[chosen]))
            values.append(AxisValue(value, int(chosen.sum()), images, figures))
        axes.append(Axis(tag, says, tuple(values)))
    return tuple(axes), tuple(remarks)


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    def mean(get: Callable[[Cost], float | None]) -> float | None:
        known = [value for value in map(get, costs) if value is not None]
        return float(np.mean(known)) if known else None

    return Cost(
        mean(lambda one: one.minutes),
        mean(lambda one: one.questions) or 0.0,
        mean(lambda one: one.completions) or 0.0,
        mean(lambda one: one.weights),
        mean(lambda one: one.megabytes),
        mean(lambda one: one.seconds),
    )
