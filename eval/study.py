"""Arms of a study side by side: figures of each, and paired differences pooled over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.ablation import interval_text
from eval.bootstrap import Bootstrap, Interval, PooledDifference, Ratio, pooled_difference
from eval.figures import number, percent, points
from eval.gain import Part, parts_of
from eval.metrics import STRICT, score_file, shared_queries
from eval.protocols import apply, covered
from eval.protocols.base import parsed
from eval.query_table import QueryTable
from eval.report.charts import bar_chart
from eval.report.html import from_template
from prompter.runs.files import atomic_write
from prompter.runs.tables import markdown_table, text_table

METRICS = ("gIoU", "P@0.5", "box-acc@0.5", "parse-failures", "N-acc", "T-acc")
"""Held-out figures of an arm, protocol `strict`; the first is the one that is compared."""


_INTERVALS = ("95 % images", "95 % seeds, images", "95 % seeds, t")


@dataclass(frozen=True)
class SeedResult:
    """One finished run of an arm.

    Args:
        seed: of the run.
        before, after: its held-out queries by the untrained and by the trained policy.
        completions: sampled, those that were not trained on included; None if not known.
        minutes: at work on training, evaluations left out; None if not known.
    """

    seed: int
    before: QueryTable
    after: QueryTable
    completions: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Change:
    """`eval.bootstrap.PooledDifference` of gIoU, JSON-ready."""

    difference: float | None
    by_seed: tuple[float | None, ...]
    by_image: tuple[float, float] | None
    by_seed_and_image: tuple[float, float] | None
    over_seeds: tuple[float, float] | None


@dataclass(frozen=True)
class Arm:
    """What became of an arm.

    Args:
        name: of the arm.
        seeds: those that are finished.
        metrics: means over the seeds, after training, in [0, 1]; `METRICS`.
        before: gIoU before, likewise.
        from_start: gIoU against each run's own start.
        against: gIoU against the reference arm with the same seeds; None for that arm, and while the two
            share no finished seed.
        parts: what `from_start` is made of: form, refusal, count, localisation (`eval.gain`).
        targeted: localisation over the number of queries with a target, made of these alone; no part.
        both_answered: the mean change of IoU over the queries with a target for which both answers name
            instances, over their own number; no part.
        instances: that an answer names after training, of those that parse; mean over seeds.
        completions, minutes: means over seeds that are known; see `SeedResult`.
    """

    name: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, float | None]
    before: float | None
    from_start: Change
    against: Change | None
    parts: Mapping[str, Change]
    targeted: Change
    both_answered: Change
    instances: float | None
    completions: float | None
    minutes: float | None


def seed_result(
    seed: int, before: Path, after: Path, *, completions: int | None = None, minutes: float | None = None
) -> SeedResult:
    """Read a run's two files of rollouts.

    Raises:
        UserError: if one cannot be read or holds no rollout.
    """
    first, last = (score_file(path, [STRICT]) for path in (before, after))
    return SeedResult(seed, first, last, completions, minutes)


def compare_arms(
    results: Mapping[str, Sequence[SeedResult]], reference: str, bootstrap: Bootstrap | None = None
) -> list[Arm]:
    """Put the arms side by side, in the order given; an arm without a finished run is left out.

    Args:
        results: of each arm its finished runs.
        reference: the arm that the others are compared with.
        bootstrap: settings of the intervals.

    Raises:
        UserError: if two runs share no query.
    """
    arms = []
    base = {one.seed: one for one in results.get(reference, ())}
    for name, runs in results.items():
        if not runs:
            continue
        values = [_values(run.after) for run in runs]
        shared = [(base[run.seed].after, run.after) for run in runs if run.seed in base]
        arms.append(
            Arm(
                name,
                tuple(run.seed for run in runs),
                {metric: _mean([one[metric] for one in values]) for metric in METRICS},
                _mean([_values(run.before)["gIoU"] for run in runs]),
                _change([(run.before, run.after) for run in runs], bootstrap),
                _change(shared, bootstrap) if shared and name != reference else None,
                *_parts([(run.before, run.after) for run in runs], bootstrap),
                _mean([_instances(run.after) for run in runs]),
                _mean([run.completions for run in runs]),
                _mean([run.minutes for run in runs]),
            )
        )
    return arms


def pool_seeds(pairs: Sequence[tuple[Path, Path]], bootstrap: Bootstrap | None = None) -> Arm:
    """What one recipe came to with several seeds, as an arm; its completions and minutes are not known.

    Args:
        pairs: of each seed, its files of rollouts before and after.
        bootstrap: settings of the intervals.

    Raises:
        UserError: if a file cannot be read, or two share no query.
    """
    results = [seed_result(seed, *pair) for seed, pair in enumerate(pairs)]
    return compare_arms({"pooled": results}, "pooled", bootstrap)[0]


def pooled_text(arm: Arm) -> list[str]:
    """The differences of `pool_seeds` as lines of a table."""
    parts = [(part.value, arm.parts[part]) for part in Part]
    rows = [
        ("", "points", *_INTERVALS, "each seed"),
        ("gIoU", *_cells(arm.from_start)),
        *((f"  {name}", *_cells(change)) for name, change in parts),
        ("localisation, of targets", *_cells(arm.targeted)),
        ("where both answered", *_cells(arm.both_answered)),
    ]
    return text_table(rows)


def _change(pairs: Sequence[tuple[QueryTable, QueryTable]], bootstrap: Bootstrap | None) -> Change:
    """gIoU of each pair's second table against its first, pooled."""
    aligned, clusters = _aligned(pairs)
    gious = [tuple(STRICT.metrics(table)["gIoU"] for table in pair) for pair in aligned]
    return _json(pooled_difference([(one[0], one[1]) for one in gious], clusters, bootstrap))


def _parts(
    pairs: Sequence[tuple[QueryTable, QueryTable]], bootstrap: Bootstrap | None
) -> tuple[dict[str, Change], Change, Change]:
    """What `_change` of the same pairs is made of (`eval.gain`), whose four differences add up to it; and
    `Arm.targeted` and `Arm.both_answered`."""
    aligned, clusters = _aligned(pairs)
    moved = [after.scores - before.scores for before, after in aligned]
    parts = [parts_of(before, after) for before, after in aligned]

    def pooled(chosen: Sequence[NDArray[np.bool_]], counted: Sequence[NDArray[np.bool_] | float]) -> Change:
        ratios = [
            (Ratio.of(np.zeros(len(change)), number), Ratio.of(np.where(mine, change, 0.0), number))
            for change, mine, number in zip(moved, chosen, counted, strict=True)
        ]
        return _json(pooled_difference(ratios, clusters, bootstrap))

    found = {str(part): pooled([one[part] for one in parts], [1.0] * len(parts)) for part in Part}
    where = [one[Part.LOCALISATION] for one in parts]
    both = [one[Part.COUNT] | one[Part.LOCALISATION] for one in parts]
    return found, pooled(where, [before.has_target for before, _ in aligned]), pooled(both, both)


def _aligned(
    pairs: Sequence[tuple[QueryTable, QueryTable]],
) -> tuple[list[tuple[QueryTable, QueryTable]], NDArray[np.int64]]:
    """All tables with the queries that count in each, in one order; and their images, int64 [queries].

    One order makes a draw of images the same draw for every seed.
    """
    tables = [covered(STRICT, table) for pair in pairs for table in pair]
    tables = [table.select(table.has_mask) for table in tables]
    first = tables[0]
    for table in tables[1:]:
        first, _ = shared_queries(first, table)
    same = [shared_queries(first, table)[1] for table in tables]
    return list(zip(same[::2], same[1::2], strict=True)), first.images


def _instances(table: QueryTable) -> float | None:
    """Instances that an answer names, on average of those that parse."""
    named = table.named[parsed(table)]
    return float(named.mean()) if len(named) else None


def _json(found: PooledDifference) -> Change:
    drawn = (found.by_image, found.by_seed_and_image, found.over_seeds)
    return Change(found.difference, found.by_seed, *(_pair(one) for one in drawn))


def _values(table: QueryTable) -> dict[str, float | None]:
    return {name: ratio.value() for name, ratio in apply(STRICT, table).items()}


def _pair(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def write_study(out: Path, arms: Sequence[Arm], reference: str, title: str) -> Path:
    """Write `study.json`, `study.md` and `study.html` into `out`; print the table; return the page's path."""
    rows = study_rows(arms)
    note = NOTE.format(reference=reference)
    text = "\n".join([f"# {title}", "", *markdown_table(rows), "", note, ""])
    bars = [(arm.name, arm.metrics["gIoU"], None) for arm in arms if arm.metrics["gIoU"] is not None]
    chart = bar_chart([(name, float(value or 0), limits) for name, value, limits in bars], title="gIoU after")
    page = from_template("grid.html", title=title, note=note, charts=[chart], rows=rows)
    record = {"reference": reference, "arms": [asdict(arm) for arm in arms]}
    contents = {
        "study.json": json.dumps(record, indent=1, ensure_ascii=False) + "\n",
        "study.md": text,
        "study.html": page,
    }
    for name, content in contents.items():
        with atomic_write(out / name) as handle:
            handle.write(content)
    print(text)
    return out / "study.html"


def study_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """The table of a study, its heading first; shares in per cent, differences in points."""
    heading = ["arm", "seeds", "gIoU before", "after"]
    for what in ("from its start", "of it localisation", "of targets", "both answered", "against reference"):
        heading += [what, *_INTERVALS, "each seed"]
    heading += [part for part in Part if part is not Part.LOCALISATION]
    heading += [*METRICS[1:], "instances", "completions", "minutes"]
    rows = [heading]
    for arm in arms:
        rows.append(
            [
                arm.name,
                str(len(arm.seeds)),
                percent(arm.before),
                percent(arm.metrics["gIoU"]),
                *_cells(arm.from_start),
                *_cells(arm.parts[Part.LOCALISATION]),
                *_cells(arm.targeted),
                *_cells(arm.both_answered),
                *_cells(arm.against),
                *(_cells(arm.parts[part])[0] for part in Part if part is not Part.LOCALISATION),
                *(percent(arm.metrics[name]) for name in METRICS[1:]),
                number(arm.instances, 2),
                number(arm.completions, 0),
                number(arm.minutes, 1),
            ]
        )
    return rows


def _cells(change: Change | None) -> list[str]:
    if change is None:
        return [""] * (2 + len(_INTERVALS))
    each = " ".join("-" if one is None else f"{100 * one:+.1f}" for one in change.by_seed)
    return [
        points(change.difference),
        interval_text(change.by_image, "+"),
        interval_text(change.by_seed_and_image, "+"),
        interval_text(change.over_seeds, "+"),
        each,
    ]


NOTE = (
    "Held-out figures after training by protocol strict, in per cent, means over seeds. Differences are of "
    "gIoU, in points, paired by query, averaged over seeds; form, refusal, count and localisation add up to "
    "that from the start. Of targets: localisation over the number of questions with a target, as it is made "
    "of these alone. Both answered: the mean change of IoU where there is a target and both answers name "
    "instances. 95 % images: bootstrap drawing images, for these very seeds; 95 % seeds, images: "
    "drawing seeds, too; 95 % seeds, t: Student's t of the seeds' differences. The reference arm is "
    "{reference}, compared seed by seed. Minutes are those of training, evaluations left out."
)
