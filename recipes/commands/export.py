"""Write a trained policy as a folder that other programs load: merged weights, protocol, model card.

    prompter export runs/ours-3b -o exports/ours-3b
    prompter export runs/ours-3b/checkpoints/checkpoint-1200 -o exports/step-1200 --dtype bfloat16
    prompter export runs/seed-0 runs/seed-1 runs/seed-2 -o exports/mean

Of several, which began as one policy and differ by their seed, it writes the mean of their weights.

The folder loads in transformers (AutoModelForImageTextToText, AutoProcessor), in vLLM, and in
`prompter eval --policy FOLDER`.
"""

from __future__ import annotations

import argparse
from typing import get_args

from recipes.commands import flags
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from recipes.exporting.export import SHARD_SIZE, Dtype

    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RUN_OR_CHECKPOINT",
        help="a run's folder, a checkpoint in it, or shipped:NAME; of several, the mean of their weights",
    )
    flags.add_out(parser, "the new folder", required=True)
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        default="auto",
        help="of the weights (default: auto, as they were saved)",
    )
    parser.add_argument(
        "--shard-size",
        default=SHARD_SIZE,
        metavar="SIZE",
        help=f"largest file of weights (default: {SHARD_SIZE})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder; print what it holds and its path. Return 0."""
    from recipes.exporting.export import export
    from recipes.training.quiet import quiet

    quiet()
    folder = export(arguments.sources, arguments.out, dtype=arguments.dtype, shard_size=arguments.shard_size)
    files = sorted(folder.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    tell(out=folder, weights=files, bytes=size)
    print(f"{len(files)} file(s) of weights, {size / 1e9:.3f} GB, prompter.json, README.md")
    print(folder)
    return 0
