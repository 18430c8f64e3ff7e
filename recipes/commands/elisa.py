"""Train an ELISA policy: it chooses among masks that the frozen segmenter proposes.

    prompter elisa recipes/configs/elisa.yaml
    prompter eval --benchmark synthetic-aerial:test --policy elisa:runs/elisa/policy --executor own-masks \\
        --out runs/elisa-test

A run that was broken off goes on with --resume.
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
    from recipes.elisa.config import ElisaConfig

    return config_sections(ElisaConfig)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags; any further `--dotted.key value` overrides the config."""
    flags.add_config_and_resume(parser)


def run(args: argparse.Namespace) -> int:
    """Train as a config says; print the folder of the policy."""
    from prompter.runs.config import load_config_model
    from recipes.commands.arguments import new_output
    from recipes.elisa.config import ElisaConfig
    from recipes.elisa.train import train_elisa

    config = load_config_model(ElisaConfig, args.config, args.overrides)
    new_output(Path(config.output_dir), resume=args.resume)
    policy = train_elisa(config, args.typed, resume=args.resume)
    tell(policy=policy)
    print(policy)
    return 0
