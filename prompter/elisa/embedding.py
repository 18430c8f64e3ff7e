"""One embedding per mask: features pooled under it, and its place; the adapter to a language model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

OCTAVES = 5
"""Wavelengths, from twice the image's side down, by which a mask's box and area are told."""

GEOMETRY_WIDTH = 5 * 2 * OCTAVES


def pooled(features: Tensor, coverage: Tensor) -> Tensor:
    """Mean of image features under each mask (masked pooling).

    Args:
        features: float [cells, C], row by row.
        coverage: float [masks, rows, columns] with rows * columns == cells: share of each cell that a mask
            covers. A mask that covers nothing gives zeros.

    Returns:
        float [masks, C].
    """
    weights = coverage.flatten(1).to(features)
    return weights @ features / weights.sum(1, keepdim=True).clamp(min=1e-6)


def box_features(boxes: Tensor, areas: Tensor, image_wh: tuple[int, int]) -> Tensor:
    """A mask's place as numbers in [-1, 1].

    Args:
        boxes: float [masks, 4], XYXY in pixels.
        areas: float [masks], pixels.
        image_wh: (width, height) in pixels.

    Returns:
        float32 [masks, `GEOMETRY_WIDTH`]: sines and cosines of the box's centre, sides and the root of the
        area's share, all as shares of the image.
    """
    width, height = image_wh
    left, top, right, bottom = boxes.float().unbind(1)
    shares = [
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
        (areas.float() / (width * height)).sqrt(),
    ]
    angles = torch.stack(shares, 1)[..., None] * math.pi * 2.0 ** torch.arange(OCTAVES)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)


class MaskAdapter(nn.Module):
    """From a mask's embedding to the language model's embedding space.

    The training set's mean is subtracted first: masks of one image are very alike, and what they share says
    nothing about which is meant. The result has the mean and spread of the model's own token embeddings at
    first, both of which are trained.

    Args:
        width: of a mask's embedding.
        tokens: the model's token embeddings, float [vocabulary, D]; read, not kept.
        hidden: width of the hidden layer.
        dropout: in [0, 1).
    """

    mean: Tensor

    def __init__(self, width: int, tokens: Tensor, hidden: int, dropout: float) -> None:
        super().__init__()
        out = tokens.shape[1]
        self.register_buffer("mean", torch.zeros(width))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out),
            nn.LayerNorm(out, elementwise_affine=False),
        )
        rows = tokens.detach().float()
        self.spread = nn.Parameter(rows.std(0))
        self.centre = nn.Parameter(rows.mean(0))

    def forward(self, masks: Tensor) -> Tensor:
        """Embeddings [..., width] -> token vectors [..., D], float32."""
        vectors: Tensor = self.mlp(masks.float() - self.mean)
        return vectors * self.spread + self.centre
