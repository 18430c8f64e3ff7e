"""`prompter ceiling`: the ceilings of segmenters as a table, JSON and pictures of the worst.

What bounds a policy's reward is how well a frozen segmenter does with perfect prompts.

    prompter ceiling --benchmark aerial-buildings:train+val+test --dataset-option window=571 --executor onnx
    prompter ceiling --benchmark synthetic-aerial:test --executor mobile-sam,dtype=auto --limit 500
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from eval.ceiling import ORACLES, measure_ceilings
from prompter.errors import UserError, did_you_mean
from prompter.runs.files import atomic_write
from prompter.runs.tables import markdown_table
from recipes.commands import flags
from recipes.commands.arguments import (
    benchmark_parts,
    executor_name,
    open_benchmark,
    opened_executors,
    parse_executors,
)
from recipes.commands.output import tell

if TYPE_CHECKING:
    from envs.sample import Sample


def ceiling_table(result: Mapping[str, Any]) -> str:
    """A Markdown table: a row per action space, a column per segmenter; mean IoU with its interval."""
    names = list(result["results"])
    rows = [["prompt", *names]]
    for oracle in next(iter(result["results"].values())):
        rows.append([oracle, *(_cell(result["results"][name][oracle]) for name in names)])
    lines = [
        f"{result['dataset']}: {result['units']} {'objects' if result['unit'] == 'object' else 'questions'} "
        f"in {result['images']} images; mean IoU [95 % bootstrap, drawing images] (share above 0.5)",
        "",
        *markdown_table(rows),
    ]
    return "\n".join(lines)


def _cell(summary: Mapping[str, Any]) -> str:
    failed = f", {summary['failures']} failed" if summary["failures"] else ""
    if summary["mean_iou"] is None:
        return f"-{failed}"
    interval = summary["interval"]
    bounds = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{summary['mean_iou']:.3f}{bounds} ({summary['precision_50']:.2f}{failed})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    flags.add_benchmark(parser, note="; several splits are joined by +, as in NAME:test+val")
    flags.add_dataset_flags(parser)
    flags.add_executor(parser, several=True, default="mobile-sam")
    parser.add_argument(
        "--oracle", action="append", default=[], help=f"of {', '.join(ORACLES)}; repeatable (default: all)"
    )
    parser.add_argument("--unit", choices=["object", "query"], default="object", help="what is segmented")
    flags.add_limit(parser, "objects or questions")
    parser.add_argument(
        "--worst", type=int, default=12, help="how many of the worst to draw, by the first oracle"
    )
    flags.add_out(parser, "folder for validate.json, validate.md and the pictures")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, write the files if asked to; 1 if a segmenter failed on anything, else 0."""
    if arguments.benchmark is None:
        raise UserError("Give --benchmark; `prompter ceiling --help` shows examples.")
    oracles = arguments.oracle or list(ORACLES)
    for name in oracles:
        if name not in ORACLES:
            raise UserError(f"there is no oracle {name!r}.{did_you_mean(name, ORACLES)}")
    configs = parse_executors(arguments, default="mobile-sam")
    samples = _open(arguments)
    with opened_executors(configs) as executors:
        result = measure_ceilings(
            samples,
            executors,
            oracles=oracles,
            unit=arguments.unit,
            limit=arguments.limit,
            worst=arguments.worst,
            pictures=arguments.out,
            progress=sys.stderr.isatty(),
        )
    result = {
        "dataset": arguments.benchmark,
        "options": arguments.dataset_option,
        "executors": {executor_name(config): config.model_dump(mode="json") for config in configs},
        **result,
    }
    if not result["units"]:
        raise UserError(f"{arguments.benchmark} has no target with a mask to validate on.")
    tell(out=arguments.out, **result)
    table = ceiling_table(result)
    print(table)
    if arguments.out:
        with atomic_write(arguments.out / "validate.json") as handle:
            json.dump(result, handle, indent=1)
        with atomic_write(arguments.out / "validate.md") as handle:
            handle.write(table + "\n")
        print(f"\n{arguments.out}")
    failed = sum(one["failures"] for by_oracle in result["results"].values() for one in by_oracle.values())
    return 1 if failed else 0


def _open(arguments: argparse.Namespace) -> Iterator[Sample]:
    """Samples of `--benchmark NAME:SPLIT+SPLIT`, one split after the other."""
    name, splits = benchmark_parts(arguments.benchmark)
    sources = [open_benchmark(arguments, f"{name}:{split}") for split in splits.split("+")]
    return (sample for source in sources for sample in source)
