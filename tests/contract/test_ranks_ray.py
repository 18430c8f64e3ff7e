"""Ranks that Ray Train starts: stopped by a signal to the command, and gone on with by one process."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import torch
import yaml

from prompter.runs.run_folder import RunFolder
from recipes.training.checkpoints import newest_checkpoint, step_of
from tests.fixtures.compared_runs import Runs, differences, moved, say
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.training import PROMPTER, ROOT, THREADS, wait_for

STEPS = 12  # so that it is far from its end when it hears the signal


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
