"""Training while the segmenter's actors are killed: the same rewards, or a clear stop that resumes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.training import PROMPTER, ROOT, THREADS, prompter, wait_for, write_config

pytestmark = pytest.mark.smoke

STEPS = 6


def config_of(folder: Path, policy: Path, **executor: Any) -> Path:
    """Six steps against MobileSAM."""
    return write_config(
        folder / "train.yaml",
        policy,
        executor={"family": "mobile-sam", **executor},
        trainer={"max_steps": STEPS},
        eval={"samples": 1},
        ray={"num_cpus": 2},
    )


def two_actors(max_restarts: int) -> dict[str, Any]:
    return {"backend": "ray", "actors": 2, "num_cpus": 0.5, "threads": 1, "max_restarts": max_restarts}


def actors_of(process: psutil.Process) -> list[psutil.Process]:
    """The segmenter's actors among a run's processes."""
    return [child for child in process.children(recursive=True) if "SegmenterWorker" in _title(child)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def run_and_kill(config: Path) -> tuple[int, str]:
    """Train; kill an actor once step 1 is logged, and all of them once it has been replaced.

    Returns:
        Exit status and stderr.
    """
    folder = RunFolder(config.parent / "run")
    errors = config.parent / "stderr.txt"
    with errors.open("wb") as handle:
        process = subprocess.Popen(
            [*PROMPTER, "train", str(config)],
            cwd=ROOT,
            env={**os.environ, **THREADS},
            stdout=subprocess.DEVNULL,
            stderr=handle,
        )
        try:
            run = psutil.Process(process.pid)
            wait_for(lambda: len(served(folder)) > 0, process)
            actors = actors_of(run)
            assert len(actors) == 2
            kill(actors[0])
            wait_for(lambda: total(served(folder), "restarts") > 0, process)
            deadline = time.monotonic() + 300
            while process.poll() is None and time.monotonic() < deadline:  # whenever it asks one again
                for actor in actors_of(run):
                    kill(actor)
                time.sleep(0.05)
            status = process.wait(10)
        finally:
            process.kill()
    return status, errors.read_text(encoding="utf-8", errors="replace")


def kill(actor: psutil.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(actor.pid, signal.SIGKILL)


def served(folder: RunFolder) -> list[dict[str, Any]]:
    """What is logged of the steps so far."""
    return folder.read_metrics("train")


def total(records: list[dict[str, Any]], counter: str) -> int:
    return sum(record["executor"][counter] for record in records)


def rewards(folder: RunFolder) -> dict[int, list[Any]]:
    """Step -> the rewards of its rollouts, in order."""
    return {
        step: [one["rewards"]["total"] for one in read_lines(path)] for step, path in folder.step_rollouts()
    }


def test_one_killed_actor_changes_nothing_and_all_killed_is_a_clear_stop(tmp_path: Path) -> None:
    save_formatted_policy(tmp_path / "policy")
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    undisturbed, killed = (RunFolder(tmp_path / name / "run") for name in ("undisturbed", "killed"))
    done = prompter("train", config_of(tmp_path / "undisturbed", tmp_path / "policy"))
    assert done.returncode == 0, done.stderr
    expected = rewards(undisturbed)
    assert len(expected) == STEPS and any(sum(values) > 0 for values in expected.values())

    config = config_of(tmp_path / "killed", tmp_path / "policy", **two_actors(max_restarts=1))
    status, errors = run_and_kill(config)
    assert status == 3, errors
    assert "1 restarts are used up" in errors.splitlines()[-1] and "--resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    done_steps = [record["step"] for record in served(killed)]
    assert done_steps == list(range(1, len(done_steps) + 1)) and 2 <= len(done_steps) < STEPS
    assert (total(served(killed), "restarts"), total(served(killed), "failures")) == (1, 0)
    before_the_stop = rewards(killed)
    for step in done_steps:
        assert before_the_stop[step] == expected[step]

    # What was saved is whole: the run goes on from it, to the same rewards.
    resumed = prompter("train", config, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert rewards(killed) == expected
