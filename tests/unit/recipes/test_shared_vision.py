"""Sharing images among a step's completions changes how often they are encoded, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prompter.checkpoint import Checkpoint, load_weights
from prompter.families import LORA_TARGETS
from recipes.training.shared_vision import share_vision, sharing_processor
from tests.fixtures.tiny_policy import save_tiny_policy

LORA = {"r": 2, "target_modules": LORA_TARGETS, "init_lora_weights": False}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny"))


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def batch_of(policy: Checkpoint, processor: Any, images: list[Image.Image]) -> Any:
    asked = [policy.messages(f"building {number}") for number in range(len(images))]
    texts = [
        policy.processor.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked
    ]
    return processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="left")


def adapted(policy: Checkpoint) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    return get_peft_model(load_weights(policy, dtype=torch.float32), LoraConfig(**LORA))


def test_the_processor_gives_the_same_batch_and_processes_each_image_once(policy: Checkpoint) -> None:
    one, other = picture(0), picture(1)
    images = [one, one, other, one, other, other]
    processor = sharing_processor(policy.processor)
    plain_class = type(policy.processor.image_processor)
    processed: list[int] = []
    original = plain_class.__call__

    def counting(self: Any, images: Any, *args: Any, **options: Any) -> Any:
        processed.append(len(images))
        return original(self, images, *args, **options)

    plain_class.__call__ = counting
    try:
        shared = batch_of(policy, processor, images)
    finally:
        plain_class.__call__ = original
    assert processed == [2]
    plain = batch_of(policy, policy.processor, images)
    assert set(shared) == set(plain)
    for key in plain:
        torch.testing.assert_close(shared[key], plain[key], rtol=0, atol=0)


def test_the_original_processor_is_left_as_it_was(policy: Checkpoint, tmp_path: Path) -> None:
    before = type(policy.processor.image_processor)
    processor = sharing_processor(policy.processor)
    assert type(policy.processor.image_processor) is before
    processor.save_pretrained(tmp_path / "shared")
    policy.processor.save_pretrained(tmp_path / "plain")
    name = "processor_config.json"
    assert (tmp_path / "shared" / name).read_text() == (tmp_path / "plain" / name).read_text()


@pytest.mark.parametrize("trained", ["adapters of the language model", "all weights"])
def test_outputs_and_gradients_are_those_of_the_plain_model(policy: Checkpoint, trained: str) -> None:
    images = [picture(seed) for seed in (0, 1, 0, 2, 1, 0)]
    batch = batch_of(policy, policy.processor, images)
    if trained == "all weights":
        plain, shared = (load_weights(policy, dtype=torch.float32) for _ in range(2))
    else:
        plain, shared = adapted(policy), adapted(policy)
    blocks: list[int] = []
    tower = getattr(shared, "get_base_model", lambda: shared)().model.visual
    tower.patch_embed.register_forward_hook(lambda *call: blocks.append(len(call[2])))
    share_vision(shared)
    losses = []
    for model in (plain, shared):
        logits = model(**batch).logits
        loss = logits.float().logsumexp(-1).mean()
        loss.backward()
        losses.append(logits)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    assert blocks == [3 * len(batch["pixel_values"]) // 6]
    gradients = [
        {name: one.grad for name, one in model.named_parameters() if one.requires_grad}
        for model in (plain, shared)
    ]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4)
