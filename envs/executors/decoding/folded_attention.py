"""Attention between a prompt's few tokens and an image's thousands, with the projections folded away.

Used by `SamDecoder`, whose docstring says why this computes the same as the packages' attention.
Notation in shape comments: B prompts, T tokens of a prompt, H heads, D channels of a head,
C channels of the model (256), N image tokens (4,096), n of them in a slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageSlice:
    """What a decoder computes once per image for some of its tokens, whatever the prompts.

    Args:
        where: which of the N tokens.
        keys: [n, C] image tokens with the "no mask" embedding added.
        first_queries: [H, D, n] queries of the first image-to-token attention.
        upscaled: [n, C] the image's own part of the first upscaling layer (`FoldedUpscaling`).
        upscale_biases: what the two upscaling layers add: each layer's bias [4 * C / 4] and [4 * C / 8],
            or with SAM 2's feature maps [n, 4 * C / 4] and [4 * n, 4 * C / 8].
    """

    where: slice
    keys: Tensor
    first_queries: Tensor
    upscaled: Tensor
    upscale_biases: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ImageSide:
    """What a decoder computes once per image.

    Args:
        slices: the image's tokens, in order.
        first_keys, first_values: [H, D, N] and [H, N, D] of the first token-to-image attention.
    """

    slices: tuple[ImageSlice, ...]
    first_keys: Tensor
    first_values: Tensor


@dataclass(frozen=True)
class FoldedTokens:
    """Tokens ready to be compared with image tokens x at place p: scores = `folded` . x + `offsets`.

    Args:
        folded: [B, H * T, C].
        offsets: [B, H * T, N], what the image tokens' places and the projection's bias contribute.
    """

    folded: Tensor
    offsets: Tensor

    def scores(self, x: Tensor, where: slice) -> Tensor:
        """Scores [B, H * T, n] of a slice [B, n, C] of image tokens."""
        return torch.baddbmm(self.offsets[:, :, where], self.folded, x.mT)


class FoldedAttention:
    """One cross attention of the decoder between tokens and image, with its projections folded.

    Args:
        attention: the package's module.
        image_projection: its projection of image tokens for the scores: `k_proj` where tokens read
            the image, `q_proj` where the image reads tokens.
        place: [N, C] positional encoding of the image tokens.
    """

    def __init__(self, attention: Any, image_projection: nn.Linear, place: Tensor) -> None:
        self.attention = attention
        self.heads: int = attention.num_heads
        self.head_dim: int = attention.internal_dim // attention.num_heads
        self.scale = 1 / math.sqrt(self.head_dim)
        self._image_weight = image_projection.weight.unflatten(0, (self.heads, self.head_dim))  # [H, D, C]
        self._image_place = self.image_heads(image_projection(place))

    def image_heads(self, x: Tensor) -> Tensor:
        """Projected image tokens [n, H * D] -> [H, D, n]."""
        return x.unflatten(1, (self.heads, self.head_dim)).permute(1, 2, 0).contiguous()

    def compare(self, x: Tensor, image: Tensor) -> Tensor:
        """Products of [B, H, T, D] with image tokens [H, D, n] that all prompts share: [B, H * T, n]."""
        batch, _, tokens, _ = x.shape
        # All prompts in one product per head: a broadcast one would copy the image for each of them.
        product = x.transpose(0, 1).reshape(self.heads, batch * tokens, -1) @ image
        return product.view(self.heads, batch, tokens, -1).transpose(0, 1).flatten(1, 2)

    def fold(self, x: Tensor) -> FoldedTokens:
        """Fold the image's projection into projected tokens [B, H, T, D]."""
        return FoldedTokens((x @ self._image_weight).flatten(1, 2), self.compare(x, self._image_place))

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, H * D] -> [B, H, T, D]."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        """[B, H, T, D] -> projected output [B, T, C]."""
        return self.attention.out_proj(x.transpose(1, 2).flatten(2))

    def queries(self, q: Tensor) -> Tensor:
        """Queries of tokens ([B, T, C] before projection), scaled: [B, H, T, D]."""
        return self._split(self.attention.q_proj(q) * self.scale)

    def keys(self, k: Tensor) -> Tensor:
        """Keys of tokens ([B, T, C] before projection), scaled: [B, H, T, D]."""
        return self._split(self.attention.k_proj(k) * self.scale)

    def read_shared(self, q: Tensor, side: ImageSide) -> Tensor:
        """Tokens (queries [B, T, C] before projection) read an image that all prompts share: [B, T, C]."""
        batch, tokens, _ = q.shape
        query = self.queries(q).transpose(0, 1).reshape(self.heads, batch * tokens, self.head_dim)
        weights = torch.softmax(query @ side.first_keys, dim=-1)
        out = (weights @ side.first_values).view(self.heads, batch, tokens, self.head_dim)
        return self._merge(out.transpose(0, 1))

    def finish(self, mixed: Tensor) -> Tensor:
        """Apply value and output projections to weighted sums of image tokens: [B, H * T, C] -> [B, T, C]."""
        value = self.attention.v_proj
        mixed = mixed.unflatten(1, (self.heads, -1))
        values = mixed @ value.weight.unflatten(0, (self.heads, self.head_dim)).mT  # [B, H, T, D]
        return self._merge(values + value.bias.view(self.heads, 1, self.head_dim))

    def token_values(self, v: Tensor) -> Tensor:
        """Values of tokens ([B, T, C] before projection) with the output projection applied: [B, H * T, C].

        The output bias is spread over the heads, because the weights of each head sum to one.
        """
        values = self._split(self.attention.v_proj(v))  # [B, H, T, D]
        out = self.attention.out_proj
        folded = values @ out.weight.t().unflatten(0, (self.heads, self.head_dim))  # [B, H, T, C]
        return (folded + out.bias / self.heads).flatten(1, 2)

    def over_tokens(self, scores: Tensor) -> Tensor:
        """Softmax over the tokens of each head: [B, H * T, n] -> the same shape."""
        return torch.softmax(scores.unflatten(1, (self.heads, -1)), dim=2).flatten(1, 2)


class TokenReading:
    """Tokens that read an image whose tokens come slice by slice.

    Args:
        tokens: what is compared with the image.
    """

    def __init__(self, tokens: FoldedTokens) -> None:
        self.tokens = tokens
        self._scores: list[Tensor] = []
        self._slices: list[Tensor] = []

    def add(self, x: Tensor, where: slice) -> None:
        """Take in the next slice of image tokens, [B, n, C]; it must stay as it is until the result."""
        self._scores.append(self.tokens.scores(x, where))
        self._slices.append(x)

    def result(self) -> Tensor:
        """Weighted sums of the image tokens, [B, H * T, C]."""
        sizes = [x.shape[1] for x in self._slices]
        weights = torch.softmax(torch.cat(self._scores, dim=-1), dim=-1).split(sizes, dim=-1)
        total = weights[0] @ self._slices[0]
        if len(sizes) == 1:
            return total
        # Sums over thousands of image tokens are kept in float32 whatever the model's type.
        mixed = total.to(torch.promote_types(total.dtype, torch.float32))
        for part, x in zip(weights[1:], self._slices[1:], strict=True):
            mixed += part @ x
        return mixed.to(total.dtype)
