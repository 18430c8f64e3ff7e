"""`prompter bench step` and `prompter bench rollout`: benchmarks of what a training config says."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from prompter.runs.files import atomic_write
from recipes.commands.output import tell

if TYPE_CHECKING:
    from recipes.config import TrainConfig

CONFIG = Path(__file__).parents[1] / "benchmarks" / "step.yaml"


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Declare what these benchmarks take besides the config's own keys."""
    parser.add_argument("config", nargs="?", type=Path, help="of step and rollout: a training config")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each way (default: 3)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N rows of step")
    parser.add_argument("--adapter", metavar="FOLDER", help="merged into the policy before it starts")


def refuse_run_flags(arguments: argparse.Namespace) -> None:
    """Raise UserError if a benchmark without a config was given one, or a key of one."""
    given = [f"--{text.partition('=')[0]}" for text in getattr(arguments, "overrides", ())]
    if arguments.config:
        given.append(str(arguments.config))
    if given:
        raise UserError(
            f"`prompter bench {arguments.what}` takes no {given[0]}: see `prompter bench --help`."
        )


def set_threads(threads: int | None) -> None:
    """Let PyTorch compute in so many threads; None leaves it."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def write_result(result: Any, path: Path | None) -> None:
    """Tell everything that was measured, and write it as JSON, if a path was given."""
    tell(measured=result)
    if path:
        with atomic_write(path) as handle:
            json.dump(result, handle, indent=1)


def run_step(arguments: argparse.Namespace) -> int:
    """Print the ways of making a step, write the JSON if asked to, return 0.

    Raises:
        UserError: for anything wrong with the config.
    """
    config, adapter = _configured(arguments)
    from recipes.benchmarks.step import StepBenchmark
    from recipes.benchmarks.step_table import describe_environment, describe_step, step_text
    from recipes.benchmarks.ways import ways

    with StepBenchmark(config, steps=arguments.steps, adapter=adapter) as benchmark:
        wanted = ways(config)
        if wanted[-1].staleness and arguments.steps < 3:
            raise UserError(
                f"--steps {arguments.steps} is too few with overlap.staleness: nothing is sampled beside the "
                "last step, so that one of at least 3 must be typical."
            )
        if not 0 <= arguments.skip < len(wanted):
            raise UserError(f"--skip {arguments.skip} leaves none of the {len(wanted)} rows: give less.")
        wanted = wanted[arguments.skip :]
        measured = {}
        for one in benchmark.run(wanted):
            print(f"  {one.way.title}: {one.rate:.2f} completions/s", file=sys.stderr, flush=True)
            measured[one.way] = one
        rows = [measured[way] for way in wanted]
        groups = rows[-1].groups[-1]
        result = describe_step(rows, benchmark.floor(groups))
        result["largest_reward_difference"] = benchmark.same_rewards(groups)
        result["rewards_compared"] = sum(len(group.completions) for group in groups)
        result["environment"] = describe_environment(benchmark)
    print(step_text(result))
    write_result(result, arguments.json)
    return 0


def run_rollout(arguments: argparse.Namespace) -> int:
    """Print what rollouts cost by sampler and by segmenter, write the JSON if asked to, return 0.

    Raises:
        UserError: for anything wrong with the config.
    """
    config, adapter = _configured(arguments)
    from recipes.benchmarks.rollout import bench_rollout, rollout_text

    result = bench_rollout(config, rounds=arguments.steps, adapter=adapter)
    print(rollout_text(result))
    write_result(result, arguments.json)
    return 0


RUNS: Mapping[str, Callable[[argparse.Namespace], int]] = {"step": run_step, "rollout": run_rollout}
"""Benchmark -> what runs it."""


def _configured(arguments: argparse.Namespace) -> tuple[TrainConfig, Path | None]:
    """The config that is benchmarked, without vLLM where it is not installed, and the adapter's folder."""
    from prompter.checkpoint import resolve_source
    from recipes.config import check_trainer_keys, load_config
    from recipes.training.quiet import quiet

    if arguments.steps < 1:
        raise UserError(f"--steps must be at least 1, but is {arguments.steps}.")
    overrides = [*([f"seed={arguments.seed}"] if arguments.seed else []), *arguments.overrides]
    config = load_config(arguments.config or CONFIG, overrides)
    config = config.model_copy(update=_flagged(arguments, config))
    folder = None if arguments.adapter is None else Path(resolve_source(arguments.adapter, "adapter"))
    quiet()
    check_trainer_keys(config)
    set_threads(arguments.threads)
    if config.sampler.backend != "hf" and find_spec("vllm") is None:
        print(
            f"vLLM is not installed: hf in place of sampler.backend {config.sampler.backend}", file=sys.stderr
        )
        sampler = config.sampler.model_copy(update={"backend": "hf"})
        config = config.model_copy(update={"sampler": sampler})
    return config, folder


def _flagged(arguments: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """What --executor, --benchmark and the dataset's flags put in place of the config's own."""
    from recipes.commands.arguments import benchmark_parts, dataset_options, parse_executor

    flagged: dict[str, Any] = {}
    if arguments.executor or arguments.executor_fields:
        flagged["executor"] = parse_executor(arguments.executor or "mobile-sam", **arguments.executor_fields)
    options = dataset_options(arguments)
    if arguments.benchmark:
        name, split = benchmark_parts(arguments.benchmark)
        flagged["dataset"] = config.dataset.model_copy(
            update={"name": name, "split": split, "options": options}
        )
    elif options:
        flagged["dataset"] = config.dataset.model_copy(
            update={"options": {**config.dataset.options, **options}}
        )
    return flagged
