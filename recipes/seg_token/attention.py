"""The attention from some tokens to all others, noted while a model runs, with gradients.

transformers lets an attention function be registered by name. Ours computes what `sdpa` computes and, for the
few tokens that are asked about, their attention once more, as a softmax: the whole maps of all layers and
heads, which a supervision of one token per target would throw away, are never made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "prompter_noted"
"""Of the attention function, in a model's config while it is looked at."""


@dataclass
class NotedAttention:
    """A running mean over layers and heads.

    Args:
        rows, positions: int64 [n], the tokens whose attention is noted: which sequence, and where in it.
        attended: int64 or bool [sequences, length], 0 at padding.
        looking: number of the layer whose heads are kept apart; None for none.
        total: [n, length], the sum over layers of the mean over heads; None before the first layer.
        layers: how many there were.
        looked: [n, heads, length], the attention of that layer, once it was run.
    """

    rows: Tensor
    positions: Tensor
    attended: Tensor
    looking: int | None = None
    total: Tensor | None = None
    layers: int = 0
    looked: Tensor | None = None

    def add(self, query: Tensor, key: Tensor, scaling: float | None) -> None:
        """Take in one layer: query [B, heads, length, d] and key [B, key heads, length, d]."""
        asked = query[self.rows, :, self.positions].float()  # [n, heads, d]
        keys = key[self.rows].float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = torch.einsum("nhd,nhtd->nht", asked, keys) * scale
        order = torch.arange(key.shape[2], device=key.device)
        seen = (order[None] <= self.positions[:, None]) & self.attended[self.rows].bool()
        heads = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        if self.layers == self.looking:
            self.looked = heads
        chances = heads.mean(1)
        self.total = chances if self.total is None else self.total + chances
        self.layers += 1

    def mean(self) -> Tensor:
        """The attention [n, length], a mean over layers and heads.

        Raises:
            ValueError: if the model asked no attention of the kind that is noted.
        """
        if self.total is None:
            raise ValueError("the model ran without the attention function that notes")
        return self.total / self.layers

    def heads(self) -> Tensor:
        """The attention [n, heads, length] of the layer `looking`.

        Raises:
            ValueError: if that layer was not run, or asked no attention of the kind that is noted.
        """
        if self.looked is None:
            raise ValueError(f"no attention was noted of layer {self.looking}")
        return self.looked


_noting: list[NotedAttention] = []


def _attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> Any:
    if _noting:
        _noting[-1].add(query, key, options.get("scaling"))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def noted_attention(
    language_model: Any, rows: Tensor, positions: Tensor, attended: Tensor, looking: int | None = None
) -> Iterator[NotedAttention]:
    """Note the attention of some tokens in all attention layers of a language model run in the block.

    Args:
        language_model: whose config says which attention function its layers take; put back afterwards.
        rows, positions, attended, looking: see `NotedAttention`.

    Layers of linear attention (Qwen3.5 has them) have no such map, and are no part of the mean.
    """
    noted = NotedAttention(rows, positions, attended, looking)
    config = language_model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    _noting.append(noted)
    try:
        yield noted
    finally:
        _noting.pop()
        config._attn_implementation = before
