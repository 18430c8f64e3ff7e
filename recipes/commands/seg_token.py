"""Embedding-as-mask: train a policy whose [SEG] tokens are decoded into masks, as LISA's are.

    prompter seg-token recipes/configs/seg-token.yaml
    prompter eval --benchmark synthetic-aerial:test --policy seg-token:runs/seg-token \\
        --executor own-masks --out runs/seg-token-eval

The segmenter's image encoder stays frozen behind the cache of embeddings; its mask decoder, the
projection and the language model (all of it, or adapters) are trained.
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
    from recipes.seg_token.config import SegTokenConfig

    return config_sections(SegTokenConfig)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags; any further `--dotted.key value` overrides the config."""
    flags.add_config_and_resume(parser)


def run(args: argparse.Namespace) -> int:
    """Train what a config describes; print the checkpoint's folder."""
    from prompter.runs.config import load_config_model
    from recipes.commands.arguments import new_output
    from recipes.seg_token.config import SegTokenConfig

    config = load_config_model(SegTokenConfig, args.config, args.overrides)
    new_output(Path(config.output_dir), resume=args.resume)
    from recipes.seg_token.train import train_seg_token

    policy = train_seg_token(config, args.typed, resume=args.resume)
    tell(policy=policy)
    print(policy)
    return 0
