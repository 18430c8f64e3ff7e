"""Weights with adapters merged into them: those of the merged model, by the names of one without adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from prompter.checkpoint import Checkpoint, load_weights
from prompter.sampling.weights import merged_weights, named_weights
from tests.fixtures.tiny_policy import save_tiny_policy

TARGETS = r".*(language_model.*\.(q_proj|down_proj)|visual\.blocks.*\.(qkv|linear_fc1)|embed_tokens)"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def adapted(policy: Checkpoint) -> Any:
    torch.manual_seed(1)
    model = get_peft_model(load_weights(policy, dtype=torch.float32), LoraConfig(r=4, target_modules=TARGETS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.1)
    return model


def test_they_are_the_merged_models_and_the_adapters_stay(policy: Checkpoint) -> None:
    model = adapted(policy)
    before = {name: one.clone() for name, one in model.named_parameters()}
    given = {name: one.clone() for name, one in merged_weights(model)}
    assert all(torch.equal(before[name], one) for name, one in model.named_parameters())
    plain = dict(named_weights(load_weights(policy, dtype=torch.float32)))
    assert list(given) == list(plain), "the names and the order of a model without adapters"
    changed = {name for name in given if not torch.equal(given[name], plain[name])}
    assert len(changed) == 2 * 2 + 2 * 2 + 1 and any("visual.blocks.1.attn.qkv" in name for name in changed)
    for name, one in named_weights(model.merge_and_unload()):
        torch.testing.assert_close(given[name], one)


def test_adapters_that_are_switched_off_change_nothing(policy: Checkpoint, tmp_path: Path) -> None:
    """TRL's frozen copy of the adapters ("ref") is not what is trained."""
    model = adapted(policy)
    expected = {name: one.clone() for name, one in merged_weights(model)}
    model.add_adapter("ref", LoraConfig(r=4, target_modules=TARGETS))
    assert all(torch.equal(expected[name], one) for name, one in merged_weights(model))
