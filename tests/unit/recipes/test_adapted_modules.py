"""Adapters that name nothing, or that vLLM would drop, are refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prompter.checkpoint import LORA_TARGETS, Checkpoint
from prompter.errors import UserError
from recipes.cold_start.small_policy import build_small_policy
from recipes.config import TrainConfig
from recipes.grpo import train
from recipes.training.checks import check_adapted_modules
from tests.fixtures.tiny_policy import SIZE


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return build_small_policy(tmp_path_factory.mktemp("policy"), ["all ships"], size=SIZE)


def config(policy: Checkpoint, targets: Any, backend: str, **sections: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run_dir": "runs/never",
            "policy": {"model": policy.source, "lora": {"target_modules": targets}},
            "dataset": {"name": "synthetic-aerial", "options": {"scenes": 2}},
            "sampler": {"backend": backend},
            **sections,
        }
    )


@pytest.mark.parametrize("backend", ["hf", "vllm", "ray"])
@pytest.mark.parametrize(
    "targets",
    [None, LORA_TARGETS, ["q_proj"], ["q_proj", "down_proj"], r".*language_model.*\.mlp\..*_proj"],
    ids=str,
)
def test_the_language_models_layers_are_fine_everywhere(
    policy: Checkpoint, targets: Any, backend: str
) -> None:
    check_adapted_modules(config(policy, targets, backend), policy)


@pytest.mark.parametrize(
    ("targets", "module"),
    [
        ("all-linear", "model.visual."),
        ("ALL-LINEAR", "model.visual."),
        (["qkv"], "model.visual.blocks.0.attn.qkv"),
        (["q_proj", "linear_fc1"], "model.visual."),
        (r".*\.(q_proj|proj)", "model.visual."),
        (["lm_head"], "lm_head"),
        (["embed_tokens", "q_proj"], "embed_tokens"),
    ],
    ids=str,
)
def test_what_vllm_would_drop_is_refused_with_its_samplers_alone(
    policy: Checkpoint, targets: Any, module: str
) -> None:
    check_adapted_modules(config(policy, targets, "hf"), policy)
    for backend in ("vllm", "ray"):
        with pytest.raises(UserError, match="vLLM, which drops such adapters") as caught:
            check_adapted_modules(config(policy, targets, backend), policy)
        said = str(caught.value)
        assert said.startswith("policy.lora.target_modules reaches") and module in said and "\n" not in said


@pytest.mark.parametrize("backend", ["hf", "ray"])
@pytest.mark.parametrize(
    ("targets", "hint"),
    [
        (["q_porj"], "'q_porj', in which no module of"),
        (["q_proj", "v_porj"], "Did you mean 'v_proj'?"),
        ("q_proj", "matches no module of"),
        (r".*language_modle.*", "'model.language_model.layers.1."),
        ("(", "is not a regular expression"),
    ],
    ids=str,
)
def test_names_of_nothing_are_refused_with_every_sampler(
    policy: Checkpoint, targets: Any, hint: str, backend: str
) -> None:
    with pytest.raises(UserError, match=r"policy\.lora\.target_modules") as caught:
        check_adapted_modules(config(policy, targets, backend), policy)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_without_adapters_there_is_nothing_to_check(policy: Checkpoint) -> None:
    one = config(policy, None, "hf")
    plain = one.model_copy(update={"policy": one.policy.model_copy(update={"lora": None})})
    check_adapted_modules(plain, policy)


def test_a_run_is_refused_before_its_folder_is_made(policy: Checkpoint, tmp_path: Path) -> None:
    trainer = {"use_cpu": True, "bf16": False, "max_steps": 1}
    one = config(policy, ["qkv"], "ray", run_dir=str(tmp_path / "run"), trainer=trainer)
    with pytest.raises(UserError, match=r"model\.visual"):
        train(one)
    assert not (tmp_path / "run").exists()
