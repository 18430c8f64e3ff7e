"""A run on a disk of a few megabytes, which fills up: a sentence, and what was saved goes on elsewhere."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.training.checkpoints import newest_checkpoint, step_of
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.training import PROMPTER, ROOT, THREADS, prompter, write_config

pytestmark = pytest.mark.smoke

DISK = "6m"


def in_own_mounts(script: str) -> list[str]:
    """A shell script as a command in a mount namespace of its own, where it may mount."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script]


def may_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    script = f"mount -t tmpfs -o size=1m tmpfs {shlex.quote(str(folder))}"
    return subprocess.run(in_own_mounts(script), capture_output=True, check=False).returncode == 0


def test_a_run_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    if not may_mount(disk):
        pytest.skip("no file system can be mounted here")
    save_formatted_policy(tmp_path / "policy")
    trainer = {"max_steps": 60, "save_total_limit": None, "lr_scheduler_type": "constant"}
    config = write_config(
        tmp_path / "train.yaml",
        tmp_path / "policy",
        run_dir=str(disk / "run"),
        trainer=trainer,
        eval={"samples": 1},
    )
    command = shlex.join([*PROMPTER, "train", str(config)])
    here, there = shlex.quote(str(disk)), shlex.quote(str(kept))
    script = (
        f"mount -t tmpfs -o size={DISK} tmpfs {here} && {command}; s=$?; cp -r {here}/run {there}; exit $s"
    )
    done = subprocess.run(
        in_own_mounts(script),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **THREADS},
        timeout=300,
        check=False,
    )
    sentence = done.stderr.strip().splitlines()[-1]
    print(sentence)
    assert done.returncode == 3, done.stderr
    assert sentence.startswith("prompter: the disk is full: ") and "Traceback" not in done.stderr
    assert str(disk / "run") in sentence and "bytes are free" in sentence and "--resume" in sentence

    folder = RunFolder(kept)
    saved = step_of(newest_checkpoint(folder.checkpoints_dir))
    logged = [record["step"] for record in read_lines(folder.metrics_path) if record["kind"] == "train"]
    assert logged == list(range(1, len(logged) + 1)) and len(logged) - 1 <= saved <= len(logged) < 60
    assert not [path for path in folder.path.rglob("*") if path.name.startswith(".")]
    more = ["--run_dir", str(kept), "--trainer.max_steps", str(saved + 1), "--trainer.save_total_limit", "1"]
    resumed = prompter("train", config, "--resume", *more)
    assert resumed.returncode == 0, resumed.stderr
    assert [record["step"] for record in folder.read_metrics("train")] == list(range(1, saved + 2))
