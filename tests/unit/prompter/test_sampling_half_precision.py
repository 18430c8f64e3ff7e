"""In half precision a greedy answer of the transformers sampler hangs on its own prompt alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from prompter.chat import SamplingRequest
from prompter.checkpoint import Checkpoint
from prompter.sampling.base import SamplingSettings
from prompter.sampling.huggingface import HuggingFaceSampler
from tests.fixtures.tiny_policy import save_tiny_policy

QUERIES = ["ships", "all ships but the largest", "the largest building", "a building", "ships"]
GREEDY = SamplingSettings(max_new_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_tiny_policy(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture(scope="module")
def requests(policy: Checkpoint) -> list[SamplingRequest]:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in QUERIES]
    return [policy.request(query, image) for query, image in zip(QUERIES, images, strict=True)]


def test_alone_and_together_are_equal_to_the_bit(
    policy: Checkpoint, requests: list[SamplingRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = HuggingFaceSampler.from_policy(policy, dtype="bfloat16", device="cpu")
    alone = [sampler.sample([request], GREEDY, logprobs=True)[0] for request in requests]
    assert sampler.sample(requests, GREEDY, logprobs=True) == alone
    assert sampler.sample(requests[::-1], GREEDY, logprobs=True) == alone[::-1]
    # With padding it does depend on them, or this test would hold nothing.
    monkeypatch.setattr(sampler, "_batches", lambda lengths, settings: [list(range(len(lengths)))])
    assert sampler.sample(requests, GREEDY, logprobs=True) != alone


@pytest.mark.parametrize(
    "dtype, temperature, wanted",
    [
        (torch.bfloat16, 0.0, [[0, 2], [4], [1, 3]]),
        (torch.bfloat16, 1.0, [[0, 1], [2, 3], [4]]),
        (torch.float32, 0.0, [[0, 1], [2, 3], [4]]),
    ],
)
def test_prompts_of_other_lengths_are_kept_apart_where_padding_decides(
    dtype: torch.dtype, temperature: float, wanted: list[list[int]]
) -> None:
    sampler = HuggingFaceSampler.__new__(HuggingFaceSampler)
    sampler.batch_size, sampler.model = 2, torch.nn.Linear(1, 1).to(dtype)
    sampler.model.dtype = dtype
    settings = SamplingSettings(temperature=temperature)
    assert sampler._batches([7, 9, 7, 9, 7], settings) == wanted
