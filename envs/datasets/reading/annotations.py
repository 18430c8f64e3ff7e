"""Masks as annotation files write them: run-length encodings, polygons, label images, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.reading.images import image_wh, read_label
from envs.masks import RLE, Mask, decode_rle, encode_rle, polygons_to_mask, union
from prompter.types import Box


def annotation_to_mask(value: Any, hw: tuple[int, int], folder: Path | None = None) -> Mask:
    """Read one annotated mask.

    Args:
        value: a run-length encoding `{"size": [height, width], "counts": …}`; polygons
            `[[x0, y0, x1, y1, …], …]`; a list of run-length encodings, or of both, whose union is meant;
            the path of a label image (non-zero is foreground), when a `folder` is given; or None or [] for
            an empty mask.
        hw: (height, width) of the image.
        folder: paths are relative to it.

    Returns:
        bool mask [height, width].

    Raises:
        ValueError: if the value is none of these, or does not fit the image.
        UserError: if a label image cannot be read or has another size.
    """
    check_annotation(value, hw, folder)
    if value is None or (isinstance(value, list) and not value):
        return np.zeros(hw, dtype=np.bool_)
    if isinstance(value, Mapping):
        return decode_rle(value, hw)
    if isinstance(value, list):
        encodings = [decode_rle(part, hw) for part in value if isinstance(part, Mapping)]
        polygons = [part for part in value if not isinstance(part, Mapping)]
        return union([*encodings, *([polygons_to_mask(polygons, hw)] if polygons else [])], hw)
    assert folder is not None  # check_annotation saw to it
    return read_label(folder / value, (hw[1], hw[0])) != 0


def annotation_to_rle(value: Any, hw: tuple[int, int], folder: Path | None = None) -> RLE:
    """`annotation_to_mask`, encoded."""
    return encode_rle(annotation_to_mask(value, hw, folder))


def check_annotation(value: Any, hw: tuple[int, int], folder: Path | None = None) -> None:
    """Check what can be checked without decoding: form, keys and size, of a label image by its header.

    Arguments and errors are those of `annotation_to_mask`.
    """
    if value is None:
        return
    if isinstance(value, Mapping):
        _check_encoding(value, hw)
    elif isinstance(value, list):
        for number, polygon in enumerate(value):
            if isinstance(polygon, Mapping):
                _check_encoding(polygon, hw)
                continue
            if not isinstance(polygon, list) or not all(isinstance(v, int | float) for v in polygon):
                raise ValueError(f"polygon {number} must be a flat list of numbers [x0, y0, x1, y1, …]")
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(
                    f"polygon {number} needs at least three x, y pairs, but has {len(polygon)} values"
                )
    elif isinstance(value, str) and folder is not None:
        width, height = image_wh(folder / value)
        if (height, width) != tuple(hw):
            raise ValueError(
                f"{value} is {height} x {width} (height x width), but its image is {_product(hw)}"
            )
    else:
        kinds = "a run-length encoding, a list of polygons" + (", a path" if folder else "")
        raise ValueError(f"it must be {kinds} or null, but is {type(value).__name__}")


def _check_encoding(value: Mapping[str, Any], hw: tuple[int, int]) -> None:
    if "counts" not in value or "size" not in value:
        raise ValueError("a run-length encoding needs `size` [height, width] and `counts`")
    if list(value["size"]) != list(hw):
        raise ValueError(f"it is {_product(value['size'])} (height x width), but its image is {_product(hw)}")


def xyxy_box(value: Any) -> Box:
    """Read a box `[x1, y1, x2, y2]` in pixels, half-open.

    Raises:
        ValueError: if it is not four finite numbers or has no area.
    """
    try:
        x1, y1, x2, y2 = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"a box must be four numbers x1, y1, x2, y2, but is {value!r}") from None
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        raise ValueError(f"a box must be finite with x1 < x2 and y1 < y2, but is {value!r}")
    return (x1, y1, x2, y2)


def _product(hw: Any) -> str:
    return " x ".join(str(side) for side in hw)
