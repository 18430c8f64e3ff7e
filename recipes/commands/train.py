"""Train a policy by GRPO, as a config says.

Any further `--dotted.key value` overrides the config: `--executor.backend local --trainer.max_steps 20`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prompter.errors import InfrastructureError, RunStopped, UserError
from recipes.commands.output import tell
from recipes.shipped import shipped_recipes

if TYPE_CHECKING:
    from prompter.runs.config_keys import Section
    from prompter.runs.run_folder import RunFolder
    from recipes.config import TrainConfig

TAKES_OVERRIDES = True


def config_keys() -> list[Section]:
    """Every key of the config, for `--help`."""
    from recipes.config import train_sections

    return train_sections()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "config",
        type=Path,
        help="YAML config, the config.yaml of an earlier run, or the name of a recipe: "
        f"{', '.join(shipped_recipes())}",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in its run_dir")
    half = parser.add_mutually_exclusive_group()
    half.add_argument(
        "--rollout-only", action="store_true", help="sample and score the windows of a run, but train nothing"
    )
    half.add_argument(
        "--train-only",
        type=Path,
        metavar="RUN",
        help="train on the rollouts that the run in this folder saved; sample and segment nothing",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check files, sizes, frames and memory without starting; exit code 2 if something is wrong",
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from recipes.config import dump_config, load_config

    config = load_config(args.config, args.overrides)
    if args.print_config:
        tell(config=config.model_dump(mode="json"))
        print(dump_config(config), end="")
        return 0
    if args.dry_run:
        from recipes.dry_run.findings import table
        from recipes.dry_run.run import dry_run
        from recipes.training.quiet import quiet

        quiet()
        findings = dry_run(config, resume=args.resume)
        tell(findings=[asdict(one) for one in findings])
        print(table(findings))
        return 2 if any(one.state == "wrong" for one in findings) else 0
    if args.rollout_only or args.train_only is not None:
        return _half(args, config)
    from recipes.grpo import train
    from recipes.training.alarms import alarm_lines
    from recipes.training.ranks.world import ranks_by_environment
    from recipes.training.report import comparison_lines, write_training_report

    try:
        folder = train(config, resume=args.resume)
    except RunStopped as stopped:
        if ranks_by_environment()[0] == 0:
            tell(run=config.run_dir, stopped=stopped.signal_name)
            print(stopped_line(stopped, config.run_dir, args.config))
        return 0
    except InfrastructureError as error:
        again = f"`prompter train {args.config} --resume` goes on from the last checkpoint"
        raise InfrastructureError(f"{error}. {again}.") from error
    if ranks_by_environment()[0] > 0:
        return 0
    report = write_training_report(folder, trust=True)
    tell_run(folder, report)
    print(*alarm_lines(folder.read_metrics(), config.alarms), *comparison_lines(folder), sep="\n")
    print(report)
    return 0


def _half(args: argparse.Namespace, config: TrainConfig) -> int:
    """Rollouts without training, or training without rollouts."""
    from recipes.training.debugging import collect_rollouts, train_on_rollouts

    if args.resume:
        raise UserError("--resume goes on with a whole run, not with --rollout-only or --train-only")
    if config.ranks.count > 1:
        raise UserError("--rollout-only and --train-only are one process: leave ranks.count out")
    try:
        if args.train_only is None:
            folder = collect_rollouts(config)
        else:
            folder = train_on_rollouts(config, args.train_only)
    except RunStopped as stopped:
        tell(run=config.run_dir, stopped=stopped.signal_name)
        print(f"{stopped.signal_name}: stopped; what {config.run_dir} holds is whole, and is not resumed")
        return 0
    tell(run=folder.path, metrics=folder.metrics_path)
    print(folder.metrics_path)
    return 0


def tell_run(folder: RunFolder, report: Path) -> None:
    """Tell what became of a whole run: its page, its alarms, and each held-out evaluation."""
    lines = list(folder.read_metrics())
    tell(
        run=folder.path,
        report=report,
        evaluations=[line for line in lines if line["kind"] == "eval"],
        alarms=[line for line in lines if line["kind"].startswith("alarm/")],
    )


def stopped_line(stopped: RunStopped, run_dir: Path | str, config: Path) -> str:
    """What a run says that was asked to stop: how far it came, and how to go on."""
    from prompter.runs.run_folder import RunFolder
    from recipes.training.checkpoints import newest_checkpoint, step_of

    done = step_of(newest_checkpoint(RunFolder(run_dir).checkpoints_dir))
    return (
        f"{stopped.signal_name}: stopped with {done} optimiser steps saved; "
        f"`prompter train {config} --resume` goes on from there"
    )
