"""How images become a segmenter's input: padded to a square (SAM), or squashed to one (SAM 2 and after)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import normalize, resize

from envs.executors.base import Embedding
from envs.sample import RGB

SAM_SIDE = 1024
"""Side of the padded input of all published weights of SAM."""

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet mean and standard deviation of RGB in 0 to 255, as SAM was trained."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PADDING = "longest side, PIL bilinear, ImageNet normalised, zero padded right and below; v1"
SQUASHING = "squashed to a square, antialiased bilinear in float, normalised; v1"
"""What `pad` and `squash` do, for fingerprints."""


def resized_hw(image_wh: tuple[int, int], side: int = SAM_SIDE) -> tuple[int, int]:
    """(height, width) of an image of (width, height) once its longest side is `side`.

    As `segment_anything.utils.transforms.ResizeLongestSide`, but never below one pixel.
    """
    width, height = image_wh
    scale = side / max(width, height)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def pad(image: RGB, side: int = SAM_SIDE) -> Tensor:
    """Image [height, width, 3] uint8 RGB -> float32 [3, side, side], resized, normalised, zero padded."""
    height, width = resized_hw((image.shape[1], image.shape[0]), side)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    padded = np.zeros((3, side, side), np.float32)
    padded[:, :height, :width] = ((resized - mean) / std).transpose(2, 0, 1)
    return torch.from_numpy(padded)


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
