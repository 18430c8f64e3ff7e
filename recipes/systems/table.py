"""From the folders of a study of systems to its page: no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from envs.datasets import open_dataset, split_name
from eval.metrics import STRICT, score_file
from eval.report.system_pictures import system_pictures
from eval.report.systems_page import systems_markdown, systems_page
from eval.results import RESULTS, evaluation_files
from eval.systems import BASE, SystemAnswers, compare_systems
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.run_folder import RunFolder
from recipes.systems.config import SystemArm, SystemsConfig
from recipes.systems.cost import run_cost
from recipes.systems.run import SystemRun, check_same, evaluated


def write_systems(study: SystemsConfig, runs: Sequence[SystemRun], out: Path) -> Path:
    """Compare all runs that are trained and asked; write `study.json`, `study.md`, `study.html`.

    Returns:
        Path of the page.

    Raises:
        UserError: if there is no such run, one has other settings than its arm, or was asked other
            questions.
    """
    answers: dict[str, list[SystemAnswers]] = {name: [] for name in study.arms}
    files: dict[str, Path] = {}
    base = out / BASE
    table = None
    if (base / RESULTS).exists():
        files[BASE] = _answers(base, study)
        table = score_file(files[BASE], [STRICT])
    for run in runs:
        if evaluated(run):
            check_same(run)
            path = _answers(run.evaluation, study)
            files.setdefault(run.arm, path)  # pictures are of the first seed
            answers[run.arm].append(
                SystemAnswers(run.seed, score_file(path, [STRICT]), run_cost(run, study.policy))
            )
    if not any(answers.values()):
        raise UserError(f"no run of this study is finished in {out}, so there is nothing to compare")
    reference = study.compared_with
    says = {
        name: (_trained_by(arm), "" if name == reference else _equal(arm)) for name, arm in study.arms.items()
    }
    found = compare_systems(answers, reference, says, table)
    title = f"Systems side by side: {out.name}"
    note = (
        f"Base {study.policy}; trained on {study.dataset.name}:{study.dataset.split}, asked "
        f"{study.questions.benchmark}; the frozen segmenter is {study.executor.get('family', 'mobile-sam')}."
    )
    ordered = {name: files[name] for name in (BASE, *study.arms) if name in files}
    name, split = split_name(study.questions.benchmark)
    samples = open_dataset(name, split or "", **study.questions.options)
    groups = system_pictures(samples, ordered)
    contents = {
        "study.json": json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n",
        "study.md": systems_markdown(title, found, note, study.taught),
        "study.html": systems_page(title, found, note, study.taught, groups),
    }
    for name, content in contents.items():
        with atomic_write(out / name) as handle:
            handle.write(content)
    print(contents["study.md"])
    return out / "study.html"


def _trained_by(arm: SystemArm) -> str:
    """The command of a system, and what it goes on from."""
    from_whom = [f"after {arm.after}"] if arm.after else []
    taught_by = [f"best answers of {arm.answers}"] if arm.answers else []
    return ", ".join([f"prompter {arm.command}", *from_whom, *taught_by])


def _equal(arm: SystemArm) -> str:
    """What a system has as much of as the reference; one that goes on from another has more time."""
    goes_on = arm.after is not None or arm.answers is not None
    return "" if goes_on and arm.equal == "time" else arm.equal


def _answers(folder: Path, study: SystemsConfig) -> Path:
    """The file of an evaluation's rollouts.

    Raises:
        UserError: if it was asked something else than the study asks.
    """
    config, asked = RunFolder.open(folder).read_config(), study.questions
    was = (config.get("benchmark"), config.get("dataset_options") or {}, config.get("limit"))
    if was != (asked.benchmark, asked.options, asked.limit):
        raise UserError(f"{folder} answers other questions than the study asks now: remove it, and run again")
    return evaluation_files(RunFolder(folder))[0]
