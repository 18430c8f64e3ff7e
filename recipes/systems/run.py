"""The runs of a study of systems: planned, trained and asked, each in processes of their own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.results import RESULTS
from eval.systems import BASE
from prompter.errors import UserError
from prompter.runs.config_keys import yaml_value
from prompter.runs.files import atomic_write
from prompter.runs.values import dump_yaml, load_yaml
from recipes.study.apart import evaluate_apart, run_apart
from recipes.study.config import texts
from recipes.study.run import refuse_other_settings
from recipes.systems.adapters import ADAPTERS, Adapter, Start, load_base
from recipes.systems.config import SystemsConfig

EVALUATION, SECONDS = "benchmark", "seconds.json"
"""Folder of a run's evaluation in its own, and the file there that says how long it took."""

OWN_MASKS = "own-masks"


@dataclass(frozen=True)
class SystemRun:
    """One system with one seed.

    Args:
        arm, seed: which.
        command: that trains it.
        config: of that command, resolved.
        folder: of the run.
        needs: runs with the same seed that have to be finished first: what it starts from, and whose answers
            it imitates.
    """

    arm: str
    seed: int
    command: str
    config: Any
    folder: Path
    needs: tuple[SystemRun, ...] = ()

    @property
    def adapter(self) -> Adapter:
        """Of its command."""
        return ADAPTERS[self.command]

    @property
    def line(self) -> tuple[SystemRun, ...]:
        """All runs that made it what it is, itself the last; each once."""
        line = [one for need in self.needs for one in need.line]
        return (*{one.folder: one for one in line}.values(), self)

    @property
    def questions(self) -> int:
        """Asked while it trains, repeats counted."""
        return self.adapter.questions(self.config)

    @property
    def questions_in_line(self) -> int:
        """Asked while it and those before it train."""
        return sum(one.questions for one in self.line)

    @property
    def policy(self) -> Path:
        """Folder of what was trained."""
        return self.adapter.trained(self.folder, self.config)

    @property
    def evaluation(self) -> Path:
        """Folder of its answers to the study's questions."""
        return self.folder / EVALUATION

    @property
    def settings(self) -> dict[str, Any]:
        """Everything in its config but where it is written, JSON-ready."""
        return dict(self.config.model_dump(mode="json", exclude={self.adapter.folder_key}))


def planned_systems(study: SystemsConfig, out: Path, only: Sequence[str] | None = None) -> list[SystemRun]:
    """Every system with every seed, seeds outermost. A run's folder is `out/ARM/seed-N`.

    Args:
        study: what is compared.
        out: folder of the study.
        only: arms that are to be trained; of the others nobody asks whether they saw as many questions.

    Raises:
        UserError: naming the arm whose config is wrong or sets what all share, or that is to be asked as
            many questions as the reference and is not.
    """
    runs: list[SystemRun] = []
    for seed in study.seeds:
        made: dict[str, SystemRun] = {}
        for name, arm in study.arms.items():
            adapter, folder = ADAPTERS[arm.command], out / name / f"seed-{seed}"
            before, imitated = (None if one is None else made[one] for one in (arm.after, arm.answers))
            start = Start(
                study.policy if before is None else str(before.policy),
                None if imitated is None else imitated.folder,
            )
            shared = {**adapter.shared(study, start), adapter.folder_key: str(folder), "seed": seed}
            _refuse_shared(name, arm.set, shared)
            given = texts({**adapter.usual(study), **arm.set, **shared})
            try:
                config = load_base(adapter, arm.base, given)
            except UserError as error:
                raise UserError(f"arm {name!r}: {error}") from None
            needs = tuple(one for one in (before, imitated) if one is not None)
            made[name] = SystemRun(name, seed, arm.command, config, folder, needs)
        runs += made.values()
    _check_equal(study, runs, only)
    return runs


def _refuse_shared(arm: str, own: Iterable[str], shared: Iterable[str]) -> None:
    for key in own:
        for other in shared:
            if key == other or key.startswith(f"{other}.") or other.startswith(f"{key}."):
                raise UserError(
                    f"arm {arm!r} sets {key!r}, but {other!r} is the same for all systems: leave it out"
                )


def _check_equal(study: SystemsConfig, runs: Sequence[SystemRun], only: Sequence[str] | None) -> None:
    asked = {run.arm: run.questions_in_line for run in runs}
    wanted = asked[study.compared_with]
    for name, arm in study.arms.items():
        if arm.equal == "questions" and asked[name] != wanted and (only is None or name in only):
            raise UserError(
                f"arm {name!r} is to be asked as many questions as {study.compared_with!r}, {wanted:,}, but "
                f"is asked {asked[name]:,}: change its steps or batch_size, or write equal: time"
            )


def finished(run: SystemRun) -> bool:
    """Whether a run was trained to its end."""
    return run.adapter.finished(run.folder, run.config)


def evaluated(run: SystemRun) -> bool:
    """Whether a finished run was asked all of the study's questions, too."""
    return finished(run) and (run.evaluation / RESULTS).exists()


def run_systems(study: SystemsConfig, runs: Sequence[SystemRun], out: Path) -> None:
    """Train each run that is not finished, and ask it; with the reference among them, ask the base first.

    Other arms may be at work in the same folder at the same time: one of two asks the base.

    Raises:
        UserError: if a folder holds a run with other settings, or a run cannot be trained as configured.
        RunStopped: after a signal; the same call goes on from there.
        InfrastructureError: if a run's machines failed.
    """
    folders = {run.folder for run in runs}
    for run in runs:
        check_same(run)
        for need in run.needs:
            if need.folder not in folders and not finished(need):
                raise UserError(
                    f"arm {run.arm!r} goes on from {need.arm!r}, which is not finished with seed {run.seed}: "
                    f"add {need.arm} to --only"
                )
    if any(run.arm == study.compared_with for run in runs):
        _ask(study, study.policy, executor_text(study), out / BASE)
    for number, run in enumerate(runs, start=1):
        what = f"[{number}/{len(runs)}] {run.arm}, seed {run.seed}"
        if finished(run):
            print(f"{what}: finished before", flush=True)
        else:
            print(f"{what}: {run.questions:,} questions into {run.folder}", flush=True)
            train_system(run)
            if not finished(run):
                raise UserError(f"{what} ended without a trained policy; what it printed says why")
        executor = OWN_MASKS if run.adapter.own_masks else executor_text(study)
        _ask(study, f"{run.adapter.prefix}{run.policy}", executor, run.evaluation)


def check_same(run: SystemRun) -> None:
    """Refuse a folder that holds a run of other settings.

    Raises:
        UserError: naming the first key that differs.
    """
    path = config_file(run)
    if path.exists() and run.folder.exists():
        was = run.adapter.model.model_validate(load_yaml(path))
        excluded = {run.adapter.folder_key}
        refuse_other_settings(
            run.arm, run.folder, was.model_dump(mode="json", exclude=excluded), run.settings
        )


def config_file(run: SystemRun) -> Path:
    """The config that a run is started with: beside its folder, where it would say that a run was begun."""
    return run.folder.with_suffix(".yaml")


def train_system(run: SystemRun) -> None:
    """Train one run to its end; one that was broken off goes on from what it saved, or begins anew.

    Raises:
        UserError, InfrastructureError, RunStopped: as `run_apart`.
    """
    with atomic_write(config_file(run)) as handle:
        handle.write(dump_yaml(run.config.model_dump(mode="json")))
    begun = any(run.folder.glob(run.adapter.states))
    if not begun and not run.adapter.takes_resume and run.folder.exists():
        shutil.rmtree(run.folder)  # broken off before it saved anything: its command wants a new folder
    resume = ["--resume"] if begun or run.adapter.takes_resume else []
    run_apart(run.command, str(config_file(run)), *resume)


def executor_text(study: SystemsConfig) -> str:
    """The study's segmenter as `prompter eval --executor` takes it."""
    fields = dict(study.executor)
    family, model = fields.pop("family", "mobile-sam"), fields.pop("model", None)
    head = family if model is None else f"{family}:{model}"
    return ",".join([head, *(f"{key}={yaml_value(value)}" for key, value in fields.items())])


def _ask(study: SystemsConfig, policy: str, executor: str, out: Path) -> None:
    """Ask a policy the study's questions, and keep how long that took if it was done in one go."""
    begun, started = out.exists(), time.time()
    evaluate_apart(policy, executor, study.questions, out)
    if not begun:
        with atomic_write(out / SECONDS) as handle:
            json.dump({"seconds": round(time.time() - started, 2)}, handle)
