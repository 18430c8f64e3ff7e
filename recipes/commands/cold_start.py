"""The cold start: teach a small policy the answer's format and rough localisation.

    prompter cold-start recipes/configs/cold-start.yaml

Trains a small Qwen3-VL from scratch on `synthetic-aerial` (see `recipes.cold_start.model` for the
losses) and exports it every so often, with a card, so that it can be stopped at any time. Optimiser,
schedule and loop are transformers' Trainer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.commands import flags
from recipes.commands.output import tell

if TYPE_CHECKING:
    from prompter.runs.config_keys import Section

TAKES_OVERRIDES = True


def config_keys() -> list[Section]:
    """Every key of the config, for `--help`."""
    from prompter.runs.config_keys import config_sections
    from recipes.cold_start.config import ColdStartConfig

    return config_sections(ColdStartConfig)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags; any further `--dotted.key value` overrides the config."""
    flags.add_config_and_resume(parser)


def run(args: argparse.Namespace) -> int:
    """Run the cold start a config describes."""
    from prompter.runs.config import load_config_model
    from recipes.cold_start.config import ColdStartConfig
    from recipes.cold_start.train import cold_start
    from recipes.commands.arguments import new_output

    config = load_config_model(ColdStartConfig, args.config, args.overrides)
    output = new_output(Path(config.output_dir), resume=args.resume)
    cold_start(config, args.typed, resume=args.resume)
    tell(out=output)
    return 0
