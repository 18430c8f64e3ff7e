"""What several commands read from their command line, each in one way."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from envs.datasets.registry import may_open, open_dataset, split_name
from envs.executors import open_executors
from envs.executors.config import RESULT_FIELDS, ExecutorConfig
from envs.executors.families import resolve_dtype
from prompter.errors import UserError
from prompter.runs.config import describe_validation_error
from prompter.runs.values import read_options

if TYPE_CHECKING:
    from envs.executors.base import Executor  # it brings numpy and OpenCV, which `--help` has no use for

OWN_MASKS = "own-masks"
"""The executor that takes the masks an answerer brought along, and segments nothing."""


def open_benchmark(arguments: argparse.Namespace, text: str) -> Any:
    """Open `NAME:SPLIT` with the command's dataset options.

    Raises:
        UserError: if the split is missing, or the dataset cannot be opened.
    """
    name, split = benchmark_parts(text)
    return open_dataset(name, split, **dataset_options(arguments))


def open_as_run(config: Mapping[str, Any], *, trust: bool) -> Any:
    """Open the benchmark of an evaluation as its config says; None where that is code and not trusted.

    Args:
        config: `benchmark`, `dataset_options` and `skip_bad` of a run.
        trust: import a benchmark that is "module:callable" (`envs.datasets.registry.may_open`).

    Raises:
        UserError: if the config names no benchmark, or it cannot be opened.
    """
    name, split = benchmark_parts(str(config.get("benchmark", "")))
    if not may_open(name, trust):
        return None
    options = dict(config.get("dataset_options") or {})
    return open_dataset(name, split, **options, **({"skip_bad": True} if config.get("skip_bad") else {}))


def benchmark_parts(text: str) -> tuple[str, str]:
    """Name and split of `NAME:SPLIT`; UserError if the split is missing."""
    name, split = split_name(text)
    if not split:
        raise UserError(f"--benchmark {text} names no split. Give the split as well, as in {name}:test.")
    return name, split


def dataset_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `recipes.commands.flags.add_dataset_flags` was told, for `open_dataset`."""
    options = read_options(arguments.dataset_option, "--dataset-option")
    if arguments.root is not None:
        options["root"] = arguments.root
    if arguments.skip_bad:
        options["skip_bad"] = True
    return options


def run_identity(
    arguments: argparse.Namespace,
    benchmark: str,
    policy: str,
    policy_options: Mapping[str, Any],
    segmenters: Sequence[ExecutorConfig | None],
) -> dict[str, Any]:
    """What makes a run this run, JSON-ready; a folder that holds another is not resumed."""
    return {
        "benchmark": benchmark,
        "dataset_options": read_options(arguments.dataset_option, "--dataset-option"),
        "policy": policy,
        "policy_options": dict(policy_options),
        "executors": executors_identity(segmenters),
        "limit": arguments.limit,
        "skip_bad": arguments.skip_bad,
    }


def executors_identity(segmenters: Sequence[ExecutorConfig | None]) -> dict[str, dict[str, Any]]:
    """What of each segmenter changes its masks, by its name, JSON-ready."""
    return {
        executor_name(config): {}
        if config is None
        else config.model_dump(mode="json", include=set(RESULT_FIELDS))
        for config in segmenters
    }


@contextmanager
def opened(segmenters: Sequence[ExecutorConfig | None]) -> Iterator[Mapping[str, Executor | None]]:
    """As `opened_executors`, for an evaluation; None, which is `own-masks`, stays None."""
    with opened_executors([config for config in segmenters if config is not None]) as executors:
        yield {name: executors.get(name) for name in map(executor_name, segmenters)}


@contextmanager
def opened_executors(configs: Sequence[ExecutorConfig]) -> Iterator[Mapping[str, Executor]]:
    """Open executors by name and close them afterwards."""
    executors = open_executors(configs)
    try:
        yield dict(zip(map(executor_name, configs), executors, strict=True))
    finally:
        for executor in executors:
            executor.close()


def parse_segmenters(arguments: argparse.Namespace) -> list[ExecutorConfig | None]:
    """As `parse_executors`, for an evaluation: None stands for `own-masks`, which is no executor."""
    fields = arguments.executor_fields
    configs = [None if text == OWN_MASKS else parse_executor(text, **fields) for text in arguments.executor]
    _refuse_twins(configs)
    return configs


def parse_executors(arguments: argparse.Namespace, default: str) -> list[ExecutorConfig]:
    """Read a repeatable `--executor` (see `parse_executor`); `default` if it was not given.

    Raises:
        UserError: as `parse_executor`, or if an executor is given twice.
    """
    texts = arguments.executor or [default]
    configs = [parse_executor(text, **arguments.executor_fields) for text in texts]
    _refuse_twins(configs)
    return configs


def parse_executor(text: str, **fields: Any) -> ExecutorConfig:
    """Read `FAMILY[:MODEL][,KEY=VALUE…]` as `ExecutorConfig.from_text` does, with its `fields`.

    `dtype=auto` is answered here, so that the type becomes part of the run's identity; a Ray pool answers
    it where its actors run.

    Raises:
        UserError: if the family or a key is unknown, or a value is bad.
    """
    try:
        config = ExecutorConfig.from_text(text, **fields)
    except ValidationError as error:
        raise UserError(f"--executor {text}: {describe_validation_error(error)}") from None
    return config if config.backend == "ray" else resolve_dtype(config)


def _refuse_twins(configs: Sequence[ExecutorConfig | None]) -> None:
    names = [executor_name(config) for config in configs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--executor {name} is given twice, or two models share this name.")


def executor_name(config: ExecutorConfig | None) -> str:
    """Name of a segmenter in files and tables: family, model, and what else changes its masks."""
    if config is None:
        return OWN_MASKS
    plain = ExecutorConfig(family=config.family, model=config.model)
    changed = [
        f",{name}={getattr(config, name)}"
        for name in RESULT_FIELDS[2:]
        if getattr(config, name) != getattr(plain, name)
    ]
    return config.name + "".join(changed)


def new_output(folder: Path, *, resume: bool) -> Path:
    """A config's `output_dir`, which must be new or empty unless a run goes on there.

    Raises:
        UserError: if it holds something.
    """
    if not resume and folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"output_dir {folder} is not empty: name a new folder, remove it, or go on with --resume"
        )
    return folder
