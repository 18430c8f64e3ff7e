"""The page to look at after a run: `report.html`, self-contained.

Learning curve, before/after with intervals, breakdowns, and the same held-out queries before and
after: image, query, prompts, predicted and true mask. All text of models and datasets is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from eval.bootstrap import Bootstrap, Difference, Interval
from eval.mask_views import View
from eval.metrics import STRICT, compare, shared_queries, summarise
from eval.protocols import PROTOCOLS
from eval.query_table import Outcome, QueryTable, build_table
from eval.report.charts import Series, bar_chart, line_chart, smoothed
from eval.report.example_pictures import case_pictures, pick_cases
from eval.report.html import page, table, tile
from eval.results import percent
from eval.runner import Samples
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
        references: name -> rollouts of the same queries to compare with, such as the floor
            (centre point) and the ceiling (oracle boxes).
        results: executor -> summary, as `eval.results.rescore` returns it, to print all protocols.
        config: the run's resolved configuration.
        note: one paragraph under the heading.
    """

    title: str
    after: Path
    before: Path | None = None
    samples: Samples | None = field(default=None, repr=False)
    metrics: Sequence[Mapping[str, Any]] = ()
    references: Mapping[str, Path] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


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
    body = [f"<h1>{escape(given.title)}</h1>"]
    if given.note:
        body.append(f'<p class="soft">{escape(given.note)}</p>')
    if before is None:
        body += _tiles_alone(after, bootstrap)
    else:
        body += _before_after(before, after, bootstrap)
    body += _references(given, before, after, bootstrap)
    body += _curves(given.metrics)
    body += _all_protocols(given.results)
    body += _breakdowns(before, after)
    picked = pick_cases(before, after)
    del before, after  # pictures take memory too, and need the tables no more
    give_back_memory()
    body += case_pictures(given.samples, given.before, given.after, picked)
    if given.config:
        text = yaml.safe_dump(dict(given.config), sort_keys=False, allow_unicode=True)
        body.append(
            f"<h2>Configuration</h2><details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"
        )
    return page(given.title, body)


def _tiles_alone(after: QueryTable, bootstrap: Bootstrap | None) -> list[str]:
    summary = summarise(after, [STRICT], bootstrap)
    metrics = summary["protocols"]["strict"]["metrics"]
    tiles = [
        tile(
            percent(metrics["gIoU"]["value"]), f"gIoU, per cent; 95 %: {_limits(metrics['gIoU']['by_image'])}"
        ),
        tile(
            percent(metrics["cIoU"]["value"]), f"cIoU, per cent; 95 %: {_limits(metrics['cIoU']['by_image'])}"
        ),
        tile(percent(metrics["P@0.5"]["value"]), "per cent of the queries reach an IoU of 0.5"),
        tile(percent(metrics["parse-failures"]["value"]), "per cent of the completions do not parse"),
        tile(str(summary["queries"]), f"queries on {summary['images']} images"),
    ]
    return [f'<div class="tiles">{"".join(tiles)}</div>', _failures(after)]


def _limits(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _failures(after: QueryTable) -> str:
    missing = int((after.outcomes == Outcome.EXECUTOR_FAILED).sum())
    if not missing:
        return ""
    return (
        f'<p class="bad">Incomplete: the segmenter failed on {missing} of {len(after)} queries, '
        f"which are left out of every figure.</p>"
    )


def _before_after(before: QueryTable, after: QueryTable, bootstrap: Bootstrap | None) -> list[str]:
    found = compare(before, after, bootstrap=bootstrap)
    shared, _ = shared_queries(before.answered(), after.answered())
    main = found["gIoU"]
    failures = found["parse-failures"]
    tiles = [
        tile(f"{percent(main.before)} → {percent(main.after)}", "gIoU before → after"),
        tile(
            _points(main.difference),
            f"points of gIoU, 95 % {_signed(main.by_image)}",
            _tone(main.by_image),
        ),
        tile(
            f"{percent(failures.before)} → {percent(failures.after)}",
            "completions that do not parse, per cent",
        ),
        tile(str(len(shared)), f"held-out queries on {len(np.unique(shared.images))} images"),
    ]
    rows = [["", "before", "after", "difference", "95 %, drawing images", "95 %, drawing queries"]]
    for name, difference in found.items():
        if difference.before is None and difference.after is None:
            continue
        rows.append(_difference_row(name, difference))
    return [
        f'<div class="tiles">{"".join(tiles)}</div>',
        _failures(after),
        "<h2>Before and after</h2>",
        '<p class="soft">The same held-out queries, greedy decoding, protocol <code>strict</code>, per cent. '
        "Intervals are of the paired difference: bootstrap, both runs resampled alike, drawing whole images "
        "(queries on one image are not independent) and single queries.</p>",
        f'<div class="panel">{table(rows)}</div>',
    ]


def _difference_row(name: str, difference: Difference) -> list[str]:
    tone = _tone(difference.by_image)
    if name == "parse-failures":
        tone = {"good": "bad", "bad": "good"}.get(tone, "")
    return [
        escape(name),
        percent(difference.before),
        percent(difference.after),
        f'<b class="{tone}">{_points(difference.difference)}</b>',
        _signed(difference.by_image),
        _signed(difference.by_query),
    ]


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _signed(interval: Interval | None) -> str:
    return "-" if interval is None else f"{_points(interval.low)} to {_points(interval.high)}"


def _tone(interval: Interval | None) -> str:
    """ "good" or "bad" when an interval of a difference leaves 0 out."""
    if interval is None or interval.low <= 0 <= interval.high:
        return ""
    return "good" if interval.low > 0 else "bad"


def _references(
    given: ReportInput, before: QueryTable | None, after: QueryTable, bootstrap: Bootstrap | None
) -> list[str]:
    if not given.references:
        return []
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
    chart = bar_chart(bars, title="gIoU, per cent, with 95 % intervals (drawing images)")
    return ["<h2>Between floor and ceiling</h2>", f'<div class="panel">{chart}</div>']


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
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
        Series("held-out gIoU", _points_of(evaluations, "gIoU"), "marks", "#ea580c"),
    ]
    main = line_chart(series, title="Reward while training, and gIoU on held-out queries")
    if not main:
        return []
    small = []
    drawn: set[str] = set()
    for key, title in _TRAIN_CHARTS:
        if title in drawn:
            continue
        chart = line_chart([Series(title, _points_of(train, key))], title=title, width=480, height=210)
        if chart:
            drawn.add(title)
            small.append(f'<div class="panel">{chart}</div>')
    phases = line_chart(_phases(train), title="Seconds per phase", width=480, height=210)
    if phases:
        small.append(f'<div class="panel">{phases}</div>')
    body = ["<h2>Learning curve</h2>", f'<div class="panel">{main}</div>']
    if small:
        body.append(f'<div class="grid2">{"".join(small)}</div>')
    return body


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


def _all_protocols(results: Mapping[str, Any]) -> list[str]:
    body = []
    for executor, summary in results.items():
        protocols = summary["protocols"]
        names = list(dict.fromkeys(name for one in protocols.values() for name in one["metrics"]))
        rows = [["", *(escape(name) for name in protocols)]]
        for name in names:
            cells = [
                _value_over_interval(one["metrics"][name]) if name in one["metrics"] else ""
                for one in protocols.values()
            ]
            if any(cell not in ("", "-") for cell in cells):
                rows.append([escape(name), *cells])
        body.append(f'<div class="panel narrow"><b>{escape(executor)}</b>{table(rows)}</div>')
    if not body:
        return []
    quirks = []
    for name in dict.fromkeys(name for s in results.values() for name in s["protocols"]):
        # A protocol of the user's own is known here by its name only; a page imports nobody's code.
        for quirk in PROTOCOLS[name].quirks if name in PROTOCOLS else ():
            quirks.append(f"<li><b>{escape(name)}</b>: {escape(quirk)}</li>")
    notes = f'<ul class="soft">{"".join(quirks)}</ul>' if quirks else ""
    return [
        "<h2>Under each protocol</h2>",
        '<p class="soft">Per cent; below each value its 95 % bootstrap interval, drawing whole images.</p>',
        *body,
        notes,
    ]


def _value_over_interval(metric: Mapping[str, Any]) -> str:
    """A metric as HTML: its value, and its interval in small print."""
    interval = metric["by_image"]
    small = "" if interval is None else f"<small>{percent(interval[0])} to {percent(interval[1])}</small>"
    return percent(metric["value"]) + small


def _breakdowns(before: QueryTable | None, after: QueryTable) -> list[str]:
    now = summarise(after, [], Bootstrap(rounds=0))["breakdown"]
    then = {} if before is None else summarise(before, [], Bootstrap(rounds=0))["breakdown"]
    parts = []
    for tag, values in now.items():
        if not 2 <= len(values) <= 40:
            continue
        heading = ["gIoU before", "after"] if then else ["gIoU"]
        rows = [[escape(tag), "queries", *heading, "cIoU", "P@0.5"]]
        for value, metrics in values.items():
            earlier = [percent(then.get(tag, {}).get(value, {}).get("gIoU"))] if then else []
            rows.append(
                [
                    escape(value),
                    str(metrics["queries"]),
                    *earlier,
                    percent(metrics["gIoU"]),
                    percent(metrics["cIoU"]),
                    percent(metrics["P@0.5"]),
                ]
            )
        parts.append(f'<div class="panel narrow">{table(rows)}</div>')
    if not parts:
        return []
    return ["<h2>Breakdown</h2>", f'<div class="grid2">{"".join(parts)}</div>']
