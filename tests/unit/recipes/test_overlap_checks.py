"""What a config may ask of overlap and of large groups, and how a large group is told to TRL."""

from __future__ import annotations

from typing import Any

import pytest

from prompter.errors import UserError
from recipes.config import TrainConfig
from recipes.training.checks import check_overlap, grpo_arguments


def config(**sections: Any) -> TrainConfig:
    base = {"run_dir": "runs/x", "policy": {"model": "some/folder"}, "dataset": {"name": "synthetic-aerial"}}
    trainer = {"use_cpu": True, "bf16": False, "per_device_train_batch_size": 16, "num_generations": 64}
    return TrainConfig.model_validate({**base, "trainer": trainer, **sections})


@pytest.mark.parametrize("backend", ["hf", "vllm"])
def test_a_sampler_in_the_trainers_process_is_never_ahead(backend: str) -> None:
    sampler = {"backend": backend}
    check_overlap(config(sampler=sampler))
    with pytest.raises(UserError, match=f"overlap.staleness is 1, but sampler.backend '{backend}'"):
        check_overlap(config(sampler=sampler, overlap={"staleness": 1}))
    check_overlap(config(sampler={"backend": "ray"}, overlap={"staleness": 1}))


def test_a_window_can_be_one_ahead_and_no_more() -> None:
    with pytest.raises(ValueError, match=r"overlap\.staleness"):
        config(overlap={"staleness": 2})


def test_more_than_is_sampled_is_never_kept_and_a_rule_has_to_exist() -> None:
    check_overlap(config(group={"keep": 64}))
    with pytest.raises(UserError, match=r"group.keep is 65, but only 64 completions a prompt are sampled"):
        check_overlap(config(group={"keep": 65}))
    with pytest.raises(UserError, match=r"no selection 'spred'\. Did you mean 'spread'"):
        check_overlap(config(group={"keep": 8, "select": "spred"}))


def test_trl_is_told_of_what_is_trained_on() -> None:
    given = config(group={"keep": 8})
    arguments = grpo_arguments(given, 32)
    assert arguments.num_generations == 8
    assert arguments.generation_batch_size // arguments.num_generations == 2, "questions of a window"
    assert given.trainer["num_generations"] == 64, "sampled, and written into the run's config"
    assert grpo_arguments(config(trainer={"use_cpu": True, "bf16": False}), 32).num_generations == 8
