"""What all samplers share: seeds per request, order, and the check of placeholders against images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prompter.chat import SamplingRequest
from prompter.sampling.base import SamplingSettings
from prompter.sampling.token_sampler import TokenSampler, request_seeds
from prompter.types import Completion

PAD, SIDE = 50, 16


class Processor:
    """Stands in for a Qwen-VL processor: one token per character, one image token per 16 x 16 pixels."""

    tokenizer = SimpleNamespace(
        get_vocab=lambda: {"<|image_pad|>": PAD, "<|vision_start|>": 51, "a": 0},
        decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)),
    )
    image_processor = SimpleNamespace(
        merge_size=2,
        get_number_of_image_patches=lambda height, width, _: 4 * (height // SIDE) * (width // SIDE),
    )


class Recorder(TokenSampler):
    """Answers each prompt with its last token and keeps what it was called with."""

    def sync_adapter(self, adapter: Path, version: int) -> None:
        raise NotImplementedError

    def _generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        images: Sequence[Image.Image],
        settings: SamplingSettings,
        seeds: Sequence[int | None],
        logprobs: bool,
    ) -> list[list[Completion]]:
        self.seeds = list(seeds)
        return [[Completion("", (ids[-1],), None, "stop")] * settings.n for ids in prompt_ids]


def image(columns: int, rows: int) -> Image.Image:
    return Image.new("RGB", (columns * SIDE, rows * SIDE))


def test_only_vision_tokens_that_exist_are_suppressed() -> None:
    assert Recorder(Processor()).suppressed == (51, PAD)


def test_answers_come_in_order_and_each_prompt_has_its_own_seed() -> None:
    sampler = Recorder(Processor())
    prompts = [[1, PAD, PAD, 2], [1, PAD, 3], [1, PAD, 4]]
    images = [image(2, 1), image(1, 1), image(1, 1)]
    answers = sampler.generate_ids(prompts, images, SamplingSettings(n=2, seed=5))
    assert [[one.token_ids for one in group] for group in answers] == [[(2,)] * 2, [(3,)] * 2, [(4,)] * 2]
    assert len(set(sampler.seeds)) == 3
    assert sampler.generate_ids([], [], SamplingSettings()) == []


@pytest.mark.parametrize("pads", [0, 1, 3, 5])
def test_placeholders_that_do_not_fit_the_image_are_refused(pads: int) -> None:
    with pytest.raises(ValueError, match=r"prompt 0 holds runs of .* takes \[4\]"):
        Recorder(Processor()).generate_ids([[1, *[PAD] * pads, 2]], [image(2, 2)], SamplingSettings())


def test_an_image_is_needed_for_each_prompt() -> None:
    with pytest.raises(ValueError, match="one image per prompt, but got 0 for 1"):
        Recorder(Processor()).generate_ids([[1, PAD]], [], SamplingSettings())


def test_a_request_is_rendered_with_its_image_tokens() -> None:
    processor = Processor()
    processor.apply_chat_template = lambda messages, **_: messages  # type: ignore[attr-defined]
    processor.tokenizer = lambda text: {"input_ids": text}  # type: ignore[assignment]
    processor.tokenizer.get_vocab = Processor.tokenizer.get_vocab  # type: ignore[attr-defined]
    request = SamplingRequest([7, PAD, 8], image(3, 2))  # type: ignore[list-item]
    assert Recorder(processor).prompt_ids(request) == [7, *[PAD] * 6, 8]


@given(st.integers(0, 2**40), st.integers(1, 50))
def test_seeds_are_reproducible_and_far_apart(seed: int, count: int) -> None:
    seeds = request_seeds(seed, count)
    assert seeds == request_seeds(seed, count + 3)[:count]
    ordered = sorted(one for one in seeds if one is not None)
    assert all(later - earlier > 10_000 for earlier, later in pairwise(ordered))
    assert all(0 <= one < 2**62 for one in ordered)


def test_no_seed_stays_no_seed() -> None:
    assert request_seeds(None, 2) == [None, None]
