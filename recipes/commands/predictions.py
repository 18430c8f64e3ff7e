"""Write the predictions of an evaluation for other programs.

    prompter predictions runs/earthreason --form rle --out preds.json
    prompter predictions runs/earthreason --form polygons --segmenter mobile-sam --out preds.jsonl
    prompter predictions runs/earthreason --form png --out masks

`rle` and `polygons` write COCO's results, one JSON array, or JSON Lines where the file ends in .jsonl; `png`
a folder of masks with an index. `prompter score` reads each of them, and gives the run's numbers again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from eval.results import evaluation_files
from eval.submission.export import FORMS, export
from prompter.errors import UserError, did_you_mean
from prompter.runs.run_folder import RunFolder
from recipes.commands import flags
from recipes.commands.output import tell
from rewards.replay import read_rollouts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, help="a folder written by `prompter eval`")
    parser.add_argument("--form", choices=FORMS, default="rle", help="of the masks (default: rle)")
    parser.add_argument(
        "--segmenter", metavar="NAME", help="whose masks, where the run has several segmenters"
    )
    flags.add_out(parser, "new file, or new folder for png", required=True)


def run(arguments: argparse.Namespace) -> int:
    """Write the file or folder; print what was written and its path. Return 0."""
    files = {path.stem: path for path in evaluation_files(RunFolder.open(arguments.run))}
    name = arguments.segmenter or next(iter(files))
    if arguments.segmenter is None and len(files) > 1:
        raise UserError(f"{arguments.run} holds masks of {', '.join(files)}; choose by --segmenter.")
    if name not in files:
        raise UserError(f"{arguments.run} holds no masks of {name!r}.{did_you_mean(name, files)}")
    done = export(read_rollouts(files[name]), arguments.form, arguments.out)
    lost = f"; {done.pixels_lost} pixels differ from the masks" if arguments.form == "polygons" else ""
    tell(out=arguments.out, **asdict(done))
    print(f"{done.masks} masks of {done.samples} samples{lost}: {arguments.out}")
    return 0
