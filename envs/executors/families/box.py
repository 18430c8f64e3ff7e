"""A segmenter without weights: fills boxes, and discs at points. For tests and for dry runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.executors.base import Embedding, ExecutorFailure, Segmentation, Segmenter
from envs.executors.config import ExecutorConfig
from envs.masks import Mask, union
from envs.sample import RGB
from prompter.types import Instance, Point, PromptSet

DISC_RADIUS = 0.05
"""Radius of a disc as a share of the image's shorter side."""

LOGIT = 10.0
"""Absolute value of every logit."""

LOW_RES = 256


class BoxSegmenter(Segmenter):
    """The mask of an instance is its box and discs at its positive points, less discs at its negative points.

    A pixel belongs to a box or disc if its centre does.
    """

    fingerprint = "box-v1"

    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `Segmenter.encode`. There is nothing to keep but the size."""
        return [
            Embedding({}, (image.shape[1], image.shape[0]), (image.shape[0], image.shape[1]))
            for image in images
        ]

    def decode(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[PromptSet],
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """See `Segmenter.decode`. Mask prompts are ignored."""
        if len(embeddings) != len(prompts):
            raise ValueError(f"got {len(embeddings)} embeddings, but {len(prompts)} prompt sets")
        results: list[Segmentation | ExecutorFailure] = []
        for embedding, prompt_set in zip(embeddings, prompts, strict=True):
            width, height = embedding.image_wh
            masks = [_fill(instance, (height, width)) for instance in prompt_set.instances]
            ones = np.ones(len(masks), np.float32)
            results.append(
                Segmentation(
                    mask=union(masks, (height, width)),
                    predicted_ious=ones,
                    stability=ones.copy(),
                    low_res_logits=_low_res_logits(masks) if keep_logits else None,
                    instance_masks=tuple(masks) if keep_instances else None,
                )
            )
        return results


def _fill(instance: Instance, hw: tuple[int, int]) -> Mask:
    """Mask [height, width] == `hw` of one instance."""
    height, width = hw
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    mask = np.zeros(hw, dtype=np.bool_)
    if instance.box is not None:
        x1, y1, x2, y2 = instance.box
        mask |= ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))[None, :]
    radius = max(1.0, DISC_RADIUS * min(hw))

    def disc(point: Point) -> Mask:
        return (y[:, None] - point[1]) ** 2 + (x[None, :] - point[0]) ** 2 <= radius**2

    for point in instance.positive_points:
        mask |= disc(point)
    for point in instance.negative_points:
        mask &= ~disc(point)
    return mask


def _low_res_logits(masks: list[Mask]) -> NDArray[np.float32]:
    """Masks sampled at 256 x 256 cell centres as logits, float32 [instances, 256, 256]."""
    out = np.zeros((len(masks), LOW_RES, LOW_RES), np.float32)
    for i, mask in enumerate(masks):
        rows = ((np.arange(LOW_RES) + 0.5) * mask.shape[0] / LOW_RES).astype(np.int64)
        columns = ((np.arange(LOW_RES) + 0.5) * mask.shape[1] / LOW_RES).astype(np.int64)
        out[i] = np.where(mask[np.ix_(rows, columns)], LOGIT, -LOGIT)
    return out


def build_box(config: ExecutorConfig) -> BoxSegmenter:
    """Build the box executor; nothing of the config applies to it."""
    return BoxSegmenter()
