"""Other cameras, other weather: photometric changes of an image that leave every object in its place."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.sample import RGB


def photograph_anew(image: RGB, rng: np.random.Generator, *, keep_colours: bool) -> RGB:
    """Change light, colour, sharpness and noise of an image at random; geometry stays.

    Args:
        image: [height, width, 3] uint8, RGB.
        rng: draws the changes.
        keep_colours: leave colours tellable (no greyscale, a weak cast), as questions ask for them.

    Returns:
        The changed image, [height, width, 3] uint8, RGB.
    """
    pixels: NDArray[np.float32] = image.astype(np.float32) / np.float32(255)
    pixels = pixels ** rng.uniform(0.7, 1.5)
    pixels = (pixels - 0.5) * rng.uniform(0.6, 1.3) + 0.5 + rng.uniform(-0.18, 0.12)
    grey = pixels.mean(axis=2, keepdims=True)
    if not keep_colours and rng.random() < 0.15:
        pixels = np.repeat(grey, 3, axis=2)
    else:
        pixels = grey + (pixels - grey) * rng.uniform(0.6 if keep_colours else 0.3, 1.4)
    cast = 0.05 if keep_colours else 0.15
    pixels = pixels * rng.uniform(1 - cast, 1 + cast, 3).astype(np.float32)
    if rng.random() < 0.5:
        pixels = pixels * _clouds(image.shape[:2], rng)[..., None]
    if rng.random() < 0.4:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.1)), np.float32)
    if rng.random() < 0.5:
        noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None]
        pixels = pixels + noise * np.float32(rng.uniform(0.01, 0.06))
    changed = np.clip(pixels * 255, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = int(rng.integers(30, 85))
        coded = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        changed = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return changed


def _clouds(hw: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Uneven light and rough ground, [height, width] around 1: noise of a few coarse and fine scales."""
    total = np.ones(hw, np.float32)
    for cells in (3, 12, 48):
        noise = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(rng.uniform(0.0, 0.1))
        total += cv2.resize(noise, hw[::-1], interpolation=cv2.INTER_CUBIC)
    return total
