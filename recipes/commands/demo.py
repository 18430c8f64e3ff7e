"""Train the shipped policy by GRPO against the real frozen MobileSAM, on a CPU, and show what it learned.

The config is recipes/configs/synthetic-aerial.yaml; any `--dotted.key value` overrides it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prompter.errors import RunStopped

if TYPE_CHECKING:
    from prompter.runs.config_keys import Section

TAKES_OVERRIDES = True

CONFIG = Path(__file__).parents[1] / "configs" / "synthetic-aerial.yaml"


def config_keys() -> list[Section]:
    """Every key of the config, for `--help`; the defaults are the demo's."""
    from recipes.config import load_config, train_sections

    return train_sections(load_config(CONFIG, ["run_dir=runs/demo-…"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--run-dir", type=Path, help="run folder; default: a new one under runs/")


def run(args: argparse.Namespace) -> int:
    """Train, compare, report; the report's path is printed last."""
    started = time.time()
    run_dir = args.run_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    from recipes.commands.train import stopped_line
    from recipes.config import load_config
    from recipes.grpo import train
    from recipes.training.alarms import alarm_lines
    from recipes.training.report import comparison_lines, write_training_report

    try:
        config = load_config(CONFIG, [*args.overrides, f"run_dir={run_dir}"])
        folder = train(config)
    except RunStopped as stopped:
        print(stopped_line(stopped, run_dir, run_dir / "config.yaml"))
        return 0
    report = write_training_report(folder, "A small policy learns to prompt a frozen MobileSAM", trust=True)
    print(*alarm_lines(folder.read_metrics(), config.alarms), *comparison_lines(folder), sep="\n")
    print(f"took {(time.time() - started) / 60:.1f} minutes")
    print(report)
    return 0
