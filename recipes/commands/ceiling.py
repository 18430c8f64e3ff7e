"""`prompter ceiling`: the ceilings of segmenters as a table, JSON and pictures of the worst.

prompter ceiling --dataset aerial-buildings:train+val+test --option window=571 --executor onnx
prompter ceiling --dataset synthetic-aerial:test --executor mobile-sam --limit 500 --out runs/ceiling
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.ceiling import ORACLES, measure_ceilings
from prompter.errors import UserError, did_you_mean
from prompter.runs.files import atomic_write
from prompter.runs.tables import markdown_table

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
    parser.add_argument(
        "--dataset", required=True, metavar="NAME:SPLIT", help="several splits are joined by +: test+val"
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the dataset; repeatable"
    )
    parser.add_argument(
        "--executor",
        action="append",
        default=[],
        metavar="FAMILY[:MODEL]",
        help="repeatable (default: mobile-sam)",
    )
    parser.add_argument(
        "--oracle", action="append", default=[], help=f"of {', '.join(ORACLES)}; repeatable (default: all)"
    )
    parser.add_argument("--unit", choices=["object", "query"], default="object", help="what is segmented")
    parser.add_argument("--limit", type=int, help="stop after this many units")
    parser.add_argument(
        "--worst", type=int, default=12, help="how many of the worst to draw, by the first oracle"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or auto")
    parser.add_argument("--multimask", default="single", help="single or best")
    parser.add_argument("--out", type=Path, help="folder for validate.json, validate.md and the pictures")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, write the files if asked to; 1 if a segmenter failed on anything, else 0."""
    from envs.executors import ExecutorConfig, open_executors
    from envs.executors.families import resolve_dtype

    oracles = arguments.oracle or list(ORACLES)
    for name in oracles:
        if name not in ORACLES:
            raise UserError(f"there is no oracle {name!r}.{did_you_mean(name, ORACLES)}")
    common = {"device": arguments.device, "dtype": arguments.dtype, "multimask": arguments.multimask}
    texts = arguments.executor or ["mobile-sam"]
    if len(set(texts)) < len(texts):
        raise UserError("an --executor is given twice.")
    configs = [resolve_dtype(ExecutorConfig.from_text(text, **common)) for text in texts]
    samples = _open(arguments.dataset, arguments.option)
    executors = open_executors(configs)
    try:
        result = measure_ceilings(
            samples,
            dict(zip(texts, executors, strict=True)),
            oracles=oracles,
            unit=arguments.unit,
            limit=arguments.limit,
            worst=arguments.worst,
            pictures=arguments.out,
            progress=sys.stderr.isatty(),
        )
    finally:
        for executor in executors:
            executor.close()
    result = {
        "dataset": arguments.dataset,
        "options": arguments.option,
        "executors": {
            text: config.model_dump(mode="json") for text, config in zip(texts, configs, strict=True)
        },
        **result,
    }
    if not result["units"]:
        raise UserError(f"{arguments.dataset} has no target with a mask to validate on.")
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


def _open(text: str, options: Sequence[str]) -> Iterator[Sample]:
    """Samples of "name:split+split" with "key=value" options."""
    from envs.datasets import open_dataset, split_name

    name, splits = split_name(text)
    if splits is None:
        raise UserError(f"--dataset {text!r} names no split: write {name}:test, or {name}:train+test.")
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--option {option!r} is not KEY=VALUE.")
        given[key] = value
    sources = [open_dataset(name, split, **given) for split in splits.split("+")]
    return (sample for source in sources for sample in source)
