"""Packing completions behind one copy of their prompt changes what it costs, and nothing else."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from prompter.checkpoint import Checkpoint, load_weights
from prompter.families import LORA_TARGETS
from recipes.training.shared_prompts import shared_log_probabilities
from tests.fixtures.packed_rows import KEPT, batch_of, packed, plainly
from tests.fixtures.tiny_policy import save_tiny_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny"))


def adapted(policy: Checkpoint) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    base = load_weights(policy, dtype=torch.float32)
    add_fused_lm_head(base, temperature=0.7, outputs=("log_probs", "entropy"))
    return get_peft_model(base, LoraConfig(r=2, target_modules=LORA_TARGETS, init_lora_weights=False))


@pytest.mark.parametrize("pass_tokens", [1, 400, 8192])
def test_log_probabilities_and_gradients_are_those_of_one_row_per_completion(
    policy: Checkpoint, pass_tokens: int
) -> None:
    batch = batch_of(policy, [0, 1, 0, 2, 3, 1, 0, 2, 0])
    weights = torch.rand(9, KEPT, generator=torch.Generator().manual_seed(1))
    seen = []
    for compute in (plainly, partial(packed, pass_tokens=pass_tokens)):
        model = adapted(policy)
        logps, entropies = compute(model, batch)[:2]
        (logps * weights).sum().backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
        seen.append((logps.detach(), entropies.detach(), gradients))
    torch.testing.assert_close(seen[1][0], seen[0][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[1][1], seen[0][1], rtol=1e-4, atol=1e-4)
    assert seen[0][0].min() < -1 and len({round(float(value), 3) for value in seen[0][0].flatten()}) > 20
    for name, gradient in seen[0][2].items():
        torch.testing.assert_close(seen[1][2][name], gradient, rtol=1e-3, atol=1e-4)


def test_a_prompt_is_read_once_and_questions_or_images_are_not_mixed_up(policy: Checkpoint) -> None:
    batch = batch_of(policy, [0, 2, 0, 2, 0, 2, 0, 2])
    *_, shapes = packed(adapted(policy), batch)
    assert [rows for rows, _ in shapes] == [2]
    assert batch["input_ids"].numel() > 2.5 * sum(rows * length for rows, length in shapes)


def test_completions_do_not_see_each_other(policy: Checkpoint) -> None:
    batch = batch_of(policy, [1, 1, 1])
    model = adapted(policy)
    before, _, _ = packed(model, batch)
    changed = {name: value.clone() for name, value in batch.items()}
    changed["input_ids"][1, -KEPT:] = (changed["input_ids"][1, -KEPT:] + 7) * changed["attention_mask"][
        1, -KEPT:
    ]
    after, _, _ = packed(model, changed)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=0, atol=1e-5)
    assert not torch.allclose(after[1], before[1])


def test_long_completions_do_not_make_a_row_of_any_length(policy: Checkpoint) -> None:
    batch = batch_of(policy, [0] * 200)
    *_, shapes = packed(adapted(policy), batch)
    prompt = int(batch["attention_mask"][0, :-KEPT].sum())
    assert max(length for _, length in shapes) < 10 * prompt
    assert sum(rows for rows, _ in shapes) > 1


def test_a_model_whose_layers_carry_a_state_is_not_packed(policy: Checkpoint) -> None:
    """Its state would run from one completion into the next, whatever the mask says."""
    batch = batch_of(policy, [0, 1])
    given = {name: batch.pop(name) for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    model = adapted(policy)
    config = model.get_base_model().config
    accelerator = SimpleNamespace(unwrap_model=lambda one: one, autocast=torch.no_grad)
    ask = partial(
        shared_log_probabilities, accelerator, model, *batch.values(), KEPT, num_images=[1, 1], **given
    )
    assert ask() is not None
    config.text_config.layer_types = ["linear_attention", "full_attention"]
    assert ask() is None
