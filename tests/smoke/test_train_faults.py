"""Training while the segmenter's actors are killed: the same rewards, or a clear stop that resumes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from prompter.run_folder import RunFolder
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.training import PROMPTER, ROOT, STEPS, THREADS, prompter, wait_for, write_config

pytestmark = pytest.mark.smoke


def config_of(folder: Path, policy: Path, **executor: Any) -> Path:
    """Four steps against MobileSAM."""
    return write_config(
        folder / "train.yaml",
        policy,
        executor={"family": "mobile-sam", **executor},
        eval={"samples": 1},
        ray={"num_cpus": 2},
    )


def two_actors(max_restarts: int) -> dict[str, Any]:
    return {"pool": "ray", "actors": 2, "num_cpus": 0.5, "threads": 1, "max_restarts": max_restarts}


def actors_of(process: psutil.Process) -> list[psutil.Process]:
    """The segmenter's actors among a run's processes."""
    return [child for child in process.children(recursive=True) if "SegmenterWorker" in _title(child)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def run_and_kill(config: Path, kill: Callable[[psutil.Process], None]) -> tuple[int, str]:
    """Train; once step 1 is logged, hence during step 2, let `kill` do its work. Exit status and stderr."""
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
            wait_for(lambda: b'"step":1,"kind":"train"' in metrics_of(folder), process)
            kill(psutil.Process(process.pid))
            status = process.wait(300)
        finally:
            process.kill()
    return status, errors.read_text(encoding="utf-8", errors="replace")


def metrics_of(folder: RunFolder) -> bytes:
    return folder.metrics_path.read_bytes() if folder.metrics_path.exists() else b""


def kill_one(process: psutil.Process) -> None:
    actors = actors_of(process)
    assert len(actors) == 2
    os.kill(actors[0].pid, signal.SIGKILL)


def kill_all(process: psutil.Process) -> None:
    for actor in actors_of(process):
        os.kill(actor.pid, signal.SIGKILL)


def rewards(folder: RunFolder) -> dict[int, list[Any]]:
    """Step -> the rewards of its rollouts, in order."""
    return {
        step: [one["rewards"]["total"] for one in folder.iter_rollouts(path)]
        for step, path in folder.step_rollouts()
    }


def restarts(folder: RunFolder) -> int:
    return sum(record["executor"]["restarts"] for record in folder.read_metrics("train"))


def test_killed_actors(tmp_path: Path) -> None:
    save_formatted_policy(tmp_path / "policy")
    folders = {}
    for name in ("undisturbed", "one", "all"):
        (tmp_path / name).mkdir()
        folders[name] = RunFolder(tmp_path / name / "run")
    done = prompter("train", config_of(tmp_path / "undisturbed", tmp_path / "policy"))
    assert done.returncode == 0, done.stderr
    expected = rewards(folders["undisturbed"])
    assert len(expected) == STEPS and any(sum(values) > 0 for values in expected.values())
    assert restarts(folders["undisturbed"]) == 0

    status, errors = run_and_kill(config_of(tmp_path / "one", tmp_path / "policy", **two_actors(2)), kill_one)
    assert status == 0, errors
    assert rewards(folders["one"]) == expected
    assert restarts(folders["one"]) == 1

    config = config_of(tmp_path / "all", tmp_path / "policy", **two_actors(0))
    status, errors = run_and_kill(config, kill_all)
    assert status == 3
    assert "0 restarts are used up" in errors.splitlines()[-1], errors
    assert "Traceback" not in errors
    assert len(folders["all"].read_metrics("train")) < STEPS
    # What was saved before is whole: the run goes on from it, to the same rewards.
    resumed = prompter("train", config, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert rewards(folders["all"]) == expected
