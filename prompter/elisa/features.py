"""Embeddings of masks by the policy's own vision tower, and what both kinds of embedding share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from prompter.checkpoint import Checkpoint
from prompter.elisa.embedding import GEOMETRY_WIDTH, box_features, pooled
from prompter.elisa.vocabulary import base_model


class VisionTower:
    """Image features of a Qwen-VL policy: its vision tower's tokens, as the language model gets them.

    Args:
        policy: its processor.
        model: its weights; the tower's are taken to be frozen.
    """

    def __init__(self, policy: Checkpoint, model: Any) -> None:
        self._processor, self._model = policy.processor, base_model(model)

    @property
    def width(self) -> int:
        """Channels of the features."""
        return int(self._model.get_input_embeddings().weight.shape[1])

    @torch.no_grad()
    def features(self, image: Image.Image) -> Tensor:
        """Features of an image, PIL RGB at the size the model sees: float32 [rows, columns, width]."""
        pixels = self._processor.image_processor(images=[image], return_tensors="pt")
        device = self._model.device
        found = self._model.get_image_features(
            pixels["pixel_values"].to(device), pixels["image_grid_thw"].to(device)
        )
        (tokens,) = found.pooler_output
        merge = int(self._processor.image_processor.merge_size)
        _, rows, columns = pixels["image_grid_thw"][0].tolist()
        return tokens.float().cpu().view(rows // merge, columns // merge, -1)


def embed_masks(
    features: Tensor,
    coverage: NDArray[np.float32],
    boxes: NDArray[np.float64],
    areas: NDArray[np.int64],
    image_wh: tuple[int, int],
    *,
    geometry: bool,
) -> Tensor:
    """Embeddings of an image's masks.

    Args:
        features: of the image, float32 [rows, columns, C].
        coverage: share of each of these cells that each mask covers, [masks, rows, columns].
        boxes: [masks, 4], XYXY in pixels of the image; areas: [masks], its pixels.
        image_wh: (width, height) of the image.
        geometry: whether an embedding also tells its mask's box and area.

    Returns:
        float32 [masks, C + `GEOMETRY_WIDTH`], or [masks, C] without geometry.
    """
    found = pooled(features.flatten(0, 1), torch.from_numpy(coverage))
    if not geometry:
        return found
    place = box_features(torch.from_numpy(boxes), torch.from_numpy(areas), image_wh)
    return torch.cat([found, place], 1)


def embedding_width(features: int, geometry: bool) -> int:
    """Width of what `embed_masks` gives of features with so many channels."""
    return features + GEOMETRY_WIDTH * geometry
