"""The runs of a study, one after the other: what is finished is skipped, what was broken off goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.files import atomic_folder, atomic_write
from recipes.config import dump_config, load_config
from recipes.study.apart import run_apart
from recipes.study.config import PlannedRun

BEFORE = ("eval", "before")
"""Where in a run folder the evaluation of the untrained policy is."""

Launch = Callable[[PlannedRun], None]
"""Trains a run to its end or raises; goes on with one that is begun."""


def finished(run: PlannedRun) -> bool:
    """Whether a run was trained to its end: the trained policy is what is written last."""
    return (run.folder / "checkpoints" / "final").is_dir()


def run_all(runs: Sequence[PlannedRun], launch: Launch | None = None) -> None:
    """Train each run that is not finished; what the untrained policy answers is asked once and shared.

    Args:
        runs: in the order in which they are trained.
        launch: trains one; None starts `prompter train` in a process of its own.

    Raises:
        UserError: if a folder holds a run with other settings, or a run cannot be trained as configured.
        RunStopped: after a signal; the same call goes on from there.
        InfrastructureError: if a run's machines failed.
    """
    for run in runs:
        check_same(run)
    for number, run in enumerate(runs, start=1):
        what = f"[{number}/{len(runs)}] {run.arm}, seed {run.seed}"
        if finished(run):
            print(f"{what}: finished before", flush=True)
            continue
        print(f"{what}: {run.completions:,} completions into {run.folder}", flush=True)
        share_before(run, runs)
        (launch or train_apart)(run)
        if not finished(run):
            raise UserError(f"{what} ended without a trained policy; what it printed says why")


def check_same(run: PlannedRun) -> None:
    """Refuse a folder that holds a run of other settings, which would be compared as if it had these.

    Raises:
        UserError: naming the first key that differs.
    """
    path = run.folder / "config.yaml"
    if not path.exists():
        return
    excluded = {"run_dir"}
    refuse_other_settings(
        run.arm,
        run.folder,
        load_config(path).model_dump(mode="json", exclude=excluded),
        run.config.model_dump(mode="json", exclude=excluded),
    )


def refuse_other_settings(arm: str, folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a run's folder whose settings are not those of its arm.

    Args:
        arm: its name.
        folder: of the run.
        was: the settings that it was trained with.
        now: those of the arm.

    Raises:
        UserError: naming the first key that differs.
    """
    flat = _flat(was), _flat(now)
    for key in {**flat[0], **flat[1]}:
        first, second = (one.get(key) for one in flat)
        if first != second:
            raise UserError(
                f"{folder} holds a run with {key} {first!r}, but arm {arm!r} has {second!r}: remove that "
                "folder, or give another --out"
            )


def share_before(run: PlannedRun, runs: Sequence[PlannedRun]) -> Path | None:
    """Copy the evaluation before training from a run with the same policy, questions, segmenters and engines.

    Returns:
        The run folder that it was taken from; None if there is none, or this run has one.
    """
    own = run.folder.joinpath(*BEFORE)
    if own.exists():
        return None
    for other in runs:
        there = other.folder.joinpath(*BEFORE)
        if finished(other) and there.is_dir() and _asked_before(other) == _asked_before(run):
            own.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(own) as unfinished:
                shutil.copytree(there, unfinished, dirs_exist_ok=True)
            return other.folder
    return None


def _asked_before(run: PlannedRun) -> object:
    """What the answers of an untrained policy hang on. The seed does not: they are greedy."""
    config = run.config
    policy = config.policy.model_dump(mode="json", include={"model", "dtype", "quantise", "settings"})
    return (
        policy,
        config.held_out.model_dump(mode="json"),
        config.model_dump(mode="json", include={"executor", "sampler"}),
    )


def train_apart(run: PlannedRun) -> None:
    """`prompter train` in a process of its own, which hears the signals that this one is sent.

    Raises:
        UserError, InfrastructureError: as the exit code says; the process has printed why.
        RunStopped: if it was asked to stop.
    """
    # Beside the folder: in it a config would say that a run was begun there.
    config = run.folder.with_suffix(".yaml")
    with atomic_write(config) as handle:
        handle.write(dump_config(run.config))
    run_apart("train", str(config), "--resume")


def _flat(value: object, key: str = "") -> dict[str, object]:
    """Dotted keys of nested mappings, and what stands there."""
    if not isinstance(value, Mapping):
        return {key: value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{key}.{name}" if key else str(name))
    return found
