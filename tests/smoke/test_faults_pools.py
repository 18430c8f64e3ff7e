"""What becomes of a run whose engines, segmenters or Ray fail: rows of docs/faults.md, as a user sees them.

Learning rate 0 leaves the policy as it is, so that a run with other samplers must record the same rollouts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.training.checkpoints import newest_checkpoint, step_of
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.training import ROOT, THREADS, prompter, wait_for, write_config

pytestmark = pytest.mark.smoke

STEPS = 4
IMPATIENT = (
    "import sys; from recipes.cli import main; from prompter.runs.ray_connection import RayConnection; "
    "RayConnection.GRACE_SECONDS = 1.0; sys.exit(main())"
)
"""`prompter`, but a head that is silent for a second is lost."""


def config_of(folder: Path, policy: Path, *, steps: int = STEPS, **sections: Any) -> Path:
    folder.mkdir()
    trainer = {"max_steps": steps, "learning_rate": 0.0, "save_steps": 2}
    return write_config(
        folder / "train.yaml", policy, trainer=trainer, eval={"samples": 1}, ray={"num_cpus": 2}, **sections
    )


def run_and_disturb(config: Path, disturb: Callable[[psutil.Process], None]) -> tuple[int, str]:
    """Train, and disturb the run once step 1 is logged; returns exit status and stderr."""
    folder, errors = RunFolder(config.parent / "run"), config.parent / "stderr.txt"
    with errors.open("wb") as handle:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, "train", str(config)],
            cwd=ROOT,
            env={**os.environ, **THREADS},
            stdout=subprocess.DEVNULL,
            stderr=handle,
        )
        try:
            wait_for(lambda: len(folder.read_metrics("train")) > 0, process)
            disturb(psutil.Process(process.pid))
            status = process.wait(300)
        finally:
            process.kill()
    return status, errors.read_text(encoding="utf-8", errors="replace")


def child_of(process: psutil.Process, name: str) -> psutil.Process:
    """The first process of a run whose program or title holds a name."""
    for child in process.children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if words and name in words[0].rpartition("/")[2]:
            return child
    raise AssertionError(f"the run has no process {name}")


def completions_and_rewards(folder: RunFolder) -> dict[int, list[tuple[Any, ...]]]:
    """Step -> what its rollouts hold, in order."""
    return {
        step: [(one["sample_id"], one["completion"], one["rewards"]["total"]) for one in read_lines(path)]
        for step, path in folder.step_rollouts()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[tuple[Any, ...]]]]:
    """The policy, and what a run records that nothing happens to."""
    root = tmp_path_factory.mktemp("faults")
    save_formatted_policy(root / "policy")
    done = prompter("train", config_of(root / "undisturbed", root / "policy"))
    assert done.returncode == 0, done.stderr
    record = completions_and_rewards(RunFolder(root / "undisturbed" / "run"))
    assert sorted(record) == list(range(1, STEPS + 1))
    assert any(reward for rows in record.values() for _, _, reward in rows)
    return root, record


def test_a_hung_engine_and_a_segmenter_without_memory_cost_nothing(
    undisturbed: tuple[Path, dict[int, list[tuple[Any, ...]]]],
) -> None:
    pytest.importorskip("vllm", reason="vLLM is an extra")
    root, expected = undisturbed
    config = config_of(
        root / "hung",
        root / "policy",
        executor={"family": "tests.fixtures.tight_segmenter:build"},
        sampler={
            "backend": "ray",
            "actors": 2,
            "num_cpus": 0.5,
            "threads": 1,
            "kv_cache_gib": 0.1,
            "share_prompts": 1,
            "timeout_seconds": 10.0,
            "slow_factor": None,
        },
    )
    status, errors = run_and_disturb(
        config, lambda run: child_of(run, "VllmWorker").send_signal(signal.SIGSTOP)
    )
    assert status == 0, errors
    folder = RunFolder(root / "hung" / "run")
    assert completions_and_rewards(folder) == expected, "no sample lost, none doubled, none another"
    records = folder.read_metrics("train")
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    mended = [record["sampler"] for record in records]
    assert sum(one["engine_timeouts"] for one in mended) == sum(one["engine_restarts"] for one in mended) == 1
    assert sum(one["resampled_prompts"] for one in mended) == 1 and mended[0]["engine_timeouts"] == 0
    assert all(len(one["share_seconds"]) == 2 and min(one["share_seconds"]) > 0 for one in mended)
    for record in records:
        assert record["executor"]["out_of_memory"] > 0 and record["executor"]["failures"] == 0


@pytest.mark.parametrize(
    ("service", "sentence", "steps"),
    [
        ("raylet", "its daemon on this machine (raylet) is gone", STEPS),
        # So many steps that it has seconds to be noticed in.
        pytest.param("gcs_server", "has not answered for 1 s", 100, marks=pytest.mark.soak),
    ],
)
def test_a_lost_ray_ends_the_run_with_a_sentence_and_everything_saved(
    undisturbed: tuple[Path, dict[int, list[tuple[Any, ...]]]], service: str, sentence: str, steps: int
) -> None:
    root, expected = undisturbed
    executor = {"family": "box", "backend": "ray", "num_cpus": 0.5, "threads": 1}
    config = config_of(root / service, root / "policy", steps=steps, executor=executor)
    status, errors = run_and_disturb(config, lambda run: child_of(run, service).kill())
    assert status == 3, errors
    last = [line for line in errors.splitlines() if line.startswith("prompter: ")]
    assert len(last) == 1 and last[0].startswith("prompter: the connection to Ray is lost: ")
    assert sentence in last[0] and "--resume` goes on from the last checkpoint" in last[0]
    assert "Traceback" not in errors
    folder = RunFolder(root / service / "run")
    done = [record["step"] for record in folder.read_metrics("train")]
    assert done and done == list(range(1, len(done) + 1)) and len(done) < steps
    assert step_of(newest_checkpoint(folder.checkpoints_dir)) == len(done), "no step is lost"
    if service == "raylet":
        resumed = prompter("train", config, "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert completions_and_rewards(folder) == expected
