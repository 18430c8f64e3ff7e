"""Reading of image and label files: sizes from the header, pixels only when asked for.

What more than 8 bits, an orientation tag, size and the values of a label mean is decided by the rules in
force (`envs.datasets.reading.rules`). A loader keeps those that were in force when it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.datasets.reading.pixels.labels import OwnRule, check_label_size, read_label_image, target_of
from envs.datasets.reading.pixels.pictures import read_header, read_rgb
from envs.datasets.reading.records import blaming
from envs.datasets.reading.rules import ReadingRules, applied, in_force
from envs.masks import Mask

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageFile:
    """Loads one image file as PIL RGB when called; UserError naming the file when it cannot be read."""

    path: str
    rules: ReadingRules = field(default_factory=in_force)

    def __call__(self) -> Image.Image:
        with applied(self.rules), blaming(f"image {self.path}"):
            return read_rgb(self.path)


@dataclass(frozen=True)
class ImageWindow:
    """Loads a window of an image file as PIL RGB when called; `window` is XYXY half-open, whole pixels."""

    path: str
    window: tuple[int, int, int, int]
    rules: ReadingRules = field(default_factory=in_force)

    def __call__(self) -> Image.Image:
        return ImageFile(self.path, self.rules)().crop(self.window)


def image_wh(path: Path | str) -> tuple[int, int]:
    """(width, height) of an image in pixels, from its header only: the size that `ImageFile` gives.

    Raises:
        UserError: if the file is missing, is no image, or is one that the rules in force refuse.
    """
    with blaming(f"image {path}"):
        return read_header(path).wh


def check_mask_file(path: Path | str, wh: tuple[int, int]) -> None:
    """Check by its header that a label image can be read for an image of `wh`; errors as `read_mask`."""
    with blaming(f"mask {path}"):
        check_label_size(path, wh)


def read_mask(path: Path | str, wh: tuple[int, int], own: OwnRule | str = "two") -> Mask:
    """Read a label image as the mask [height, width] of an image of `wh` (width, height).

    Args:
        path: PNG, TIFF, ….
        wh: (width, height) of its image.
        own: the set's rule of which values are target; the option `mask_values` goes before.

    Raises:
        UserError: if the file cannot be read, has another size, or does not say what is target.
    """
    with blaming(f"mask {path}"):
        check_label_size(path, wh)
        return target_of(read_label_image(path), (wh[1], wh[0]), own, by_height=False)


def not_zero(label: NDArray[Any]) -> Mask:
    """The rule of many sets: every value but zero is target."""
    return np.asarray(label != 0)
