"""The contract of every sampler (Hugging Face, vLLM, a Ray pool of vLLM engines, an endpoint)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prompter.chat import SamplingRequest
from prompter.errors import UserError
from prompter.types import Completion

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample. `temperature` 0 is greedy. `seed` makes a call reproducible on one machine."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    n: int = 1
    seed: int | None = None


class Sampler(ABC):
    """Samples completions from one version of the policy."""

    version: int = 0

    @abstractmethod
    def sample(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> list[list[Completion]]:
        """Return, for each request in order, `settings.n` completions in order."""

    def sample_in_parts(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> Generator[list[tuple[int, list[Completion]]], None, None]:
        """Yield what `sample` returns in parts and any order, each part as soon as it is there.

        Yields:
            Of each group of the part the request's place in `requests`, and its `settings.n` completions in
            order. Each place comes once; a sampler that has nothing before it has all yields one part.

        Whoever takes them may work on one part while others are still sampled. Nothing else may be asked of
        the sampler before the last part is taken, or the iterator closed.
        """
        yield list(enumerate(self.sample(requests, settings, logprobs=logprobs)))

    def counters(self) -> dict[str, int]:
        """Faults that were mended since the sampler was opened: name -> how often; empty if none can be."""
        return {}

    def take_share_seconds(self) -> list[float]:
        """Seconds that engines were at each share since the last call of this; empty where there are none."""
        return []

    @abstractmethod
    def sync_adapter(self, adapter: Path, version: int) -> None:
        """Sample from the LoRA adapter saved in folder `adapter` from now on; set `version`."""

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Sample from these weights, without any adapter, from now on; set `version`.

        Args:
            weights: every parameter of the policy's model by transformers' name, tied ones once
                (`prompter.sampling.weights.named_weights`). Read before this returns, never kept: the
                trainer may write to them at once.
            version: of the policy that they are.

        Raises:
            UserError: if this sampler cannot be given weights, or they are not those of its model.
        """
        raise UserError(
            f"this sampler ({type(self).__name__}) cannot be given new weights: train adapters "
            "(policy.lora), or take sampler.backend hf, vllm or ray"
        )

    def forget(self) -> None:
        """Drop what is kept of earlier calls (prefixes, encoded images), so that the next is like a first."""

    def close(self) -> None:
        """Release engines and actors. Safe to call twice."""
