"""Train the shipped policy by GRPO against the real frozen MobileSAM, on a CPU, and show what it learned.

On drawn scenes the config is recipes/configs/synthetic-aerial.yaml, on real photographs of one place
recipes/configs/adapt-area.yaml; any `--dotted.key value` overrides it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prompter.errors import RunStopped, UserError
from recipes.commands.output import tell

if TYPE_CHECKING:
    from prompter.runs.config_keys import Section

TAKES_OVERRIDES = True

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG = CONFIGS / "synthetic-aerial.yaml"
REAL_CONFIG = CONFIGS / "adapt-area.yaml"

IMAGES = "auto"
"""What the demo trains on when nothing is said: "real" photographs, "drawn" scenes, or real ones if "auto"
can fetch them."""


def config_keys() -> list[Section]:
    """Every key of the config, for `--help`; the defaults are the demo's."""
    from recipes.config import load_config, train_sections

    return train_sections(load_config(CONFIG, ["run_dir=runs/demo-…"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--run-dir", type=Path, help="run folder; default: a new one under runs/")
    parser.add_argument(
        "--images",
        choices=("auto", "real", "drawn"),
        default=IMAGES,
        help="real orthophotos of one place, which are fetched; drawn scenes; or (auto) real ones where they "
        f"can be fetched, else drawn ones (default: {IMAGES})",
    )


def run(args: argparse.Namespace) -> int:
    """Train, compare, report; the report's path is printed last."""
    started = time.time()
    run_dir = args.run_dir or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    from recipes.commands.train import stopped_line, tell_run
    from recipes.config import load_config
    from recipes.grpo import train
    from recipes.training.alarms import alarm_lines
    from recipes.training.report import comparison_lines, write_training_report

    try:
        chosen = demo_config(args.images)
        config = load_config(chosen, [*args.overrides, f"run_dir={run_dir}"])
        folder = train(config)
    except RunStopped as stopped:
        tell(run=run_dir, stopped=stopped.signal_name)
        print(stopped_line(stopped, run_dir, run_dir / "config.yaml"))
        return 0
    place = "one place" if chosen == REAL_CONFIG else "drawn scenes"
    title = f"A small policy learns to prompt a frozen MobileSAM: {place}"
    report = write_training_report(folder, title, trust=True)
    tell_run(folder, report)
    print(*alarm_lines(folder.read_metrics(), config.alarms), *comparison_lines(folder), sep="\n")
    print(f"took {(time.time() - started) / 60:.1f} minutes")
    print(report)
    return 0


def demo_config(images: str) -> Path:
    """The config for `--images`; with "auto", say which it is, and why.

    Raises:
        UserError: for "real", if the photographs cannot be had.
    """
    if images == "drawn":
        return CONFIG
    from envs.datasets.aerial_buildings import fetch_tiles

    try:
        fetch_tiles()
    except UserError as error:
        if images == "real":
            raise
        print(f"Drawn scenes, because the real photographs cannot be had: {error}", flush=True)
        return CONFIG
    if images == "auto":
        print("Real photographs of one place; --images drawn takes drawn scenes.", flush=True)
    return REAL_CONFIG
