"""Answers of earlier windows in real runs: what is trained on, what is recorded, and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from envs.datasets import open_dataset
from envs.masks import iou
from prompter.checkpoint import Checkpoint
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.grpo import train
from recipes.training.saved_windows import window_groups
from rewards.replay import read_rollouts
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


def test_what_a_run_answered_best_is_a_set(run: RunFolder) -> None:
    rollouts = [one for _, path in run.step_rollouts() for one in read_rollouts(path)]
    source = open_dataset("recipes.cold_start.answers:open_answers", "train", runs=[run.path], floor=0.2)
    told = run.read_config()["dataset"]
    squares = {one.sample_id: one for one in open_dataset("manifest", "train", **told["options"])}
    assert 0 < len(source) <= QUESTIONS
    for sample in source:
        target = squares[sample.sample_id].target_mask()
        about = [one for one in rollouts if one.image_id == sample.image_id and one.prediction is not None]
        best = max(iou(one.prediction_mask, target) for one in about)
        assert best >= 0.2 and sample.tags["answer-iou"] == f"{best:.2f}"
        assert sample.target in [one.prediction for one in about if iou(one.prediction_mask, target) == best]
        assert len(sample.instances) in (0, 1)  # as many as the policy's answers prompt
    left = set(squares) - {one.sample_id for one in source}
    for sample_id in left:
        target, image = squares[sample_id].target_mask(), squares[sample_id].image_id
        known = [one for one in rollouts if one.image_id == image and one.prediction is not None]
        assert all(iou(one.prediction_mask, target) < 0.2 for one in known)
    own = open_dataset(
        "recipes.cold_start.answers:open_answers", "train", runs=[run.path], floor=0.2, lend=False
    )
    assert {one.sample_id for one in own} <= {one.sample_id for one in source}
    for sample in own:
        answers = [one for one in rollouts if one.sample_id == sample.sample_id]
        assert sample.target in [one.prediction for one in answers]


def test_a_folder_without_good_answers_is_refused(run: RunFolder, tmp_path: Path) -> None:
    name = "recipes.cold_start.answers:open_answers"
    with pytest.raises(UserError, match=r"no answer in .* has a mask IoU of 1\.5"):
        open_dataset(name, "train", runs=[run.path], floor=1.5)
    with pytest.raises(UserError, match=r"config\.yaml"):
        open_dataset(name, "train", runs=[tmp_path])
    (tmp_path / "config.yaml").write_text("dataset: {name: 'mine:open', split: train}\n")
    with pytest.raises(UserError, match="keeps no rollouts"):
        open_dataset(name, "train", runs=[tmp_path])
    with pytest.raises(UserError, match="at least one folder"):
        open_dataset(name, "train", runs=[])
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step-00000001.jsonl").write_text("")
    with pytest.raises(UserError, match="is code, 'mine:open'"):
        open_dataset(name, "train", runs=[tmp_path])
    with pytest.raises(UserError, match="different questions"):
        open_dataset(name, "train", runs=[run.path, tmp_path])
