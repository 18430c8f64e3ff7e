"""A language model's vocabulary, extended by tokens that belong to one sequence of the batch only.

Token `words + i` of a sequence is its mask i. Tokens keep these numbers in prompts, answers and labels;
what they mean is set for each batch. `extended` puts the two modules in place for a while, so that
checkpoints of the model know nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MaskTokens:
    """The extra tokens of a batch.

    Args:
        vectors: float [batch, most masks, D].
        present: bool [batch, most masks]; False is padding, which is never told.
    """

    vectors: Tensor
    present: Tensor


class _Inputs(nn.Module):
    """Token embeddings, the extra tokens' included: int64 [batch, length] -> [batch, length, D]."""

    def __init__(self, words: nn.Module, extra: MaskTokens, size: int) -> None:
        super().__init__()
        self.words, self.extra, self.size = words, extra, size

    @property
    def weight(self) -> Tensor:
        """Of the words alone; transformers asks for its type and device."""
        weight: Tensor = self.words.weight  # type: ignore[assignment]
        return weight

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.words(ids.clamp(max=self.size - 1))
        rows, places = torch.nonzero(ids >= self.size, as_tuple=True)
        if not len(rows):
            return found
        mine = self.extra.vectors[rows, ids[rows, places] - self.size]
        return found.index_put((rows, places), mine.to(found.dtype))


class _Outputs(nn.Module):
    """Logits of words and extra tokens: [batch, length, D] -> [batch, length, words + most masks]."""

    def __init__(self, words: nn.Module, extra: MaskTokens) -> None:
        super().__init__()
        self.words, self.extra = words, extra

    def forward(self, hidden: Tensor) -> Tensor:
        told: Tensor = self.words(hidden)
        chosen = torch.einsum("bld,bmd->blm", hidden, self.extra.vectors.to(hidden.dtype))
        chosen = chosen.masked_fill(~self.extra.present[:, None], torch.finfo(chosen.dtype).min)
        return torch.cat([told, chosen], dim=-1)


def base_model(model: Any) -> Any:
    """The transformers model inside a PEFT model; any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def words_in(model: Any) -> int:
    """How many tokens the model's own vocabulary has: the number of the first mask's token."""
    return int(base_model(model).get_input_embeddings().weight.shape[0])


@contextmanager
def extended(model: Any, extra: MaskTokens) -> Iterator[None]:
    """Let a transformers causal language model read and tell the extra tokens inside the block.

    Gradients reach `extra.vectors` from both sides. Not for beams: a sequence must stay in its row.
    """
    inner = base_model(model)
    inputs, outputs = inner.get_input_embeddings(), inner.get_output_embeddings()
    inner.set_input_embeddings(_Inputs(inputs, extra, words_in(model)))
    inner.set_output_embeddings(_Outputs(outputs, extra))
    try:
        yield
    finally:
        inner.set_input_embeddings(inputs)
        inner.set_output_embeddings(outputs)
