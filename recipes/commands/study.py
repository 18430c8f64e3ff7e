"""Train named variants of a config with several seeds, one after the other; end in a table with intervals.

    prompter study recipes/configs/studies/where.yaml -o runs/where --only plain,group-64 --seeds 0,1

A study names a `base` config, what all its arms have otherwise (`set`), the `arms` with the dotted keys that
each changes, and `seeds`. Every run is a `prompter train` run in OUT/ARM/seed-N. Runs that are finished are
skipped and one that was broken off goes on, so the same command again resumes a study. Arms have to sample
equally many completions, or the study says `completions: any`. Any further `--dotted.key value` overrides the
base and `set`, not the arms. With `trains: seg-token` the runs are those of `prompter seg-token`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from prompter.errors import RunStopped, UserError, did_you_mean
from recipes.commands import flags
from recipes.commands.output import tell

if TYPE_CHECKING:
    from prompter.runs.config_keys import Section
    from recipes.study.config import StudyConfig

TAKES_OVERRIDES = True


def config_keys() -> list[Section]:
    """Every key of the configs that are trained, for `--help`."""
    from recipes.config import train_sections

    return train_sections()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", type=Path, help="YAML file of a study")
    flags.add_out(parser, "folder of the study", required=True)
    parser.add_argument("--only", metavar="ARM,ARM", help="train only these arms")
    parser.add_argument("--seeds", metavar="N,N", help="these seeds instead of the study's")
    parser.add_argument("--rescore", action="store_true", help="train nothing, write the table anew")
    parser.add_argument("--list", action="store_true", help="say which runs there are, and stop")


def run(arguments: argparse.Namespace) -> int:
    """Train what is missing and write `study.json`, `study.md`, `study.html`; return 0."""
    from recipes.study.config import load_study, planned_runs
    from recipes.study.run import finished, run_all
    from recipes.study.table import write_table

    study = load_study(arguments.study)
    if arguments.seeds is not None:
        study = study.model_copy(update={"seeds": _seeds(arguments.seeds)})
    chosen = _chosen(study, arguments.only)
    if study.trains == "seg-token":
        from recipes.seg_token.study import run_study

        return run_study(study, arguments, chosen)
    runs = planned_runs(study, arguments.out, arguments.overrides, chosen)
    if arguments.list:
        for one in runs:
            state = "finished" if finished(one) else "to do" if one.arm in chosen else "not asked for"
            print(f"{one.arm}  seed {one.seed}  {one.completions:,} completions  {state}")
        tell(runs=[{"arm": one.arm, "seed": one.seed, "finished": finished(one)} for one in runs])
        return 0
    stopped: RunStopped | None = None
    if not arguments.rescore:
        try:
            run_all([one for one in runs if one.arm in chosen])
        except RunStopped as signal:
            stopped = signal
    if stopped is not None and not any(finished(one) for one in runs):
        print(f"{stopped.signal_name}: stopped; the same command goes on from there")
        return 0
    page = write_table(study, runs, arguments.out)
    tell(
        out=arguments.out,
        page=page,
        table=json.loads((arguments.out / "study.json").read_text(encoding="utf-8")),
        stopped=None if stopped is None else stopped.signal_name,
    )
    if stopped is not None:
        print(f"{stopped.signal_name}: stopped; the same command goes on from there")
    print(page)
    return 0


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(one) for one in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds takes whole numbers such as 0,1,2, but got {text!r}.") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds takes different numbers from 0, but got {text!r}.")
    return seeds


def _chosen(study: StudyConfig, only: str | None) -> list[str]:
    names = list(study.arms) if only is None else only.split(",")
    for name in names:
        if name not in study.arms:
            raise UserError(f"--only: there is no arm {name!r}.{did_you_mean(name, study.arms)}")
    return names
