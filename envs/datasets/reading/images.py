"""Reading of image and label files: sizes from the header, pixels only when asked for.

What more than 8 bits, an orientation tag, size and the values of a label mean is decided by the rules in
force (`envs.datasets.reading.rules`). A loader keeps those that were in force when it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from envs.datasets.reading.labels import OwnRule, check_label_size, fitted, label_masks, read_label_image
from envs.datasets.reading.pictures import read_header, read_rgb
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


def read_label(path: Path | str, wh: tuple[int, int] | None = None) -> NDArray[Any]:
    """Read a label image as an array [height, width] of its stored values.

    See `envs.datasets.reading.labels.read_label_image` for palettes and channels. `read_mask` applies the
    rules by which values are target.

    Args:
        path: PNG, TIFF, ….
        wh: (width, height) it must have, when known.

    Raises:
        UserError: if the file cannot be read or has another size.
    """
    with blaming(f"mask {path}"):
        if wh is not None:
            check_label_size(path, wh)
        return read_label_image(path).values


def check_mask_file(path: Path | str, wh: tuple[int, int]) -> None:
    """Check by its header that a label image can be read for an image of `wh`; errors as `read_mask`."""
    with blaming(f"mask {path}"):
        check_label_size(path, wh)


def read_mask(path: Path | str, wh: tuple[int, int], own: OwnRule | str = "two") -> tuple[Mask, Mask | None]:
    """Read a label image as masks of an image of `wh` (width, height): (target, ignored).

    Args:
        path: PNG, TIFF, ….
        wh: (width, height) of its image.
        own: the set's rule of which values are target; the option `mask_values` goes before.

    Returns:
        Bool [height, width] each; None where no pixel is ignored.

    Raises:
        UserError: if the file cannot be read, has another size, or does not say what is target.
    """
    with blaming(f"mask {path}"):
        check_label_size(path, wh)
        target, ignored = label_masks(read_label_image(path), own)
        hw = (wh[1], wh[0])
        return fitted(target, hw), None if ignored is None else fitted(ignored, hw)


def label_values(image: Image.Image) -> NDArray[Any]:
    """The stored values of a label image that is open, [height, width]; see `read_label`."""
    return read_label_image(image).values
