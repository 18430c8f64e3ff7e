"""Resuming and refusing: which checkpoint is whole, what the log keeps, which sizes cannot be trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training.checkpoints import CHECKPOINT_FILES, newest_checkpoint
from recipes.training.checks import check_sizes, grpo_arguments
from recipes.training.held_out import check_references, forget_evaluations
from recipes.training.log import TrainingLog
from recipes.training.phases import PhaseTimes
from recipes.training.window import Window

MINIMAL: dict[str, Any] = {
    "run_dir": "x",
    "policy": {"model": "m"},
    "dataset": {"name": "n"},
    "sampler": {"backend": "hf"},
}


def save_checkpoint(folder: Path, step: int, *, without: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in CHECKPOINT_FILES:
        if name != without:
            (path / name).write_text(json.dumps({"global_step": step}))
    return path


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 9)
    newest = save_checkpoint(tmp_path, 100)
    save_checkpoint(tmp_path, 20)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "final").mkdir()
    assert newest_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("missing", CHECKPOINT_FILES)
def test_one_that_lacks_a_file_is_passed_over(tmp_path: Path, missing: str) -> None:
    whole = save_checkpoint(tmp_path, 3)
    save_checkpoint(tmp_path, 4, without=missing)
    assert newest_checkpoint(tmp_path) == whole


@pytest.mark.parametrize("state", [b"", b'{"global_step": 4', b"\xff\xfe"])
def test_one_whose_last_file_is_half_written_is_passed_over(tmp_path: Path, state: bytes) -> None:
    whole = save_checkpoint(tmp_path, 3)
    (save_checkpoint(tmp_path, 4) / "trainer_state.json").write_bytes(state)
    assert newest_checkpoint(tmp_path) == whole


def config(**sections: Any) -> TrainConfig:
    return TrainConfig.model_validate({**MINIMAL, **sections})


def sizes(**changes: int) -> SimpleNamespace:
    usual = {
        "max_steps": 4,
        "generation_batch_size": 16,
        "num_generations": 8,
        "steps_per_generation": 1,
        "num_iterations": 1,
        "gradient_accumulation_steps": 1,
        "save_steps": 3,
    }
    return SimpleNamespace(**{**usual, **changes})


def test_usual_sizes_pass() -> None:
    check_sizes(config(), sizes(), samples=2)
    # Several optimiser steps a window, saved at window ends; or a window of several micro-steps.
    check_sizes(config(), sizes(num_iterations=3), samples=2)
    check_sizes(config(), sizes(steps_per_generation=4, gradient_accumulation_steps=4), samples=2)


@pytest.mark.parametrize(
    ("sections", "changes", "samples", "message"),
    [
        ({}, {"max_steps": -1}, 9, "trainer.max_steps must be given"),
        ({}, {}, 1, "dataset n gives 1 samples, but a step asks 2 prompts"),
        ({}, {"num_iterations": 2}, 9, "trainer.save_steps must be a multiple of 2"),
        ({}, {"steps_per_generation": 4}, 9, "trainer.save_steps must be a multiple of 4"),
    ],
)
def test_what_trl_would_take_and_do_something_else_with_is_refused(
    sections: dict[str, Any], changes: dict[str, int], samples: int, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_sizes(config(**sections), sizes(**changes), samples)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_two_executors_of_one_name_are_refused() -> None:
    twice = [{"family": "box"}, {"family": "box", "encode_batch": 2}]
    with pytest.raises(UserError, match="executor 'box' is named twice"):
        check_sizes(config(executor=twice), sizes(), samples=9)


@pytest.mark.parametrize("name", ["baseline:oracle", "oracle-box", "openai:http://localhost#m"])
def test_references_are_checked_before_training(name: str) -> None:
    check_references(config(eval={"references": ["baseline:centre-point", "baseline:oracle-box"]}))
    with pytest.raises(UserError, match=r"eval\.references: there is no '") as caught:
        check_references(config(eval={"references": ["baseline:oracle-box", name]}))
    assert repr(name) in str(caught.value) and "baseline:" in str(caught.value)


def test_trl_gets_the_trainer_section_and_what_is_set_elsewhere(tmp_path: Path) -> None:
    given = {"use_cpu": True, "bf16": False, "max_steps": 3, "num_generations": 4}
    given["per_device_train_batch_size"] = 8
    made = grpo_arguments(config(run_dir=str(tmp_path), seed=7, trainer=given), max_completion_length=33)
    assert (made.seed, made.max_completion_length, made.logging_steps) == (7, 33, 1)
    assert made.output_dir == str(tmp_path / "checkpoints")
    assert (made.beta, made.loss_type, made.scale_rewards) == (0.0, "dapo", "none")
    assert not made.save_only_model and not made.use_vllm
    kept = grpo_arguments(config(trainer={**given, "max_completion_length": 9, "logging_steps": 2}), 33)
    assert (kept.max_completion_length, kept.logging_steps) == (9, 2)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"per_device_train_batch_size": 7, "num_generations": 4}, "divisible"),
        ({"num_generations": 1, "per_device_train_batch_size": 8}, "at least 2 generations"),
    ],
)
def test_values_that_trl_refuses_are_one_sentence(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="trainer") as caught:
        grpo_arguments(config(trainer={"use_cpu": True, "bf16": False, "max_steps": 1, **trainer}), 32)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def window(rollouts: int, **metrics: Any) -> Window:
    return Window(
        [], [], {}, {"reward": 0.5, "rollouts": rollouts, "parse_failures": 0, **metrics}, [{"a": 1}]
    )


def test_the_log_joins_a_window_with_trls_figures(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    log = TrainingLog(folder, total_steps=1)
    log.collected(1, window(1), sampler_version=0)
    times = PhaseTimes()
    times.record("sample", 1.0, 2.0, step=1)
    log.step(1, {"loss": 0.25, "rewards/mean": 9.0, "entropy": float("nan"), "epoch": 1}, times)
    log.step(1, {"train_runtime": 3.0, "train_loss": 0.25, "epoch": 1}, times)
    step, summary = folder.read_metrics()
    assert (step["step"], step["kind"], step["loss"], step["reward"]) == (1, "train", 0.25, 0.5)
    assert step["entropy"] is None and "rewards/mean" not in step, "TRL's rewards leave out dropped groups"
    assert (step["sampler_version"], step["trainer_version"]) == (0, 0)
    assert step["seconds"] == {"sample": 1.0}
    assert (summary["kind"], summary["train_runtime"]) == ("summary", 3.0)
    assert folder.step_rollouts() == [(1, folder.rollouts_dir / "step-00000001.jsonl")]


def test_a_run_that_was_asked_to_stop_has_no_summary_yet(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    log = TrainingLog(folder, total_steps=2)
    log.step(1, {"train_runtime": 3.0}, PhaseTimes())
    assert folder.read_metrics() == []


def test_a_resumed_run_forgets_the_evaluations_it_makes_again(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    for name, version in [("before", 0), ("step-000002", 2), ("step-000004", 4), ("after", 6), ("floor", -1)]:
        RunFolder.create(folder.path / "eval" / name).write_config({"policy_version": version})

    def left(done: int, last: int) -> list[str]:
        forget_evaluations(folder, done, last)
        return sorted(path.name for path in (folder.path / "eval").iterdir())

    everything = ["after", "before", "floor", "step-000002", "step-000004"]
    assert left(6, 6) == everything, "killed in the last evaluation: it is resumed"
    assert left(6, 8) == everything[1:], "the run is made longer"
    assert left(3, 8) == ["before", "floor", "step-000002"]
    assert left(0, 8) == ["before", "floor"]
