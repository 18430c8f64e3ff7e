"""Preprocessing of SAM 2 and its successors: the image is squashed to a square, whatever its shape."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.functional import normalize, resize

from envs.executors.base import Embedding
from envs.sample import RGB

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PREPROCESSING = "squashed to a square, antialiased bilinear in float, normalised; v1"


def squash(
    image: RGB,
    side: int,
    device: torch.device,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """Image [height, width, 3] uint8 RGB -> float32 [3, side, side], as `sam2`'s `SAM2Transforms`."""
    pixels = torch.tensor(image, device=device).permute(2, 0, 1).float().div_(255)
    return normalize(resize(pixels, [side, side], antialias=True), list(mean), list(std))


def squashed_points(
    points: list[tuple[float, float]], embedding: Embedding, side: int
) -> list[tuple[float, float]]:
    """Points of the image frame in the square input of `side` pixels."""
    width, height = embedding.image_wh
    return [(x / width * side, y / height * side) for x, y in points]
