"""Studies of seg-token policies: `prompter study` with `trains: seg-token`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.results import evaluation_files
from eval.study import SeedResult, compare_arms, seed_result, write_study
from prompter.errors import UserError
from prompter.runs.config import load_config_model
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from prompter.runs.values import dump_yaml, load_yaml
from recipes.seg_token.config import SegTokenConfig
from recipes.seg_token.train import METRICS, POLICY, trained_to_the_end
from recipes.study.apart import evaluate_apart, run_apart
from recipes.study.config import StudyConfig, texts
from recipes.study.run import refuse_other_settings
from recipes.study.table import logged_minutes


@dataclass(frozen=True)
class SegRun:
    """One arm with one seed; `config.output_dir` is where it trains."""

    arm: str
    seed: int
    config: SegTokenConfig

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.config.output_dir)

    @property
    def samples(self) -> int:
        """Questions that it learns from, repeated ones counted again."""
        return self.config.steps * self.config.batch_size


def planned(study: StudyConfig, out: Path, overrides: Sequence[str]) -> list[SegRun]:
    """Every arm with every seed, seeds outermost. A run's folder is `out/ARM/seed-N`.

    Raises:
        UserError: naming the arm whose config is wrong, or that sees another number of questions than the
            reference where the study wants them `equal`.
    """
    runs = []
    for seed in study.seeds:
        for arm, changes in study.arms.items():
            given = [*texts(study.set), *overrides, *texts(changes)]
            given += [f"output_dir={out / arm / f'seed-{seed}'}", f"seed={seed}"]
            try:
                config = load_config_model(SegTokenConfig, Path(study.base), given)
            except UserError as error:
                raise UserError(f"arm {arm!r}: {error}") from None
            runs.append(SegRun(arm, seed, config))
    samples = {run.arm: run.samples for run in runs}
    other = {arm: count for arm, count in samples.items() if count != samples[study.compared_with]}
    if study.completions == "equal" and other:
        told = ", ".join(f"{arm} {count:,}" for arm, count in other.items())
        raise UserError(
            f"the arms see different numbers of questions: {study.compared_with} "
            f"{samples[study.compared_with]:,}, but {told}. Change steps or batch_size, or write "
            f"completions: any into the study"
        )
    return runs


def finished(run: SegRun) -> bool:
    """Whether a run was trained to its last step."""
    return trained_to_the_end(run.folder, run.config.steps)


def run_study(study: StudyConfig, arguments: argparse.Namespace, chosen: Sequence[str]) -> int:
    """Train and evaluate what is missing, write the study's table, print the page's path; return 0.

    What the reference arm answers before training is asked once, for all arms and for seeds that are asked
    for later.
    """
    out = Path(arguments.out)
    runs = planned(study, out, arguments.overrides)
    if arguments.list:
        for run in runs:
            state = "finished" if finished(run) else "to do" if run.arm in chosen else "not asked for"
            print(f"{run.arm}  seed {run.seed}  {run.samples:,} questions  {state}")
        return 0
    if not arguments.rescore:
        first = next(run for run in runs if run.arm == study.compared_with)
        seed = _seed_of(out / "before", first.seed)
        untrained = {"steps": 0, "output_dir": str(out / "before"), "seed": seed}
        _train(SegRun("before", seed, first.config.model_copy(update=untrained)))
        _evaluate(study, out / "before")
        for run in runs:
            if run.arm in chosen:
                _train(run)
                _evaluate(study, run.folder)
    before = evaluation_files(RunFolder(out / "before" / "eval"))[0]
    results: dict[str, list[SeedResult]] = {arm: [] for arm in study.arms}
    for run in runs:
        if finished(run) and (run.folder / "eval" / "config.yaml").exists():
            results[run.arm].append(
                seed_result(
                    run.seed,
                    before,
                    evaluation_files(RunFolder(run.folder / "eval"))[0],
                    completions=run.samples,
                    minutes=logged_minutes(read_lines(run.folder / METRICS)) or 0.0,
                )
            )
    if not any(results.values()):
        raise UserError(f"no run of this study is finished in {out}, so there is nothing to compare")
    arms = compare_arms(results, study.compared_with)
    print(write_study(out, arms, study.compared_with, f"Study {out.name}"))
    return 0


def _seed_of(folder: Path, otherwise: int) -> int:
    """The seed of the run that is in a folder."""
    config = folder.with_suffix(".yaml")
    return int(load_yaml(config)["seed"]) if config.exists() and folder.exists() else otherwise


def _train(run: SegRun) -> None:
    """`prompter seg-token` in a process of its own, unless the run is finished.

    Raises:
        UserError: if the folder holds a run with other settings.
    """
    config = run.folder.with_suffix(".yaml")
    if config.exists() and run.folder.exists():
        was = SegTokenConfig.model_validate(load_yaml(config))
        before, now = (one.model_dump(mode="json", exclude={"output_dir"}) for one in (was, run.config))
        refuse_other_settings(run.arm, run.folder, before, now)
    if finished(run) or (not run.config.steps and (run.folder / POLICY).is_dir()):
        return
    with atomic_write(config) as handle:
        handle.write(dump_yaml(run.config.model_dump(mode="json")))
    begun = any(run.folder.glob("trainer/checkpoint-*/trainer_state.json"))
    if not begun and run.folder.exists():
        shutil.rmtree(run.folder)  # broken off before it saved anything: the command wants a new folder
    run_apart("seg-token", str(config), *(["--resume"] if begun else []))


def _evaluate(study: StudyConfig, folder: Path) -> None:
    """`prompter eval` of a run's checkpoint, in a process of its own, unless that is done."""
    evaluate_apart(f"seg-token:{folder / POLICY}", "own-masks", study.questions, folder / "eval")
