"""Look at datasets: what is known and found, what is wrong with one, and how it looks."""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.datasets.catalog import DatasetInfo
from envs.datasets.registry import dataset_info, known_datasets, open_dataset, split_name
from prompter.errors import UserError
from prompter.runs.tables import text_table
from recipes.commands import flags
from recipes.commands.arguments import dataset_options
from recipes.commands.output import add_json_file, tell

if TYPE_CHECKING:
    from envs.datasets.check import CheckReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `prompter data`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ls|check|show")
    listing = actions.add_parser("ls", help="list the known datasets, or tell all about one")
    listing.add_argument("name", nargs="?", help="a dataset, for its layout, source, licence and options")

    check = actions.add_parser("check", help="read a whole split and report what is wrong with it")
    _add_source(check)
    check.add_argument("--most", type=int, default=5, help="problems of each kind to print (default: 5)")
    add_json_file(check, "the report with all problems")

    show = actions.add_parser("show", help="write a contact sheet of samples drawn at random")
    _add_source(show)
    flags.add_out(show, "the PNG to write (default: NAME_SPLIT.png)")
    show.add_argument("--count", type=int, default=24, help="how many samples (default: 24)")
    show.add_argument("--columns", type=int, default=6, help="tiles in a row (default: 6)")
    flags.add_seed(show, "the draw")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", metavar="NAME:SPLIT", help="for example earthreason:test")
    flags.add_dataset_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; `check` returns 1 when it found a problem."""
    if arguments.action == "ls":
        chosen = [dataset_info(arguments.name)] if arguments.name else [*known_datasets().values()]
        tell(datasets=[{**asdict(info), "status": _status(info)} for info in chosen])
        print(_describe(chosen[0]) if arguments.name else _table())
        return 0
    name, split = _split(arguments.benchmark)
    options = dataset_options(arguments)
    if arguments.action == "check":
        return _check(name, split, options, arguments.most, arguments.json)
    return _show(name, split, options, arguments)


def _split(text: str) -> tuple[str, str]:
    name, split = split_name(text)
    known = dataset_info(name).splits
    if split is None and known:
        raise UserError(f"say which split of {name!r}: {', '.join(f'{name}:{one}' for one in known)}.")
    return name, split if split is not None else "all"


def _table() -> str:
    """One line per dataset: name, whether its files are found, splits with published sizes."""
    rows = []
    for info in known_datasets().values():
        rows.append((info.name, _status(info), info.title))
        sizes = _sizes(info)
        if sizes:
            rows.append(("", "", sizes))
    note = "`prompter data ls NAME` tells the layout, where to get it, and the options."
    return "\n".join([*text_table(rows), "", note])


def _status(info: DatasetInfo) -> str:
    from envs.datasets.reading.roots import default_root

    if not info.needs_files:
        return "ready"
    if not info.splits:
        return "yours"
    folder = default_root(info.name)
    return "found" if folder is not None and folder.is_dir() else "not found"


def _sizes(info: DatasetInfo) -> str:
    parts = [f"{split} {info.counts[split]:,}" if split in info.counts else split for split in info.splits]
    unit = f" ({info.count_unit})" if info.counts else ""
    return ", ".join(parts) + unit


def _describe(info: DatasetInfo) -> str:
    from envs.datasets.false_premises import OPTION
    from envs.datasets.reading.roots import ROOT_VARIABLE, default_root
    from envs.datasets.registry import opener_options, reading_options

    lines = [f"{info.name}: {info.title}", f"splits: {_sizes(info) or 'any name'}"]
    if info.needs_files:
        folder = default_root(info.name)
        place = f"{folder} ({_status(info)})" if folder else f"${ROOT_VARIABLE}/{info.name} (not set)"
        lines += [f"looked for in: {place}", "layout:", *(f"  {line}" for line in info.layout.splitlines())]
    lines += [f"where to get it: {info.source}", f"licence: {info.licence}", "options:"]
    for option, kind in opener_options(info.name).items():
        lines.append(f"  {option}: {_type_name(kind)}")
    rules = reading_options(info.name)
    if rules:
        lines.append("options that every set of files has (docs/cases.md):")
        lines += [f"  {option}: {_type_name(kind)}" for option, kind in rules.items()]
    if OPTION not in opener_options(info.name):
        lines.append(f"of every set with categories (docs/false-premises.md): {OPTION}: float")
    for code, chosen in info.as_published.items():
        options = " ".join(f"--dataset-option {option}={value}" for option, value in chosen.items())
        lines.append(f"odd records as {code} treats them: {options}")
    return "\n".join(lines)


def _type_name(kind: Any) -> str:
    choices = getattr(kind, "__args__", None)
    if choices and choices[-1] is type(None):
        return f"{_type_name(choices[0])} | None"
    if choices and all(isinstance(choice, str) for choice in choices):
        return " | ".join(choices)
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("pathlib.", "")


def _check(name: str, split: str, options: dict[str, Any], most: int, output: Path | None) -> int:
    from tqdm import tqdm

    from envs.datasets.check import check_split
    from prompter.runs.files import atomic_write

    report = check_split(
        name, split, options, lambda numbers: tqdm(numbers, disable=not sys.stderr.isatty(), unit="sample")
    )
    tell(**report.to_json())
    print(_summary(report, most))
    if output is not None:
        with atomic_write(output) as handle:
            json.dump(report.to_json(), handle, indent=1, ensure_ascii=False)
        print(f"all problems: {output}")
    return 0 if report.is_clean else 1


def _summary(report: CheckReport, most: int) -> str:
    from envs.datasets.reading.faults import KINDS, NOTES

    lines = [
        f"{report.name}:{report.split}: {report.samples:,} samples on {report.images:,} images, "
        f"{report.no_target:,} without target"
    ]
    lines += [f"left out by the set's rule: {n:,} {what}" for what, n in report.left_out.items()]
    for kind, meaning in (KINDS | NOTES).items():
        found = report.problems[kind] if kind in KINDS else report.notes[kind]
        if found:
            lines.append(f"{len(found):,} {meaning}:")
            lines += [f"  {sentence}" for sentence in found[:most]]
            if len(found) > most:
                lines.append(f"  … and {len(found) - most:,} more")
    if report.is_clean:
        lines.append("nothing wrong")
    return "\n".join(lines)


def _show(name: str, split: str, options: dict[str, Any], arguments: argparse.Namespace) -> int:
    from envs.contact_sheet import contact_sheet, write_contact_sheet

    if arguments.count < 1 or arguments.columns < 1:
        raise UserError("--count and --columns must be at least 1.")
    source = open_dataset(name, split, **options)
    count = min(arguments.count, len(source))
    numbers = sorted(random.Random(arguments.seed).sample(range(len(source)), count))
    output = arguments.out or Path(f"{name.replace(':', '-')}_{split}.png")
    sheet = contact_sheet([source[number] for number in numbers], columns=min(arguments.columns, count))
    write_contact_sheet(sheet, output)
    tell(picture=output, shown=count, samples=len(source))
    print(f"{count} of {len(source):,} samples: {output}")
    return 0
