"""A run that was stopped and resumed is the run that was not: order, metrics, every state of a checkpoint.

Six steps of a tiny policy by default. PROMPTER_RESUME_STEPS=40 takes the shipped small policy on drawn
scenes, as `recipes/configs/synthetic-aerial.yaml` trains it, with smaller windows; -s shows the figures.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prompter.runs.run_folder import RunFolder
from recipes.training.checkpoints import newest_checkpoint, step_of
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.states import completions, largest_difference, order, state_differences
from tests.fixtures.training import prompter, train_until, write_config

pytestmark = pytest.mark.smoke

STEPS = int(os.environ.get("PROMPTER_RESUME_STEPS", "6"))
LARGE = STEPS > 6
FLOAT_NOISE = 1e-4
SAVE_STEPS = 4 if LARGE else 2


def config_of(folder: Path, policy: Path) -> Path:
    """Two optimiser steps a window, an evaluation in the middle, a checkpoint each second or fourth step."""
    trainer: dict[str, Any] = {
        "max_steps": STEPS,
        "num_iterations": 2,
        "save_steps": SAVE_STEPS,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
    }
    sections: dict[str, Any] = {"eval": {"samples": 4, "every_steps": STEPS // 2 + STEPS // 2 % 2}}
    if LARGE:
        trainer |= {"per_device_train_batch_size": 64, "temperature": 0.8, "scale_rewards": "group"}
        sections["policy"] = {"model": "shipped:small-policy", "dtype": "float32"}
        sections["dataset"] = {
            "name": "synthetic-aerial",
            "options": {"scenes": 12, "queries_per_scene": 12},
        }
    return write_config(folder / "train.yaml", policy, trainer=trainer, **sections)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save_formatted_policy(folder)
    return folder


@pytest.fixture(scope="module")
def unbroken(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    config = config_of(tmp_path_factory.mktemp("unbroken"), policy)
    done = prompter("train", config)
    assert done.returncode == 0, done.stderr
    yield RunFolder(config.parent / "run")


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.soak), signal.SIGKILL],
    ids=lambda number: number.name,
)
def test_a_resumed_run_is_the_unbroken_one(
    unbroken: RunFolder, policy: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = config_of(tmp_path, policy)
    folder = RunFolder(tmp_path / "run")
    status, _ = train_until(STEPS // 2, number, config, seconds=300)
    logged = len(folder.read_metrics("train"))
    saved = step_of(newest_checkpoint(folder.checkpoints_dir))
    lost = logged - saved
    if number == signal.SIGTERM:
        assert (status, lost) == (0, 0)
    else:
        assert status == -number and 0 <= lost <= SAVE_STEPS
    assert STEPS // 2 <= logged < STEPS
    resumed = prompter("train", config, "--resume")
    assert resumed.returncode == 0, resumed.stderr

    assert order(folder) == order(unbroken), "no sample is lost, none is there twice"
    texts, theirs = completions(folder), completions(unbroken)
    other_texts = sum(one != two for one, two in zip(texts, theirs, strict=True))
    metrics, where = largest_difference(folder, unbroken)
    states = state_differences(*(one.checkpoints_dir / f"checkpoint-{STEPS}" for one in (folder, unbroken)))
    told = [f"metrics {metrics:.2g} ({where or 'all equal'})"]
    told += [f"{what} {value:.2g}" for what, value in states.items()]
    print(
        f"\n{number.name} after step {logged} of {STEPS}: {saved} saved, {lost} lost; "
        f"{len(texts)} completions, {other_texts} otherwise than unbroken; {', '.join(told)}"
    )
    assert other_texts == 0 and metrics < FLOAT_NOISE
    assert all(value < FLOAT_NOISE for value in states.values()), states
    assert states["scheduler"] == states["random numbers"] == 0.0
