"""Answers of earlier windows in real runs: what is trained on, what is recorded, and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from prompter.checkpoint import Checkpoint
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.grpo import train
from recipes.training.saved_windows import window_groups
from tests.contract.test_grpo_trainer import GROUP_SIZE, config_of
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import save_manifest

QUESTIONS = 8
"""Of the manifest, two about an image: two windows a pass."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Six windows: three passes over the questions."""
    folder = tmp_path_factory.mktemp("memory")
    policy: Checkpoint = save_formatted_policy(folder / "policy")
    manifest = save_manifest(folder / "data", QUESTIONS)
    trainer = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    config = config_of(policy, folder / "run", manifest, trainer=trainer, group={"memory": "image"})
    return train(config)


def trained(run: RunFolder) -> list[list[Any]]:
    return [window_groups(path) for _, path in run.step_windows()]


def test_answers_of_before_join_groups_and_are_no_drawn_ones(run: RunFolder) -> None:
    records = run.read_metrics("train")
    assert records[0]["recalled"] == 0, "nothing was known"
    assert sum(one["recalled"] for one in records) > 0
    known: set[str] = set()
    joined = 0
    for record, groups, (_, path) in zip(records, trained(run), run.step_rollouts(), strict=True):
        drawn = list(read_lines(path))
        # The record of a window, and what is logged of it, are what was drawn.
        assert record["rollouts"] == len(drawn) == GROUP_SIZE * len(groups)
        assert record["reward"] == pytest.approx(sum(one["rewards"]["total"] for one in drawn) / len(drawn))
        for place, group in enumerate(groups):
            own = drawn[place * GROUP_SIZE : (place + 1) * GROUP_SIZE]
            for completion, reward in zip(group.completions, group.rewards, strict=True):
                if completion.logprobs is not None:
                    continue
                joined += 1
                assert completion.text in known
                assert reward == max(group.rewards) > max(one["rewards"]["total"] for one in own)
        known |= {one["completion"] for one in drawn}
    assert joined == sum(one["recalled"] for one in records)
    # TRL takes their ratio to the sampler as 1, and learns from them.
    assert all(one["importance_ratio_max"] < 1.01 for one in records)
    assert all(one["grad_norm"] > 0 for one in records if one["recalled"])


def test_a_resumed_run_remembers_what_an_unbroken_one_does(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "final")
    resumed = train(
        TrainConfig.model_validate(run.read_config() | {"run_dir": str(tmp_path / "run")}), resume=True
    )
    told = ("recalled", "recalled_reward", "reward")
    assert [[one[key] for key in told] for one in resumed.read_metrics("train")] == [
        [one[key] for key in told] for one in run.read_metrics("train")
    ]
