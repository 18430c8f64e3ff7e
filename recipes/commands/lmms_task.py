"""Write a benchmark as a task of lmms-eval, so that any model that lmms-eval runs is measured by our metrics.

    prompter lmms-task --benchmark earthreason:test --executor mobile-sam --out tasks
    lmms-eval --model qwen2_5_vl --model_args pretrained=Qwen/Qwen2.5-VL-3B-Instruct \\
        --include_path tasks --tasks prompter_earthreason_test
    lmms-eval --model prompter --model_args policy=my-checkpoint \\
        --include_path tasks --tasks prompter_earthreason_test

Models are asked as `--policy-option` says (the options of an endpoint: frame=thousandths, image.side=840, …),
their answers read by our parser, segmented by `--executor` (`box` scores boxes) and scored by our protocols.
The folder names the benchmark on this machine: write it anew on another one. See docs/submitting.md.
"""

from __future__ import annotations

import argparse

from eval.lmms_tasks.task import TaskSettings
from eval.lmms_tasks.write import chosen_metrics, task_name, write_task
from eval.protocols import PROTOCOLS
from prompter.errors import UserError
from prompter.runs.values import read_options
from recipes.commands import flags
from recipes.commands.arguments import dataset_options, open_benchmark, parse_executors
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    flags.add_benchmark(parser)
    flags.add_dataset_flags(parser)
    flags.add_policy_option(parser)
    flags.add_executor(parser, several=True)
    parser.add_argument(
        "--protocol", default="strict", metavar="A,B,…", help=f"of {', '.join(PROTOCOLS)} (default: strict)"
    )
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="a metric to report; repeatable (default: the main ones)",
    )
    flags.add_limit(parser)
    flags.add_out(parser, "folder of the task, for lmms-eval's --include_path", required=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the task and print its name and path; return 0."""
    if not arguments.benchmark:
        raise UserError("Give --benchmark; `prompter lmms-task --help` shows examples.")
    executors = parse_executors(arguments, "box")
    if len(executors) > 1:
        raise UserError("A task has one segmenter; give --executor once.")
    protocols = [name.strip() for name in arguments.protocol.split(",") if name.strip()]
    source = open_benchmark(arguments, arguments.benchmark)
    settings = TaskSettings(
        benchmark=arguments.benchmark,
        dataset_options=dataset_options(arguments),
        policy_options=read_options(arguments.policy_option, "--policy-option"),
        executor=executors[0],
        metrics=chosen_metrics(protocols, arguments.metric),
    )
    path = write_task(arguments.out, settings, source, arguments.limit)
    tell(task=task_name(arguments.benchmark), file=path)
    print(f"{task_name(arguments.benchmark)}: {path}")
    return 0
