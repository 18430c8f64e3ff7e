"""A grid of segmenters x action spaces x coordinate frames: its cells, its table and its plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.bootstrap import Interval
from eval.figures import percent
from eval.metrics import compare
from eval.protocols.base import ScoringProtocol
from eval.query_table import QueryTable
from eval.report.charts import bar_chart
from eval.report.html import from_template
from prompter.runs.files import atomic_write
from prompter.runs.tables import markdown_table

ACTION_SPACES: dict[str, dict[str, Any]] = {
    "as-trained": {},
    "box": {"action_space": {"kind": "box"}},
    "points": {"action_space": {"kind": "points"}},
    "points+negatives": {"action_space": {"kind": "points", "negative_points": 2}},
    "box+points": {"action_space": {"kind": "box+points"}},
    "box+points+negatives": {"action_space": {"kind": "box+points", "negative_points": 2}},
}
"""Policy options by the name of an action space; `as-trained` leaves the policy's own."""

FRAMES = ("as-trained", "absolute", "thousandths")


@dataclass(frozen=True)
class Cell:
    """One combination and what it reached.

    Args:
        benchmark, policy, action_space, frame, executor: the combination.
        queries: queries counted.
        value, interval: the metric and its 95 % interval, drawing images, in [0, 1].
        difference, difference_interval: against the first cell of the same benchmark, paired;
            None for that cell.
        folder: the run folder.
    """

    benchmark: str
    policy: str
    action_space: str
    frame: str
    executor: str
    queries: int
    value: float | None
    interval: tuple[float, float] | None
    difference: float | None
    difference_interval: tuple[float, float] | None
    folder: str


def cell_figures(
    results: Mapping[str, Any],
    protocol: ScoringProtocol,
    metric: str,
    first: QueryTable | None,
    scored: QueryTable,
) -> tuple[int, float | None, tuple[float, float] | None, float | None, tuple[float, float] | None]:
    """The numbers of a cell: queries, value, interval, difference, its interval."""
    found = results["protocols"][protocol.name]
    entry = found["metrics"][metric]
    interval = None if entry["by_image"] is None else (entry["by_image"][0], entry["by_image"][1])
    if first is None:
        return found["queries"], entry["value"], interval, None, None
    change = compare(first, scored, [metric], protocol)[metric]
    return found["queries"], entry["value"], interval, change.difference, _pair(change.by_image)


def _pair(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def write_grid(out: Path, cells: Sequence[Cell], protocol: ScoringProtocol, metric: str) -> Path:
    """Write `grid.json`, `grid.md` and `grid.html`; print the table; return the page's path."""
    text = grid_markdown(cells, protocol, metric)
    contents = {
        "grid.json": json.dumps([asdict(cell) for cell in cells], indent=1, ensure_ascii=False) + "\n",
        "grid.md": text,
        "grid.html": grid_html(cells, protocol, metric),
    }
    for name, content in contents.items():
        with atomic_write(out / name) as handle:
            handle.write(content)
    print(text)
    return out / "grid.html"


def _axes(cells: Sequence[Cell]) -> list[str]:
    """The fields that differ between cells, and always the segmenter."""
    names = ("benchmark", "policy", "action_space", "frame", "executor")
    return [name for name in names if name == "executor" or len({getattr(cell, name) for cell in cells}) > 1]


def _rows(cells: Sequence[Cell], metric: str) -> list[list[str]]:
    axes = _axes(cells)
    heading = [*(name.replace("_", " ") for name in axes), "queries", metric, "95 %", "against first", "95 %"]
    rows = [heading]
    for cell in cells:
        rows.append(
            [
                *(str(getattr(cell, name)) for name in axes),
                str(cell.queries),
                percent(cell.value),
                interval_text(cell.interval),
                "" if cell.difference is None else f"{100 * cell.difference:+.2f}",
                interval_text(cell.difference_interval, "+"),
            ]
        )
    return rows


def interval_text(interval: tuple[float, float] | None, sign: str = "") -> str:
    """An interval of shares as "low to high" in per cent, "" for None; `sign` "+" shows that of a plus."""
    return "" if interval is None else " to ".join(f"{100 * limit:{sign}.2f}" for limit in interval)


def grid_markdown(cells: Sequence[Cell], protocol: ScoringProtocol, metric: str) -> str:
    """The grid as a Markdown table."""
    lines = markdown_table(_rows(cells, metric))
    return "\n".join([f"# Ablation: {metric}, protocol {protocol.name}, per cent", "", *lines, "", _NOTE, ""])


def grid_html(cells: Sequence[Cell], protocol: ScoringProtocol, metric: str) -> str:
    """The grid as a self-contained page: a bar per cell, and the table."""
    title = f"Ablation: {metric}, protocol {protocol.name}, per cent"
    charts = []
    axes = [name for name in _axes(cells) if name != "benchmark"]
    for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
        bars = [
            (", ".join(str(getattr(cell, name)) for name in axes), cell.value, cell.interval)
            for cell in cells
            if cell.benchmark == benchmark and cell.value is not None
        ]
        charts.append(bar_chart(bars, title=benchmark))
    return from_template("grid.html", title=title, note=_NOTE, charts=charts, rows=_rows(cells, metric))


_NOTE = (
    "Intervals: 95 % bootstrap, drawing images. Differences are paired by query, against the first cell "
    "of the same benchmark."
)
