"""What several commands read from their command line, each in one way."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from pydantic import ValidationError

from envs.datasets.registry import open_dataset, split_name
from envs.executors import open_executors
from envs.executors.base import Executor
from envs.executors.config import SEGMENTER_FAMILIES, ExecutorConfig
from envs.executors.families import resolve_dtype
from prompter.errors import UserError
from prompter.registry import split_head
from prompter.runs.config import describe_validation_error

OWN_MASKS = "own-masks"
"""The executor that takes the masks an answerer brought along, and segments nothing."""

RESULT_FIELDS = ("family", "model", "revision", "dtype", "multimask", "mask_threshold", "cache_dtype")
"""Fields of an executor's config that change its masks, and so belong to a run's identity."""


def open_benchmark(arguments: argparse.Namespace, text: str) -> Any:
    """Open `NAME:SPLIT` with the command's dataset options.

    Raises:
        UserError: if the split is missing, or the dataset cannot be opened.
    """
    name, split = split_name(text)
    if not split:
        raise UserError(f"Give the split as well, as in --benchmark {name}:test.")
    options: dict[str, Any] = dict(parse_options(arguments.dataset_option))
    if arguments.root is not None:
        options["root"] = arguments.root
    if arguments.skip_bad:
        options["skip_bad"] = True
    return open_dataset(name, split, **options)


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
        "dataset_options": parse_options(arguments.dataset_option),
        "policy": policy,
        "policy_options": dict(policy_options),
        "executors": {
            executor_name(config): {}
            if config is None
            else config.model_dump(mode="json", include=set(RESULT_FIELDS))
            for config in segmenters
        },
        "limit": arguments.limit,
        "skip_bad": arguments.skip_bad,
    }


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read `dotted.key=value` texts into nested dicts; values are YAML (numbers, true, lists, text).

    Raises:
        UserError: if a text has no `=`, its value is not YAML, or a key is given twice.
    """
    result: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"An option is written KEY=VALUE, but {text!r} is not.")
        *path, last = key.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"The option {key!r} is given as a value and as a section.")
        if last in place:
            raise UserError(f"The option {key!r} is given twice.")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"The value of option {key!r} cannot be read: {value!r}.") from None
    return result


@contextmanager
def opened(segmenters: Sequence[ExecutorConfig | None]) -> Iterator[Mapping[str, Executor | None]]:
    """Open executors by name and close them afterwards; None, which is `own-masks`, stays None."""
    configs = [config for config in segmenters if config is not None]
    executors = iter(open_executors(configs))
    named = {executor_name(one): None if one is None else next(executors) for one in segmenters}
    try:
        yield named
    finally:
        for executor in named.values():
            if executor is not None:
                executor.close()


def parse_executor(text: str) -> ExecutorConfig | None:
    """Read `FAMILY[:MODEL][,key=value…]`, such as `sam2:facebook/sam2.1-hiera-small,device=cpu`.

    A family of your own is MODULE:CALLABLE (`prompter.registry.split_head`).

    Returns:
        None for `own-masks`. `dtype=auto` is answered here, so that the type becomes part of the run's
        identity; a Ray pool answers it where its actors run.

    Raises:
        UserError: if the family or a key is unknown, or a value is bad.
    """
    if text == OWN_MASKS:
        return None
    head, *options = text.split(",")
    family, model = split_head(head, SEGMENTER_FAMILIES)
    given: dict[str, Any] = {
        "family": family,
        **({} if model is None else {"model": model}),
        **parse_options(options),
    }
    try:
        config = ExecutorConfig.model_validate(given)
    except ValidationError as error:
        raise UserError(f"--executor {text}: {describe_validation_error(error)}") from None
    return config if config.backend == "ray" else resolve_dtype(config)


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
