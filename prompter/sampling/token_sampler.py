"""What all samplers share: rendering a chat to token ids, seeds per request, suppressed tokens."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prompter.chat import SamplingRequest
from prompter.sampling.base import Sampler, SamplingSettings
from prompter.sampling.image_tokens import expand_pads, image_token_count
from prompter.types import Completion

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
"""Never sampled: a stray one makes the trainer's positions disagree with its image features."""


@dataclass(frozen=True)
class TokenPrompt:
    """A request as token ids.

    Args:
        token_ids: [tokens], the image placeholder repeated once per image token, not padded.
        image: PIL RGB image, resized to the model frame; on its way to an engine its object reference.
        image_key: see `SamplingRequest`.
        seed: completion j is drawn with the seed `seed + j`; None draws without one.
    """

    token_ids: list[int]
    image: Any = field(repr=False)
    image_key: str = ""
    seed: int | None = None


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
        self.pad_id: int = tokenizer.get_vocab()["<|image_pad|>"]
        self.suppressed = suppressed_ids(tokenizer)

    def sample(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> list[list[Completion]]:
        """Return, for each request in order, `settings.n` completions in order.

        With a seed, completion j of request i depends on the seed, i and j alone, not on the batch it is
        sampled in or the engine that samples it. A request's own seed stands in the place of seed and i.
        """
        prompts = self._prompts(requests, settings)
        return self._generate(prompts, settings, logprobs) if prompts else []

    def _prompts(self, requests: Sequence[SamplingRequest], settings: SamplingSettings) -> list[TokenPrompt]:
        """Requests as token ids, each with the seed of its place."""
        seeds = request_seeds(settings.seed, len(requests))
        return [
            TokenPrompt(
                self.prompt_ids(request),
                request.image,
                request.image_key,
                seed if request.seed is None else request.seed,
            )
            for request, seed in zip(requests, seeds, strict=True)
        ]

    def prompt_ids(self, request: SamplingRequest) -> list[int]:
        """Token ids of a request's prompt, the image placeholder repeated once per image token."""
        token_ids = self.processor.tokenizer(request.render(self.processor))["input_ids"]
        return expand_pads(token_ids, self.pad_id, [image_token_count(self.processor, request.image.size)])

    @abstractmethod
    def _generate(
        self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool
    ) -> list[list[Completion]]:
        """Sample as `sample` does; there is at least one prompt."""

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions, without special tokens."""
        return [self.processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in token_ids]


def suppressed_ids(tokenizer: Any) -> tuple[int, ...]:
    """Ids of those `VISION_TOKENS` that a tokenizer has."""
    vocabulary = tokenizer.get_vocab()
    return tuple(vocabulary[token] for token in VISION_TOKENS if token in vocabulary)


def request_seeds(seed: int | None, count: int) -> list[int | None]:
    """A seed for each of `count` requests, far apart from each other, or Nones if `seed` is None."""
    return [None if seed is None else named_seed(seed, str(i)) for i in range(count)]


def named_seed(seed: int, name: str) -> int:
    """A seed of 56 bits that follows from another and a name, far apart from those of other names."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest())
