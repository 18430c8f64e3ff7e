"""Run a grid of segmenters x action spaces x coordinate frames over benchmarks; end in a table and a plot.

    prompter ablate --benchmark earthreason:val --policy my-checkpoint \\
        --executor sam2:facebook/sam2.1-hiera-tiny --executor sam2:facebook/sam2.1-hiera-large \\
        --action-space box+points --action-space box+points+negatives --out runs/grid

Each answer is sampled once and segmented by every segmenter. A killed grid is resumed by running
the same command again. Differences are paired, against the first cell of the same benchmark.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from eval.answerers import build_answerer
from eval.charts import bar_chart
from eval.eval_command import open_benchmark, opened, parse_executor, parse_options, run_identity
from eval.metrics import compare, score_file
from eval.page import page, table
from eval.protocols import apply, get_protocols
from eval.protocols.base import Protocol
from eval.queries import QueryTable, build_table
from eval.ratios import Interval
from eval.results import percent, rescore
from eval.runner import evaluate
from eval.views import View
from prompter.errors import UserError, did_you_mean
from prompter.files import atomic_write

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--benchmark", **several, metavar="NAME:SPLIT", help="repeatable")
    parser.add_argument("--policy", **several, help="as in `prompter eval`; repeatable")
    parser.add_argument("--policy-option", **several, metavar="KEY=VALUE", help="for every cell")
    parser.add_argument("--executor", **several, metavar="FAMILY[:MODEL][,KEY=VALUE…]", help="repeatable")
    parser.add_argument("--action-space", **several, help=f"of {', '.join(ACTION_SPACES)}; repeatable")
    parser.add_argument("--frame", **several, help=f"of {', '.join(FRAMES)}; repeatable")
    parser.add_argument("--protocol", default="strict", metavar="NAME", help="default: strict")
    parser.add_argument("--metric", default="gIoU", help="metric of the table and plot (default: gIoU)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the grid")
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--chunk", type=int, default=32, help="samples per batch (default: 32)")
    parser.add_argument("--dataset-option", **several, metavar="KEY=VALUE")
    parser.add_argument("--root", type=Path, help="where the dataset's files are")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out records that do not load; count them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of the grid, write `grid.json`, `grid.md`, `grid.html`; return 0."""
    for name in ("benchmark", "policy", "executor"):
        if not getattr(arguments, name):
            raise UserError(f"Give --{name} at least once; `prompter ablate --help` shows an example.")
    spaces = _known(arguments.action_space or ["as-trained"], tuple(ACTION_SPACES), "action space")
    frames = _known(arguments.frame or ["as-trained"], FRAMES, "coordinate frame")
    protocol = get_protocols([arguments.protocol])[0]
    _known(
        [arguments.metric], tuple(apply(protocol, build_table([], [protocol.view, View.NATIVE]))), "metric"
    )
    segmenters = [parse_executor(text) for text in arguments.executor]
    shared = parse_options(arguments.policy_option)
    cells: list[Cell] = []
    with opened(segmenters) as named:
        for benchmark in dict.fromkeys(arguments.benchmark):
            samples = open_benchmark(arguments, benchmark)
            first: QueryTable | None = None
            for policy, space, frame in itertools.product(arguments.policy, spaces, frames):
                options = {
                    **shared,
                    **ACTION_SPACES[space],
                    **({} if frame == "as-trained" else {"frame": frame}),
                }
                folder = arguments.out / _folder_name(benchmark, policy, space, frame)
                with closing(build_answerer(policy, options)) as answerer:
                    done = evaluate(
                        samples,
                        answerer,
                        named,
                        folder,
                        config=run_identity(arguments, benchmark, policy, options, segmenters),
                        limit=arguments.limit,
                        chunk=arguments.chunk,
                    )
                results = rescore(done.folder, [protocol.name])
                for executor, path in done.rollouts.items():
                    scored = score_file(path, [protocol])
                    cell = _cell(results[path.stem], protocol, arguments.metric, first, scored)
                    where = str(folder.relative_to(arguments.out))
                    cells.append(Cell(benchmark, policy, space, frame, executor, *cell, where))
                    first = scored if first is None else first
    print(write_grid(arguments.out, cells, protocol, arguments.metric))
    return 0


def _known(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    for name in names:
        if name not in known:
            raise UserError(f"There is no {what} {name!r}.{did_you_mean(name, known)}")
    return list(dict.fromkeys(names))


def _folder_name(*parts: str) -> Path:
    """A folder per combination, safe as a path on any system."""
    return Path(
        *("".join(c if c.isalnum() or c in "._+-" else "-" for c in part).strip(".") for part in parts)
    )


def _cell(
    results: Mapping[str, Any], protocol: Protocol, metric: str, first: QueryTable | None, scored: QueryTable
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


def write_grid(out: Path, cells: Sequence[Cell], protocol: Protocol, metric: str) -> Path:
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
                _limits(cell.interval),
                "" if cell.difference is None else f"{100 * cell.difference:+.2f}",
                _limits(cell.difference_interval, "+"),
            ]
        )
    return rows


def _limits(interval: tuple[float, float] | None, sign: str = "") -> str:
    return "" if interval is None else " to ".join(f"{100 * limit:{sign}.2f}" for limit in interval)


def grid_markdown(cells: Sequence[Cell], protocol: Protocol, metric: str) -> str:
    """The grid as a Markdown table."""
    rows = _rows(cells, metric)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join([f"# Ablation: {metric}, protocol {protocol.name}, per cent", "", *lines, "", _NOTE, ""])


def grid_html(cells: Sequence[Cell], protocol: Protocol, metric: str) -> str:
    """The grid as a self-contained page: a bar per cell, and the table."""
    title = f"Ablation: {metric}, protocol {protocol.name}, per cent"
    body = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(_NOTE)}</p>']
    axes = [name for name in _axes(cells) if name != "benchmark"]
    for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
        bars = [
            (", ".join(str(getattr(cell, name)) for name in axes), cell.value, cell.interval)
            for cell in cells
            if cell.benchmark == benchmark and cell.value is not None
        ]
        body.append(f'<div class="panel">{bar_chart(bars, title=benchmark)}</div>')
    rows = [[escape(text) for text in row] for row in _rows(cells, metric)]
    body.append(f'<div class="panel">{table(rows)}</div>')
    return page(title, body)


_NOTE = (
    "Intervals: 95 % bootstrap, drawing images. Differences are paired by query, against the first cell "
    "of the same benchmark."
)
