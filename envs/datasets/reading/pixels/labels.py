"""Label images: files, or rows of numbers, whose values say which pixels are an object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.datasets.reading.faults import Fault, note
from envs.datasets.reading.pixels.label_rule import (
    Colours,
    Label,
    ignored_pixels,
    parse_ignored,
    parse_label_rule,
)
from envs.datasets.reading.pixels.pictures import Source, label_header, read_values
from envs.datasets.reading.rules import in_force
from envs.masks import Mask

OwnRule = Callable[[NDArray[Any]], NDArray[np.bool_]]
"""A set's own rule: label values [height, width] -> bool mask."""


def read_label_image(source: Source) -> Label:
    """Read a label image, upright.

    A palette image gives its indices; of several channels the largest value counts (label files are
    written with one or three equal channels). An alpha channel is left out, unless it alone says anything.

    Raises:
        Fault, OSError, ValueError: as `envs.datasets.reading.pixels.pictures.read_header`.
    """
    _, image = read_values(source)
    return _label(image) if isinstance(image, Image.Image) else _of_channels(image)


def target_of(
    label: Label, hw: tuple[int, int], own: OwnRule | str = "two", *, by_height: bool = True
) -> Mask:
    """What a label image calls target, bool [height, width]; what is to be ignored goes to `ignoring`.

    Args:
        label: the image.
        hw: (height, width) of its image.
        own: the set's rule, which holds unless the rules in force have another `mask_values`.
        by_height: as for `fitted`.

    Raises:
        Fault: of kind "mask_values", where the rule does not decide; of kind "mask_size".
    """
    rules = in_force()
    ignored = ignored_pixels(label, parse_ignored(rules.mask_ignore))
    if rules.mask_values is None and callable(own):
        # A set's rule is on numbers, and NaN is none.
        parse_label_rule("nonzero").target(label, ignored)
        target = np.asarray(own(label.values) & ~ignored)
    else:
        text = rules.mask_values if rules.mask_values is not None else own
        assert isinstance(text, str)  # a callable went the other way
        target = parse_label_rule(text).target(label, ignored)
    if ignored.any():
        for heard in _IGNORED.get():
            heard.append(fitted(ignored, hw, by_height=by_height))
    return fitted(target, hw, by_height=by_height)


_IGNORED: ContextVar[tuple[list[Mask], ...]] = ContextVar("_IGNORED", default=())


@contextmanager
def ignoring() -> Iterator[list[Mask]]:
    """Collect the pixels that the rule `mask_ignore` leaves uncounted in the labels read within.

    Yields:
        A list that is filled with bool masks [height, width] of the image.
    """
    found: list[Mask] = []
    token = _IGNORED.set((*_IGNORED.get(), found))
    try:
        yield found
    finally:
        _IGNORED.reset(token)


def fitted(mask: Mask, hw: tuple[int, int], *, by_height: bool = True) -> Mask:
    """A mask brought to (height, width) by the rule `mask_size`, by nearest neighbour; noted.

    `by_height` as for `check_size`, so that one mask is told in one sentence.

    Raises:
        Fault: of kind "mask_size", where the rule refuses another size.
    """
    if mask.shape == tuple(hw):
        return mask
    check_size((mask.shape[0], mask.shape[1]), hw, by_height=by_height)
    resized = cv2.resize(mask.view(np.uint8), hw[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized != 0)


def check_size(mask_hw: tuple[int, int], hw: tuple[int, int], *, by_height: bool = False) -> None:
    """Refuse or note a mask of (height, width) `mask_hw` for an image of `hw`; see `fitted`.

    `by_height` names the height first in sentences, as run-length encodings do.
    """
    if tuple(mask_hw) == tuple(hw):
        return
    step, order = (1, "height x width") if by_height else (-1, "width x height")
    found, wanted = (" x ".join(map(str, one[::step])) for one in (mask_hw, hw))
    sizes = f"{found} ({order}), but its image is {wanted}"
    if in_force().mask_size == "refuse":
        swapped = " (is one of them turned? see the option orientation)" if mask_hw == hw[::-1] else ""
        raise Fault("mask_size", f"it is {sizes}{swapped}; the option mask_size=resize makes it fit")
    note("resized", f"it is {sizes}, and was resized.")


def check_label_size(source: Source, wh: tuple[int, int]) -> None:
    """Check the size of a label image by its header; see `check_size`."""
    check_size(label_wh(source)[::-1], wh[::-1])


def label_wh(source: Source) -> tuple[int, int]:
    """(width, height) of a label image, from its header."""
    return label_header(source).wh


def _label(image: Image.Image) -> Label:
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    if image.mode == "P":
        return Label(np.asarray(image), _packed(np.asarray(image.convert("RGB"))), by_index=True)
    if image.mode == "PA":
        indices = np.asarray(image)[..., 0]
        colours = _packed(np.asarray(image.convert("RGB")))
        return _with_alpha(Label(indices, colours, by_index=True), np.asarray(image)[..., 1])
    pixels = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        return _with_alpha(_of_channels(pixels[..., :-1]), pixels[..., -1])
    return _of_channels(pixels)


def _of_channels(pixels: NDArray[Any]) -> Label:
    """[height, width] or [height, width, channels] numbers; several equal channels are grey."""
    if pixels.ndim == 2:
        return Label(pixels)
    first = pixels[..., 0]
    if all(np.array_equal(first, pixels[..., other]) for other in range(1, pixels.shape[2])):
        return Label(np.ascontiguousarray(first))
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
        raise Fault("mask_values", "its channels differ; write it with one channel")
    return Label(pixels.max(axis=-1), _packed(pixels))


def _packed(rgb: NDArray[np.uint8]) -> Colours:
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    packed: Colours = ((red << 16) | (green << 8) | blue).astype(np.uint32)
    return packed


def _with_alpha(label: Label, alpha: NDArray[np.uint8]) -> Label:
    """The label of an image with an alpha channel: what is drawn, or the alpha where nothing is.

    Raises:
        Fault: of kind "mask_values", where both say something, and not the same.
    """
    drawn = label.values if label.colours is None else label.colours
    if (alpha == alpha.flat[0]).all():
        return label
    if (drawn == drawn.flat[0]).all():
        return Label(alpha)
    if not np.array_equal(drawn != 0, alpha != 0):
        raise Fault("mask_values", "its colours say one thing and its alpha channel another; leave one out")
    return label
