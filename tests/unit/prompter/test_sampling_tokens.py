"""What all samplers share: seeds per request, order, and placeholders against images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prompter.chat import SamplingRequest
from prompter.errors import UserError
from prompter.sampling.base import SamplingSettings
from prompter.sampling.token_sampler import TokenPrompt, TokenSampler, request_seeds
from prompter.sampling.vllm_engine import VllmSampler
from prompter.types import Completion

PAD, SIDE = 50, 16


class Tokenizer:
    """A text is its token ids already."""

    def __call__(self, text: list[int]) -> dict[str, list[int]]:
        return {"input_ids": text}

    def get_vocab(self) -> dict[str, int]:
        return {"<|image_pad|>": PAD, "<|vision_start|>": 51, "a": 0}


class Processor:
    """Stands in for a Qwen-VL processor: one image token per 16 x 16 pixels; a chat is its text."""

    tokenizer = Tokenizer()
    image_processor = SimpleNamespace(
        merge_size=2,
        get_number_of_image_patches=lambda height, width, _: 4 * (height // SIDE) * (width // SIDE),
    )

    def apply_chat_template(self, messages: list[int], **_: bool) -> list[int]:
        return messages


class Recorder(TokenSampler):
    """Answers each prompt with its last token and keeps what it was called with."""

    def sync_adapter(self, adapter: Path, version: int) -> None:
        raise AssertionError("no test here gives an adapter")

    def _generate(
        self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool
    ) -> list[list[Completion]]:
        self.prompts = list(prompts)
        return [[Completion("", (one.token_ids[-1],), None, "stop")] * settings.n for one in prompts]


def request(token_ids: list[int], columns: int, rows: int, key: str = "") -> SamplingRequest:
    return SamplingRequest(token_ids, Image.new("RGB", (columns * SIDE, rows * SIDE)), key)  # type: ignore[arg-type]


def test_only_vision_tokens_that_exist_are_suppressed() -> None:
    assert Recorder(Processor()).suppressed == (51, PAD)


def test_answers_come_in_order_and_each_prompt_has_its_own_seed() -> None:
    sampler = Recorder(Processor())
    requests = [request([1, PAD, 2], 2, 1, "a"), request([1, PAD, 3], 1, 1), request([1, PAD, 4], 1, 1)]
    answers = sampler.sample(requests, SamplingSettings(n=2, seed=5))
    assert [[one.token_ids for one in group] for group in answers] == [[(2,)] * 2, [(3,)] * 2, [(4,)] * 2]
    assert [one.seed for one in sampler.prompts] == request_seeds(5, 3)
    assert len({one.seed for one in sampler.prompts}) == 3
    assert [one.image for one in sampler.prompts] == [one.image for one in requests]
    assert [one.image_key for one in sampler.prompts] == ["a", "", ""]
    assert sampler.sample([], SamplingSettings()) == []


@pytest.mark.parametrize("pads", [0, 2, 3])
def test_a_chat_shows_its_one_image_once(pads: int) -> None:
    with pytest.raises(ValueError, match=rf"each of 1 images, but the prompt has {pads}$"):
        Recorder(Processor()).sample([request([1, *[PAD] * pads, 2], 2, 2)], SamplingSettings())


@pytest.mark.parametrize("columns, rows", [(1, 1), (3, 2), (2, 2)])
def test_a_request_is_rendered_with_its_image_tokens(columns: int, rows: int) -> None:
    prompt_ids = Recorder(Processor()).prompt_ids(request([7, PAD, 8], columns, rows))
    assert prompt_ids == [7, *[PAD] * (columns * rows), 8]


@given(st.integers(0, 2**40), st.integers(1, 50))
def test_seeds_are_reproducible_and_far_apart(seed: int, count: int) -> None:
    seeds = request_seeds(seed, count)
    assert seeds == request_seeds(seed, count + 3)[:count]
    ordered = sorted(one for one in seeds if one is not None)
    assert all(later - earlier > 10_000 for earlier, later in pairwise(ordered))
    assert all(0 <= one < 2**62 for one in ordered)


def test_no_seed_stays_no_seed() -> None:
    assert request_seeds(None, 2) == [None, None]


def test_a_requests_own_seed_goes_before_that_of_its_place() -> None:
    sampler = Recorder(Processor())
    own = replace(request([1, PAD, 2], 1, 1), seed=9)
    sampler.sample([request([1, PAD, 2], 1, 1), own], SamplingSettings(seed=5))
    assert [one.seed for one in sampler.prompts] == [request_seeds(5, 1)[0], 9]


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the mode is there")
def test_a_mode_of_vllm_for_gpus_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    with pytest.raises(UserError, match="no GPU here: unset it"):
        VllmSampler(SimpleNamespace(processor=Processor()))  # type: ignore[arg-type]
