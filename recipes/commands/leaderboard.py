"""Set evaluated runs beside the published numbers of the same benchmarks.

Writes leaderboard.md and leaderboard.html. Without a run, all published numbers are written;
with runs, the boards of their benchmarks.

    prompter leaderboard runs/earthreason-eval --out board
    prompter leaderboard --benchmark rrsis-d --out board
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envs.datasets.registry import split_name
from eval.report.leaderboard import Row, build_board, html, markdown, published_rows
from eval.report.published import UNSTATED, benchmarks, load_published, of_benchmark
from eval.results import read_results
from prompter.errors import UserError, did_you_mean
from prompter.runs.files import atomic_write
from prompter.runs.run_folder import RunFolder
from recipes.commands import flags
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="*", type=Path, help="folders written by `prompter eval`")
    flags.add_benchmark(parser, several=True, metavar="NAME[:SPLIT]", note=": a board of it, or of one split")
    flags.add_out(parser, "folder for the two pages", default=Path("leaderboard"))


def run(arguments: argparse.Namespace) -> int:
    """Write the two pages, print the boards of the runs; return 0."""
    ours: dict[str, list[Row]] = {}
    for folder in arguments.runs:
        benchmark, rows = run_rows(RunFolder.open(folder))
        ours.setdefault(benchmark, []).extend(rows)
    numbers = load_published()
    splits: dict[str, set[str]] = {}  # those asked for; none is all
    for text in arguments.benchmark:
        name, split = split_name(text)
        if name not in ours:
            of_benchmark(numbers, name)  # refuses an unknown name
        splits.setdefault(name, set()).update([split] if split else [])
    boards = []
    for name in dict.fromkeys([*ours, *splits]) or benchmarks(numbers):
        published = [number for number in numbers if number.benchmark == name]
        known = {number.split for number in published}
        asked = splits.get(name) or known
        for split in asked - known:
            raise UserError(f"published.csv holds no numbers of {name}:{split}.{did_you_mean(split, known)}")
        published = [number for number in published if number.split in asked]
        boards.append(build_board(name, [*published_rows(published), *ours.get(name, [])]))
    text = markdown(boards)
    for name, content in (("leaderboard.md", text), ("leaderboard.html", html(boards))):
        with atomic_write(arguments.out / name) as handle:
            handle.write(content)
    tell(
        page=arguments.out / "leaderboard.html",
        runs={name: [asdict(row) for row in rows] for name, rows in ours.items()},
    )
    if ours:
        print(text)
    print(arguments.out / "leaderboard.html")
    return 0


def run_rows(folder: RunFolder) -> tuple[str, list[Row]]:
    """The benchmark of an evaluation run and its rows: one per segmenter and protocol.

    Raises:
        UserError: if the folder is not an evaluation with results, or its answers were chosen by the target.
    """
    config, results = folder.read_config(), read_results(folder)
    if not isinstance(config.get("benchmark"), str) or not isinstance(config.get("policy"), str):
        raise UserError(
            f"{folder.config_path} names no benchmark and policy; was it written by `prompter eval`?"
        )
    benchmark, split = split_name(config["benchmark"])
    rows = []
    for executor, summary in results.items():
        looks = summary.get("looks")
        if looks and looks["uses_truth"]:
            raise UserError(
                f"Answers of {folder.path} were combined by {looks['rule']!r}, which looks at the target: "
                f"a bound, no result. Combine them by another rule first (prompter eval --rescore --combine)."
            )
        combined = f", {looks['rule']} of {looks['samples']}" if looks else ""
        for protocol, scored in summary["protocols"].items():
            values = {
                name: 100 * metric["value"]
                for name, metric in scored["metrics"].items()
                if metric["value"] is not None
            }
            rows.append(
                Row(
                    system=f"{config.get('label') or config['policy']} + {executor}{combined}",
                    split=_split_text(split or "", config, scored["queries"]),
                    protocol=protocol,
                    training=config.get("training", UNSTATED),
                    values=values,
                    source=folder.path.name,
                    status="run",
                )
            )
    return benchmark, rows


def _split_text(split: str, config: Mapping[str, Any], queries: int) -> str:
    """Split, dataset options that change what is asked, and how much of it was asked."""
    options = {name: value for name, value in (config.get("dataset_options") or {}).items() if name != "root"}
    parts = [split, *(f"{name}={value}" for name, value in sorted(options.items()))]
    if config.get("limit") is not None:
        parts.append(f"first {queries} queries")
    return ", ".join(parts)
