"""What all samplers share: rendering a chat to token ids, seeds per request, suppressed tokens."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL import Image

from prompter.chat import SamplingRequest
from prompter.sampling.base import Sampler, SamplingSettings
from prompter.sampling.image_tokens import collapse_pads, expand_pads, image_token_count
from prompter.types import Completion

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""Never sampled: a stray one makes the trainer's positions disagree with its image features."""


class TokenSampler(Sampler):
    """A sampler that works on token ids; chats are rendered and tokenised here, once for all kinds.

    Args:
        processor: the policy's Hugging Face processor.

    The log-probabilities it reports are those of the distribution it draws from: logits with
    `VISION_TOKENS` suppressed, divided by the temperature, cut by top_k and top_p. (Temperature 0
    takes the most likely token and reports its log-probability at temperature 1.)
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        vocabulary = tokenizer.get_vocab()
        self.pad_id: int = vocabulary["<|image_pad|>"]
        self.suppressed = tuple(vocabulary[token] for token in VISION_TOKENS if token in vocabulary)

    def sample(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> list[list[Completion]]:
        """Return, for each request in order, `settings.n` completions in order."""
        prompts = [self.prompt_ids(request) for request in requests]
        images = [request.image for request in requests]
        return self.generate_ids(prompts, images, settings, logprobs=logprobs)

    def prompt_ids(self, request: SamplingRequest) -> list[int]:
        """Token ids of a request's prompt, the image placeholder repeated once per image token."""
        text = self.processor.apply_chat_template(
            request.messages, add_generation_prompt=True, tokenize=False
        )
        token_ids = self.processor.tokenizer(text)["input_ids"]
        return expand_pads(token_ids, self.pad_id, [image_token_count(self.processor, request.image.size)])

    def generate_ids(
        self,
        prompt_ids: Sequence[Sequence[int]],
        images: Sequence[Image.Image],
        settings: SamplingSettings,
        *,
        logprobs: bool = True,
    ) -> list[list[Completion]]:
        """Sample from prompts that are token ids already, as TRL hands them over.

        Args:
            prompt_ids: one prompt per group, [tokens], its image placeholder repeated once per image
                token, not padded.
            images: one PIL RGB image per prompt, resized to the model frame.
            settings: see `SamplingSettings`. With a seed, completion j of prompt i depends on the seed,
                i and j alone, not on the batch it is sampled in or the engine that samples it.
            logprobs: whether to report each token's log-probability.

        Returns:
            for each prompt in order, `settings.n` completions in order.

        Raises:
            ValueError: if a prompt's image placeholders do not fit its image.
        """
        if len(prompt_ids) != len(images):
            raise ValueError(f"expected one image per prompt, but got {len(images)} for {len(prompt_ids)}")
        for number, (token_ids, image) in enumerate(zip(prompt_ids, images, strict=True)):
            _, runs = collapse_pads(token_ids, self.pad_id)
            wanted = [image_token_count(self.processor, image.size)]
            if runs != wanted:
                raise ValueError(
                    f"prompt {number} holds runs of {runs} image placeholders, but its image of "
                    f"{image.size[0]} x {image.size[1]} pixels takes {wanted}: trainer and sampler must "
                    "resize images alike"
                )
        if not prompt_ids:
            return []
        seeds = request_seeds(settings.seed, len(prompt_ids))
        return self._generate(prompt_ids, images, settings, seeds, logprobs)

    @abstractmethod
    def _generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        images: Sequence[Image.Image],
        settings: SamplingSettings,
        seeds: Sequence[int | None],
        logprobs: bool,
    ) -> list[list[Completion]]:
        """Sample; arguments are checked and there is at least one prompt. Completion j of prompt i
        is drawn with the seed `seeds[i] + j`."""

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions, without special tokens."""
        return [self.processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in token_ids]


def request_seeds(seed: int | None, count: int) -> list[int | None]:
    """A seed for each of `count` requests, far apart from each other, or Nones if `seed` is None."""
    if seed is None:
        return [None] * count
    digests = (hashlib.blake2b(f"{seed}:{i}".encode(), digest_size=7).digest() for i in range(count))
    return [int.from_bytes(digest) for digest in digests]
