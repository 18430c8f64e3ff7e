"""From the run folders of a study to its table: no model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.results import evaluation_files
from eval.study import SeedResult, compare_arms, seed_result, write_study
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.study.config import PlannedRun, StudyConfig
from recipes.study.run import check_same, finished

_NOT_TRAINING = "evaluate"
"""Phase of a timeline that is not counted as training."""


def write_table(study: StudyConfig, runs: Sequence[PlannedRun], out: Path) -> Path:
    """Compare all finished runs of a study; write `study.json`, `study.md`, `study.html`; return the page.

    Raises:
        UserError: if no run is finished, or one has other settings than its arm.
    """
    results: dict[str, list[SeedResult]] = {arm: [] for arm in study.arms}
    for run in runs:
        if finished(run):
            check_same(run)
            folder = RunFolder(run.folder)
            before, after = (
                evaluation_files(RunFolder(folder.path / "eval" / name))[0] for name in ("before", "after")
            )
            results[run.arm].append(
                seed_result(
                    run.seed,
                    before,
                    after,
                    completions=sum(record.get("completions", 0) for record in folder.read_metrics("train")),
                    minutes=busy_seconds(folder.read_timeline()) / 60,
                )
            )
    if not any(results.values()):
        raise UserError(f"no run of this study is finished in {out}, so there is nothing to compare")
    return write_study(
        out, compare_arms(results, study.compared_with), study.compared_with, f"Study {out.name}"
    )


def busy_seconds(timeline: Iterable[Mapping[str, Any]]) -> float:
    """Seconds in which a run was at work on training: the union of its phases, evaluations left out.

    Args:
        timeline: events of `RunFolder.read_timeline`. The time between a stop and a resumption is in none.
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(
        (event["start_s"], event["end_s"]) for event in timeline if event["phase"] != _NOT_TRAINING
    ):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def logged_minutes(lines: Iterable[Mapping[str, Any]]) -> float | None:
    """Minutes of a run from lines that count them from its start, or from where it was resumed.

    Args:
        lines: as they were logged; a resumed run counts from 0 again.
    """
    total, last, known = 0.0, 0.0, False
    for line in lines:
        now = float(line["minutes"])
        if now < last:
            total += last
        last, known = now, True
    return total + last if known else None
