"""Qwen3.5 is a family of the table: a tiny one opens and answers with transformers."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from prompter.checkpoint import Checkpoint, load_policy
from prompter.sampling import open_sampler
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.image_tokens import image_token_count
from recipes.cold_start.small_policy import build_small_policy
from tests.fixtures.tiny_policy import SIZE


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Three of four layers carry a state from token to token, as in the real ones."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("qwen35")
    base = build_small_policy(folder / "base", ["the largest building"], size=SIZE)
    tokenizer = base.processor.tokenizer
    identifier = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = Qwen3_5Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {**rope, "mrope_interleaved": True, "partial_rotary_factor": 0.25},
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": 8,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
        },
        image_token_id=identifier("<|image_pad|>"),
        video_token_id=identifier("<|video_pad|>"),
        vision_start_token_id=identifier("<|vision_start|>"),
        vision_end_token_id=identifier("<|vision_end|>"),
    )
    torch.manual_seed(0)
    Qwen3_5ForConditionalGeneration(config).save_pretrained(folder / "policy")
    base.processor.save_pretrained(folder / "policy")
    return load_policy(folder / "policy", {"image": {"side": 64}, "max_new_tokens": 16})


def test_it_speaks_thousandths_and_sees_the_image_it_is_sent(policy: Checkpoint) -> None:
    assert (policy.family, policy.frame_kind) == ("qwen3_5", "thousandths")
    assert image_token_count(policy.processor, policy.model_image(Image.new("RGB", (90, 40))).size) == 16


def test_it_answers_alone_as_in_a_batch(policy: Checkpoint) -> None:
    sampler = open_sampler(policy, SamplerConfig(backend="hf"))
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    questions = ["the largest building", "all of the small ships beside the pier"]
    requests = [policy.request(*one) for one in zip(questions, images, strict=True)]
    settings = SamplingSettings(max_new_tokens=16, temperature=0.0)
    together = sampler.sample(requests, settings)
    alone = [sampler.sample([one], settings)[0] for one in requests]
    sampler.close()
    assert [group[0].token_ids for group in together] == [group[0].token_ids for group in alone]
    assert len({group[0].token_ids for group in alone}) == 2
