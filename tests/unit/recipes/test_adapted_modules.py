"""Adapters of nothing or that vLLM would drop, and weights it cannot take, are refused before any work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prompter.checkpoint import Checkpoint
from prompter.errors import UserError
from prompter.families import LORA_TARGETS
from recipes.cold_start.small_policy import build_small_policy
from recipes.config import TrainConfig
from recipes.grpo import train
from recipes.training.checks import check_adapted_modules, check_weights_follow
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
        # Merged into weights they are anywhere.
        merged = config(policy, targets, backend, sampler={"backend": backend, "sync": "merged"})
        assert check_adapted_modules(merged, policy) > 0


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
    check_adapted_modules(plain(policy, "hf"), policy)


def plain(policy: Checkpoint, backend: str, **sampler: Any) -> TrainConfig:
    """A run that trains all weights."""
    sections = {"backend": backend, **sampler}
    one = config(policy, None, backend, sampler=sections)
    return one.model_copy(update={"policy": one.policy.model_copy(update={"lora": None})})


@pytest.mark.parametrize("backend", ["hf", "vllm", "ray"])
def test_all_weights_of_a_dense_model_are_trained_with_every_sampler(
    policy: Checkpoint, backend: str
) -> None:
    check_weights_follow(plain(policy, backend), policy)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"layer_types": ["linear_attention", "full_attention"]}, "state"), ({"num_experts": 4}, "experts")],
    ids=str,
)
def test_weights_that_vllm_may_not_exchange_rightly_are_refused(
    policy: Checkpoint, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    description = json.loads((Path(policy.source) / "config.json").read_text(encoding="utf-8"))
    description["text_config"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(description), encoding="utf-8")
    other = replace(policy, source=str(tmp_path))
    check_weights_follow(plain(other, "hf"), other)
    check_weights_follow(config(other, None, "ray"), other)
    for backend in ("vllm", "ray"):
        with pytest.raises(UserError, match=f"policy.lora is null, but .*{word}") as caught:
            check_weights_follow(plain(other, backend), other)
        assert "\n" not in str(caught.value)


def test_weights_do_not_go_to_an_engine_of_several_processes(policy: Checkpoint) -> None:
    with pytest.raises(UserError, match=r"sampler\.tensor_parallel_size 2"):
        check_weights_follow(plain(policy, "ray", tensor_parallel_size=2), policy)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trainer": {"fsdp": "full_shard"}}, r"sampler\.sync merged and trainer\.fsdp"),
        ({"policy": {"quantise": "nf4"}}, r"sampler\.sync merged and policy\.quantise nf4"),
        ({"sampler": {"tensor_parallel_size": 2}}, r"sampler\.sync merged.*tensor_parallel_size 2"),
    ],
)
def test_adapters_are_merged_into_whole_weights_of_one_process_alone(
    policy: Checkpoint, sections: dict[str, Any], message: str
) -> None:
    def synced(how: str) -> TrainConfig:
        plain = config(policy, None, "ray").model_dump(exclude_unset=True)
        sampler = {"backend": "ray", "sync": how, **sections.get("sampler", {})}
        asked = {**plain["policy"], **sections.get("policy", {})}
        return TrainConfig.model_validate({**plain, **sections, "policy": asked, "sampler": sampler})

    with pytest.raises(UserError, match=message):
        check_weights_follow(synced("merged"), policy)
    check_weights_follow(synced("adapters"), policy)


def test_a_run_is_refused_before_its_folder_is_made(policy: Checkpoint, tmp_path: Path) -> None:
    trainer = {"use_cpu": True, "bf16": False, "max_steps": 1}
    one = config(policy, ["qkv"], "ray", run_dir=str(tmp_path / "run"), trainer=trainer)
    with pytest.raises(UserError, match=r"model\.visual"):
        train(one)
    assert not (tmp_path / "run").exists()
