"""Noise that gives drawn surfaces their grain: made once per image size, then cropped per scene.

Every texture is a constant: it depends on the image size and on nothing else. A scene takes a crop
at a place drawn from its own random generator, so two scenes never show the same crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
_TEXTURE_SEED = 20240611


@dataclass(frozen=True)
class TextureBank:
    """Textures twice the image's side, [2 * size, 2 * size]; feature sizes scale with the image.

    Args:
        size: side of the images they are for, in pixels.
        soft: fractal noise from a quarter of the side down to a few pixels; mean 0, deviation 1.
        waves: elongated ripples along x; mean 0, deviation 1.
        canopy_x, canopy_y: slope of a canopy of tree crowns along x and y; a dot product with the
            direction to the sun shades it.
        gaps: how deep a pixel lies between the crowns, 0 (on top) to 1.
        grain: sensor noise per pixel and channel, [2 * size, 2 * size, 3] int16, in grey levels.
    """

    size: int
    soft: Field
    waves: Field
    canopy_x: Field
    canopy_y: Field
    gaps: Field
    grain: NDArray[np.int16]


def _standardise(field: Field) -> Field:
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _value_noise(rng: np.random.Generator, side: int, cells: tuple[int, int]) -> Field:
    """Smooth noise [side, side] from random values on a grid of (rows, columns) cells."""
    values = rng.standard_normal(cells).astype(np.float32)
    return np.asarray(cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)


def _canopy_height(rng: np.random.Generator, side: int) -> Field:
    """Heights 0..1 of overlapping round tree crowns that cover [side, side]."""
    height = np.zeros((side, side), np.float32)
    for _ in range(4200):
        radius = side * rng.uniform(0.008, 0.017)
        x, y = rng.uniform(0, side, 2)
        left, right = max(0, int(x - radius)), min(side, int(x + radius) + 2)
        top, bottom = max(0, int(y - radius)), min(side, int(y + radius) + 2)
        columns, rows = np.arange(left, right) - x, np.arange(top, bottom) - y
        squared = (columns[None, :] ** 2 + rows[:, None] ** 2) / radius**2
        crown = np.sqrt(np.clip(1 - squared, 0, None)) * rng.uniform(0.7, 1.0)
        patch = height[top:bottom, left:right]
        np.maximum(patch, crown, out=patch)
    return height


@lru_cache(maxsize=3)
def texture_bank(size: int) -> TextureBank:
    """Build (once per process and size) the textures for images of `size` x `size` pixels."""
    rng = np.random.default_rng(_TEXTURE_SEED)
    side = 2 * size
    octaves = [(8, 1.0), (18, 0.7), (40, 0.55), (90, 0.55), (200, 0.6), (420, 0.55)]
    soft = sum(
        (weight * _value_noise(rng, side, (cells, cells)) for cells, weight in octaves),
        start=np.zeros((side, side), np.float32),
    )
    waves = sum(
        (weight * _value_noise(rng, side, (cells, cells // 3)) for cells, weight in [(90, 0.8), (180, 1.0)]),
        start=np.zeros((side, side), np.float32),
    )
    height = _canopy_height(rng, side)
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(height, (0, 0), max(0.6, size / 400)))
    slope = np.float32(1 / (np.std(slope_x) + 1e-6))
    grain = rng.normal(0, 1.0, (side, side, 3)) + rng.normal(0, 1.8, (side, side, 1))
    return TextureBank(
        size=size,
        soft=_standardise(soft),
        waves=_standardise(waves),
        canopy_x=(slope_x * slope).astype(np.float32),
        canopy_y=(slope_y * slope).astype(np.float32),
        gaps=(1 - height).astype(np.float32),
        grain=np.rint(grain).astype(np.int16),
    )


def crop_origin(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Draw the (row, column) at which a crop of `size` x `size` fits into a texture."""
    row, column = rng.integers(0, size + 1, 2)
    return int(row), int(column)


def rotated_crop(texture: Field, size: int, angle: float) -> Field:
    """Turn a texture by `angle` radians about its middle and return the central [size, size]."""
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    middle, half = texture.shape[0] / 2, size / 2
    matrix = np.array(
        [
            [cosine, -sine, middle - half * cosine + half * sine],
            [sine, cosine, middle - half * sine - half * cosine],
        ],
        np.float32,
    )
    turned = cv2.warpAffine(texture, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(turned, np.float32)
