"""Reading of image and label files: sizes from the header, pixels only when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.datasets.reading.records import blaming

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageFile:
    """Loads one image file as PIL RGB when called; UserError naming the file when it cannot be read."""

    path: str

    def __call__(self) -> Image.Image:
        with blaming(f"image {self.path}"), Image.open(self.path) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class ImageWindow:
    """Loads a window of an image file as PIL RGB when called; `window` is XYXY half-open, whole pixels."""

    path: str
    window: tuple[int, int, int, int]

    def __call__(self) -> Image.Image:
        return ImageFile(self.path)().crop(self.window)


def image_wh(path: Path | str) -> tuple[int, int]:
    """(width, height) of an image in pixels, from its header only.

    Raises:
        UserError: if the file is missing or is no image.
    """
    with blaming(f"image {path}"), Image.open(path) as image:
        return image.size


def read_label(path: Path | str, wh: tuple[int, int] | None = None) -> NDArray[Any]:
    """Read a label image as an array [height, width] of its stored values.

    Palette images give their indices. Of several channels the largest value counts (label files are
    written with one or three equal channels); an alpha channel is left out.

    Args:
        path: PNG, TIFF, ….
        wh: (width, height) it must have, when known.

    Raises:
        UserError: if the file cannot be read or has another size.
    """
    with blaming(f"mask {path}"):
        with Image.open(path) as image:
            if wh is not None and image.size != tuple(wh):
                raise ValueError(
                    f"it is {image.width} x {image.height} (width x height), "
                    f"but its image is {wh[0]} x {wh[1]}"
                )
            return label_values(image)


def label_values(image: Image.Image) -> NDArray[Any]:
    """The stored values of an opened label image, [height, width]; see `read_label`."""
    has_alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    label = np.asarray(image)
    if label.ndim == 3:
        label = (label[..., :-1] if has_alpha else label).max(axis=-1)
    return label
