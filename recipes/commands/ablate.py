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
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.ablation import ACTION_SPACES, FRAMES, Cell, cell_figures, write_grid
from eval.answerers import build_answerer
from eval.metrics import score_file
from eval.protocols import apply, get_protocols, needs
from eval.query_table import QueryTable, build_table
from eval.results import rescore
from eval.runner import evaluate
from prompter.errors import UserError, did_you_mean
from prompter.prompt_text import read_prompt_file
from prompter.runs.values import read_options
from recipes.commands import flags
from recipes.commands.arguments import open_benchmark, opened, parse_segmenters, run_identity
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    several: dict[str, Any] = {"action": "append", "default": []}
    flags.add_benchmark(parser, several=True)
    parser.add_argument("--policy", **several, help="as in `prompter eval`; repeatable")
    flags.add_policy_option(parser)
    flags.add_executor(parser, several=True)
    parser.add_argument("--action-space", **several, help=f"of {', '.join(ACTION_SPACES)}; repeatable")
    parser.add_argument("--frame", **several, help=f"of {', '.join(FRAMES)}; repeatable")
    parser.add_argument("--protocol", default="strict", metavar="NAME", help="default: strict")
    parser.add_argument("--metric", default="gIoU", help="metric of the table and plot (default: gIoU)")
    flags.add_out(parser, "folder of the grid", required=True)
    flags.add_limit(parser)
    flags.add_chunk(parser)
    flags.add_dataset_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of the grid, write `grid.json`, `grid.md`, `grid.html`; return 0."""
    for name in ("benchmark", "policy", "executor"):
        if not getattr(arguments, name):
            raise UserError(f"Give --{name} at least once; `prompter ablate --help` shows an example.")
    spaces = _known(arguments.action_space or ["as-trained"], tuple(ACTION_SPACES), "action space")
    frames = _known(arguments.frame or ["as-trained"], FRAMES, "coordinate frame")
    protocol = get_protocols([arguments.protocol])[0]
    _known([arguments.metric], tuple(apply(protocol, build_table([], *needs([protocol])))), "metric")
    segmenters = parse_segmenters(arguments)
    shared = read_prompt_file(read_options(arguments.policy_option, "--policy-option"))
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
                results = rescore(done.folder, [arguments.protocol])
                for executor, path in done.rollouts.items():
                    scored = score_file(path, [protocol])
                    cell = cell_figures(results[path.stem], protocol, arguments.metric, first, scored)
                    where = str(folder.relative_to(arguments.out))
                    cells.append(Cell(benchmark, policy, space, frame, executor, *cell, where))
                    first = scored if first is None else first
    page = write_grid(arguments.out, cells, protocol, arguments.metric)
    tell(out=arguments.out, page=page, cells=[asdict(cell) for cell in cells])
    print(page)
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
