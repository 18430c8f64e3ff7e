"""The page to look at after a run: `report.html`, self-contained.

Learning curve, before/after with intervals, breakdowns, and the same held-out queries before and
after: image, query, prompts, predicted and true mask. Here is what the page says, as text;
`templates/run.html.j2` is how it is laid out, and escapes all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from eval.bootstrap import Bootstrap, Interval
from eval.comparison import DRAWN, Comparison, compare_tables, remarks
from eval.figures import percent, points, points_between
from eval.gain import Part
from eval.mask_views import View
from eval.metrics import STRICT, summarise
from eval.protocols import PROTOCOLS
from eval.query_table import Outcome, QueryTable, build_table
from eval.report.charts import Series, bar_chart, line_chart, smoothed
from eval.report.example_pictures import COLOURS, case_pictures, pick_cases
from eval.report.gain_section import gain_section
from eval.report.html import from_template
from eval.report.looks_page import looks_sections
from eval.report.other_sets import other_sets
from eval.report.timeline import draw_timeline
from eval.runner import Samples
from eval.viewer.groups import Shown
from eval.viewer.page import config_changes, make_viewer
from prompter.runs.memory import give_back_memory
from prompter.runs.run_folder import RunFolder
from rewards.replay import read_rollouts

_TRAIN_CHARTS = (
    ("reward_std", "Spread of the reward within groups"),
    ("parse_failure_rate", "Parse failures"),
    ("frac_reward_zero_std", "Groups without spread"),
    ("completion_tokens", "Completion length, tokens"),
    ("completions/mean_length", "Completion length, tokens"),
    ("empty_answers", 'Answers that say "no target"'),
    ("refusals", "Questions with a target answered with nothing"),
    ("drift", "Distance from the first policy, nats a token"),
    ("instances_per_answer", "Instances per answer"),
    ("sampling/sampling_logp_difference/mean", "Sampler against trainer, |log-probability gap|"),
    ("entropy", "Entropy of the policy"),
    ("kl", "KL to the reference"),
    ("loss", "Loss"),
    ("grad_norm", "Gradient norm"),
)


@dataclass(frozen=True)
class ReportInput:
    """What a report is made of; everything but `after` is optional.

    Args:
        title: heading.
        after: rollouts of the run to show, one line per query.
        before: rollouts of the same queries before training.
        samples: where the images come from, in the order of `after`; without them, and for
            queries they do not hold, masks are drawn on grey.
        metrics: lines of `metrics.jsonl`.
        timeline: lines of `timeline.jsonl`.
        references: name -> rollouts of the same queries to compare with, such as the floor
            (centre point) and the ceiling (oracle boxes).
        results: executor -> summary, as `eval.results.rescore` returns it, to print all protocols.
        config: the run's resolved configuration.
        others: name -> rollouts of a further set before and after training.
        note: one paragraph under the heading.
        alarms: what went wrong while training, a sentence each.
        rollouts: what can be leafed through; without it the page holds no script.
        beside: another run's name and configuration, to say what differs from `config`.
    """

    title: str
    after: Path
    before: Path | None = None
    samples: Samples | None = field(default=None, repr=False)
    metrics: Sequence[Mapping[str, Any]] = ()
    timeline: Sequence[Mapping[str, Any]] = ()
    references: Mapping[str, Path] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    note: str = ""
    alarms: Sequence[str] = ()
    rollouts: Shown | None = field(default=None, repr=False)
    beside: tuple[str, Mapping[str, Any]] | None = None


def write_report(folder: RunFolder, given: ReportInput, bootstrap: Bootstrap | None = None) -> Path:
    """Write `report.html` of a run; return its path."""
    return folder.write_report(render_report(given, bootstrap))


def render_report(given: ReportInput, bootstrap: Bootstrap | None = None) -> str:
    """Make the page.

    Raises:
        UserError: if a rollout file cannot be read, or before and after share no query.
    """
    after = build_table(read_rollouts(given.after), [View.NATIVE])
    before = None if given.before is None else build_table(read_rollouts(given.before), [View.NATIVE])
    found = None if before is None else compare_tables(before, after, bootstrap)
    values = {
        "tiles": _tiles(after, bootstrap) if found is None else _change_tiles(found),
        "failures": int((after.outcomes == Outcome.EXECUTOR_FAILED).sum()),
        "queries": len(after),
        "changes": [] if found is None else _changes(found),
        "drawn": [] if found is None else [DRAWN[by] for by in found.drawn],
        "remarks": [] if found is None else remarks(found),
        "gain": None if found is None else gain_section(found),
        "others": other_sets(given.others, bootstrap),
        "references": _references(given, before, after, bootstrap),
        **_curves(given.metrics),
        "timeline": draw_timeline(given.timeline, given.metrics),
        "protocols": _protocols(given.results),
        "quirks": _quirks(given.results),
        "looks": looks_sections(given.results),
        "breakdowns": _breakdowns(before, after),
    }
    picked = pick_cases(before, after)
    del before, after  # pictures take memory too, and need the tables no more
    give_back_memory()
    config = yaml.safe_dump(dict(given.config), sort_keys=False, allow_unicode=True) if given.config else ""
    groups = case_pictures(given.samples, given.before, given.after, picked)
    other = () if given.beside is None else (given.beside,)
    return from_template(
        "run.html",
        title=given.title,
        note=given.note,
        alarms=given.alarms,
        config=config,
        config_other="" if given.beside is None else given.beside[0],
        config_changes=config_changes({"this run": given.config, **dict(other)}),
        viewer=make_viewer(given.rollouts),
        groups=groups,
        colours=COLOURS,
        **values,
    )


@dataclass(frozen=True)
class Tile:
    """A large figure with its label; `tone` is "good", "bad" or empty."""

    value: str
    label: str
    tone: str = ""


def _tiles(after: QueryTable, bootstrap: Bootstrap | None) -> list[Tile]:
    summary = summarise(after, [STRICT], bootstrap)
    metrics = summary["protocols"]["strict"]["metrics"]
    return [
        *(
            Tile(
                percent(metrics[name]["value"]),
                f"{name}, per cent; 95 %: {_limits(metrics[name]['by_image'])}",
            )
            for name in ("gIoU", "cIoU")
        ),
        Tile(percent(metrics["P@0.5"]["value"]), "per cent of the queries reach an IoU of 0.5"),
        Tile(percent(metrics["parse-failures"]["value"]), "per cent of the completions do not parse"),
        Tile(str(summary["queries"]), f"queries on {summary['images']} images"),
    ]


def _limits(interval: Sequence[float] | None, missing: str = "-") -> str:
    return missing if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _change_tiles(found: Comparison) -> list[Tile]:
    main, failures = found.metrics["gIoU"], found.metrics["parse-failures"]
    return [
        Tile(f"{percent(main.before)} → {percent(main.after)}", "gIoU before → after"),
        Tile(
            points(main.difference),
            f"points of gIoU, 95 % {points_between(main.by_image)}",
            _tone(main.by_image),
        ),
        *_part_tiles(found),
        Tile(
            f"{percent(failures.before)} → {percent(failures.after)}",
            "completions that do not parse, per cent",
        ),
        Tile(str(found.queries), f"held-out queries on {found.images} images"),
    ]


def _part_tiles(found: Comparison) -> list[Tile]:
    """What part of the gain is localisation, and what the other parts are."""
    if found.gain is None:
        return []
    rounded = found.gain.rounded(points(found.metrics["gIoU"].difference), decimals=2)
    where = found.gain.parts[Part.LOCALISATION].by_image
    others = ", ".join(f"{part} {text}" for part, text in rounded.items() if part is not Part.LOCALISATION)
    return [
        Tile(
            rounded[Part.LOCALISATION],
            f"of them by localisation, 95 % {points_between(where)}; {others}",
            _tone(where),
        )
    ]


def _changes(found: Comparison) -> list[dict[str, Any]]:
    """A row per metric that has a value."""
    rows = []
    for name, change in found.metrics.items():
        if change.before is None and change.after is None:
            continue
        tone = _tone(change.by_image)
        if name == "parse-failures":
            tone = {"good": "bad", "bad": "good"}.get(tone, "")
        rows.append(
            {
                "name": name,
                "before": percent(change.before),
                "after": percent(change.after),
                "difference": points(change.difference),
                "tone": tone,
                "limits": [points_between(getattr(change, by)) for by in found.drawn],
            }
        )
    return rows


def _tone(interval: Interval | None) -> str:
    """ "good" or "bad" when an interval of a difference leaves 0 out."""
    if interval is None or interval.low <= 0 <= interval.high:
        return ""
    return "good" if interval.low > 0 else "bad"


def _references(
    given: ReportInput, before: QueryTable | None, after: QueryTable, bootstrap: Bootstrap | None
) -> Markup:
    if not given.references:
        return Markup()
    tables = {
        name: build_table(read_rollouts(path), [View.NATIVE]) for name, path in given.references.items()
    }
    if before is not None:
        tables["before"] = before
    tables["after"] = after
    bars = []
    for name, one in tables.items():
        metric = summarise(one, [STRICT], bootstrap)["protocols"]["strict"]["metrics"]["gIoU"]
        if metric["value"] is not None:
            interval = metric["by_image"]
            bars.append((name, metric["value"], None if interval is None else (interval[0], interval[1])))
    bars.sort(key=lambda bar: bar[1])
    return bar_chart(bars, title="gIoU, per cent, with 95 % intervals (drawing images)")


def _curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The learning curve, and small charts of what else was logged."""
    train = [line for line in metrics if line["kind"] == "train"]
    evaluations = [line for line in metrics if line["kind"] == "eval"]
    rewards = _points_of(train, "reward")
    window = max(1, len(rewards) // 20)
    running = smoothed([y for _, y in rewards], window)
    series = [
        Series("reward per step", rewards, "faint", "#2563eb"),
        Series(
            f"running mean of {window}",
            [(x, y) for (x, _), y in zip(rewards, running, strict=True)],
            "line",
            "#2563eb",
        ),
        _held_out(evaluations),
    ]
    main = line_chart(series, title="Reward while training, and gIoU on held-out queries")
    small: dict[str, Markup] = {}
    for key, title in _TRAIN_CHARTS:
        if not small.get(title):
            small[title] = _small_chart(title, [Series(title, _points_of(train, key))])
    small["phases"] = _small_chart("Seconds per phase", _phases(train))
    return {"curve": main, "small_curves": [chart for chart in small.values() if chart]}


def _held_out(evaluations: Sequence[Mapping[str, Any]]) -> Series:
    """The held-out curve, by step: a run that was resumed, or went back to its best, may log out of order."""
    ordered = sorted(evaluations, key=lambda line: line["step"])
    found = [line.get("gIoU_interval") for line in ordered if "gIoU" in line]
    limits = [None if one is None else (float(one[0]), float(one[1])) for one in found]
    return Series("held-out gIoU", _points_of(ordered, "gIoU"), "marks", "#ea580c", limits)


def _small_chart(title: str, series: Sequence[Series]) -> Markup:
    return line_chart(series, title=title, width=480, height=210)


def _phases(train: Sequence[Mapping[str, Any]]) -> list[Series]:
    """A line per phase of a training step, from the lines' `seconds`."""
    lines = [
        {"step": line["step"], **line["seconds"]} for line in train if isinstance(line.get("seconds"), dict)
    ]
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    return [Series(name, _points_of(lines, name)) for name in names]


def _points_of(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float | None]]:
    points: list[tuple[float, float | None]] = []
    for line in lines:
        if key in line:
            value = line[key]
            usable = isinstance(value, (int, float)) and not isinstance(value, bool)
            points.append((float(line["step"]), float(value) if usable else None))
    return points


def _protocols(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table per executor: a row per metric, a column per protocol, cells of (value, its interval)."""
    tables = []
    for executor, summary in results.items():
        protocols = summary["protocols"]
        names = dict.fromkeys(name for one in protocols.values() for name in one["metrics"])
        rows = []
        for name in names:
            cells = [_value_and_interval(one["metrics"].get(name)) for one in protocols.values()]
            if any(cell not in (("", ""), ("-", "")) for cell in cells):
                rows.append((name, cells))
        tables.append({"executor": executor, "names": list(protocols), "rows": rows})
        if premises := summary.get("premises"):
            rows = [(name, [_value_and_interval(one)]) for name, one in premises["metrics"].items()]
            tables.append({"executor": executor, "names": ["false premises"], "rows": rows})
    return tables


def _value_and_interval(metric: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("", "") if metric is None else (percent(metric["value"]), _limits(metric["by_image"], ""))


def _quirks(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the protocols do unlike others: (protocol, one sentence)."""
    if not results:
        return []
    names = dict.fromkeys(name for summary in results.values() for name in summary["protocols"])
    # A protocol of the user's own is known here by its name only; a page imports nobody's code.
    return [(name, quirk) for name in names if name in PROTOCOLS for quirk in PROTOCOLS[name].quirks]


def _breakdowns(before: QueryTable | None, after: QueryTable) -> list[list[list[str]]]:
    """A table per tag that has several values, and not too many."""
    now = summarise(after, [], Bootstrap(rounds=0))["breakdown"]
    then = {} if before is None else summarise(before, [], Bootstrap(rounds=0))["breakdown"]
    tables = []
    for tag, values in now.items():
        if not 2 <= len(values) <= 40:
            continue
        heading = ["gIoU before", "after"] if then else ["gIoU"]
        rows = [[tag, "queries", *heading, "cIoU", "P@0.5"]]
        for value, metrics in values.items():
            earlier = [percent(then.get(tag, {}).get(value, {}).get("gIoU"))] if then else []
            figures = [percent(metrics[name]) for name in ("gIoU", "cIoU", "P@0.5")]
            rows.append([value, str(metrics["queries"]), *earlier, *figures])
        tables.append(rows)
    return tables
