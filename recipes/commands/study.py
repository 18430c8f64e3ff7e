"""Train named variants of a config with several seeds, one after the other; end in a table with intervals.

    prompter study recipes/configs/studies/where.yaml -o runs/where --only plain,group-64 --seeds 0,1

A study names a `base` config, what all its arms have otherwise (`set`), the `arms` with the dotted keys that
each changes, and `seeds`. Every run is a `prompter train` run in OUT/ARM/seed-N. Runs that are finished are
skipped and one that was broken off goes on, so the same command again resumes a study. Arms have to sample
equally many completions, or the study says `completions: any`. Any further `--dotted.key value` overrides the
base and `set`, not the arms. With `trains: seg-token` the runs are those of `prompter seg-token`; with
`trains: systems` each arm says which command trains it, and the page sets all of them side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from prompter.errors import RunStopped, UserError, did_you_mean
from recipes.commands import flags
from recipes.commands.output import tell
from recipes.commands.train import config_keys as config_keys

TAKES_OVERRIDES = True

_GOES_ON = "{}: stopped; the same command goes on from there"


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
    from recipes.systems.config import is_of_systems

    if is_of_systems(arguments.study):
        return _run_systems(arguments)
    study = load_study(arguments.study)
    if arguments.seeds is not None:
        study = study.model_copy(update={"seeds": _seeds(arguments.seeds)})
    chosen = _chosen(study.arms, arguments.only)
    if study.trains == "seg-token":
        from recipes.seg_token.study import run_study

        try:
            return run_study(study, arguments, chosen)
        except RunStopped as signal:
            print(_GOES_ON.format(signal.signal_name))
            return 0
    runs = planned_runs(study, arguments.out, arguments.overrides, chosen)
    if arguments.list:
        return _list(runs, chosen, finished, lambda one: f"{one.completions:,} completions")
    stopped: RunStopped | None = None
    if not arguments.rescore:
        try:
            run_all([one for one in runs if one.arm in chosen])
        except RunStopped as signal:
            stopped = signal
    if stopped is not None and not any(finished(one) for one in runs):
        print(_GOES_ON.format(stopped.signal_name))
        return 0
    page = write_table(study, runs, arguments.out)
    tell(
        out=arguments.out,
        page=page,
        table=json.loads((arguments.out / "study.json").read_text(encoding="utf-8")),
        stopped=None if stopped is None else stopped.signal_name,
    )
    if stopped is not None:
        print(_GOES_ON.format(stopped.signal_name))
    print(page)
    return 0


def _run_systems(arguments: argparse.Namespace) -> int:
    """`trains: systems`: train and ask what is missing, write the page; return 0."""
    from recipes.systems.config import load_systems
    from recipes.systems.run import evaluated, planned_systems, run_systems
    from recipes.systems.table import write_systems

    study = load_systems(arguments.study, arguments.overrides)
    if arguments.seeds is not None:
        study = study.model_copy(update={"seeds": _seeds(arguments.seeds)})
    chosen = _chosen(study.arms, arguments.only)
    runs = planned_systems(study, arguments.out, chosen)
    if arguments.list:
        return _list(runs, chosen, evaluated, lambda one: f"{one.command}  {one.questions:,} questions")
    stopped: RunStopped | None = None
    if not arguments.rescore:
        try:
            run_systems(study, [one for one in runs if one.arm in chosen], arguments.out)
        except RunStopped as signal:
            stopped = signal
    page = None
    if stopped is None or any(evaluated(one) for one in runs):
        page = write_systems(study, runs, arguments.out)
        print(page)
    tell(out=arguments.out, page=page, stopped=None if stopped is None else stopped.signal_name)
    if stopped is not None:
        print(_GOES_ON.format(stopped.signal_name))
    return 0


def _list(
    runs: Iterable[Any], chosen: Sequence[str], done: Callable[[Any], bool], says: Callable[[Any], str]
) -> int:
    """Print a line for each run, in between what `says` tells of it; return 0."""
    told = [(one, done(one)) for one in runs]
    for one, is_done in told:
        state = "finished" if is_done else "to do" if one.arm in chosen else "not asked for"
        print(f"{one.arm}  seed {one.seed}  {says(one)}  {state}")
    tell(runs=[{"arm": one.arm, "seed": one.seed, "finished": is_done} for one, is_done in told])
    return 0


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(one) for one in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds takes whole numbers such as 0,1,2, but got {text!r}.") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds takes different numbers from 0, but got {text!r}.")
    return seeds


def _chosen(arms: Iterable[str], only: str | None) -> list[str]:
    known = list(arms)
    names = known if only is None else only.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"--only: there is no arm {name!r}.{did_you_mean(name, known)}")
    return names
