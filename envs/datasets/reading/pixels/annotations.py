"""Masks as annotation files write them: run-length encodings, polygons, label images, boxes, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.reading.faults import Fault, note
from envs.datasets.reading.pixels.images import check_mask_file, read_mask
from envs.datasets.reading.pixels.labels import check_size, fitted
from envs.datasets.reading.pixels.units import box_of, check_units, to_pixels
from envs.datasets.reading.rules import in_force
from envs.masks import RLE, Mask, check_coordinates, decode_rle, encode_rle, polygons_to_mask, union
from prompter.types import Box


def annotation_to_mask(value: Any, hw: tuple[int, int], folder: Path | None = None) -> Mask:
    """Read one annotated mask, by the rules in force.

    Args:
        value: a run-length encoding `{"size": [height, width], "counts": …}`; polygons
            `[[x0, y0, x1, y1, …], …]`; a list of run-length encodings, or of both, whose union is meant;
            the path of a label image, when a `folder` is given; a box of four numbers, where the rules say
            how it is written; or None or [] for an empty mask.
        hw: (height, width) of the image.
        folder: paths are relative to it.

    Returns:
        bool mask [height, width]. Parts of polygons that have no area are left out, and noted.

    Raises:
        ValueError: if the value is none of these, or does not fit the image.
        UserError: if a label image cannot be read or has another size.
    """
    check_annotation(value, hw, folder)
    if isinstance(value, str) and folder is not None:
        return read_mask(folder / value, (hw[1], hw[0]))
    mask = union(annotation_parts(value, hw), hw)
    if not mask.any() and isinstance(value, list) and _has_shapes(value):
        if in_force().empty_object == "refuse":
            raise Fault("nothing_drawn", _why_nothing(value, hw))
        note("nothing_drawn", _why_nothing(value, hw))
    return mask


def annotation_parts(value: Any, hw: tuple[int, int]) -> list[Mask]:
    """The parts of an annotation that is no path, each a bool mask [height, width].

    Parts that have no area, or draw no pixel, are left out and noted. Arguments and errors are those of
    `annotation_to_mask`.
    """
    check_annotation(value, hw)
    if isinstance(value, Mapping):
        return [_decoded(value, hw)]
    if _is_box(value):
        return [_filled_box(value, hw)]
    parts = []
    for number, part in enumerate(value or ()):
        if isinstance(part, Mapping):
            parts.append(_decoded(part, hw))
            continue
        problem = _no_area(part)
        if problem is None:
            mask = polygons_to_mask([to_pixels(part, (hw[1], hw[0]))], hw)
            if mask.any():
                parts.append(mask)
                continue
            problem = "draws no pixel"
        note("part", f"polygon {number} {problem}, and is left out.")
    return parts


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
    elif _is_box(value):
        _box(value, hw)
    elif isinstance(value, list):
        polygons = []
        for number, part in enumerate(value):
            if isinstance(part, Mapping):
                _check_encoding(part, hw)
            elif isinstance(part, list) and all(_is_number(v) for v in part):
                if len(part) % 2:
                    raise ValueError(f"polygon {number} needs x, y pairs, but has {len(part)} values")
                check_coordinates(part, number)
                polygons.append(part)
            else:
                is_box = len(value) == 4 and all(_is_number(v) for v in value)
                raise Fault(
                    "units" if is_box else "unreadable",
                    f"polygon {number} must be a flat list of numbers [x0, y0, x1, y1, …]"
                    + (
                        "; if the four numbers are a box, say so with the option box_format" if is_box else ""
                    ),
                )
        if len(value) >= 3 and all(isinstance(part, list) and len(part) == 2 for part in value):
            raise Fault(
                "nothing_drawn",
                "it looks like one polygon as a list of points; write each polygon as one flat list "
                "[x0, y0, x1, y1, …]",
            )
        check_units([v for polygon in polygons if not _no_area(polygon) for v in polygon], (hw[1], hw[0]))
        if len(polygons) == len(value) and in_force().empty_object == "refuse":
            if polygons and all(_no_area(polygon) for polygon in polygons):
                raise Fault("nothing_drawn", _why_nothing(value, hw))
    elif isinstance(value, str) and folder is not None:
        check_mask_file(folder / value, (hw[1], hw[0]))
    else:
        kinds = "a run-length encoding, a list of polygons" + (", a path" if folder else "")
        raise ValueError(f"it must be {kinds} or null, but is {type(value).__name__}")


def xyxy_box(value: Any, wh: tuple[int, int] | None = None) -> Box:
    """Read a box `[x1, y1, x2, y2]` in pixels, half-open, or as the rules say boxes are written.

    Args:
        value: four numbers.
        wh: (width, height) of the image; needed where the rules have other units than pixels.

    Raises:
        ValueError: if it is not four finite numbers or has no area.
    """
    return box_of(value, wh)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_box(value: Any) -> bool:
    """Whether a mask is written as one box, and the rules read that."""
    has_four = isinstance(value, list) and len(value) == 4 and all(_is_number(v) for v in value)
    return has_four and in_force().box_format is not None


def _box(value: Any, hw: tuple[int, int]) -> Box:
    return box_of(value, (hw[1], hw[0]))


def _filled_box(value: Any, hw: tuple[int, int]) -> Mask:
    """A box as a mask: its pixels are those whose middle is inside."""
    x1, y1, x2, y2 = (max(math.ceil(v - 0.5), 0) for v in _box(value, hw))
    mask = np.zeros(hw, dtype=np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def _decoded(value: Mapping[str, Any], hw: tuple[int, int]) -> Mask:
    return fitted(decode_rle(value), hw)


def _no_area(polygon: Sequence[float]) -> str | None:
    """Why a polygon (a flat list of x, y) encloses nothing; None when it does."""
    if len(polygon) < 6:
        return f"needs at least three x, y pairs, but has {len(polygon)} values"
    x, y = np.asarray(polygon[0::2], np.float64), np.asarray(polygon[1::2], np.float64)
    along_x, along_y = x - x[0], y - y[0]
    far = int(np.argmax(along_x**2 + along_y**2))
    off_line = np.abs(along_x * along_y[far] - along_y * along_x[far])
    return "has no area" if (off_line <= 1e-9 * max(1.0, float(np.abs(off_line).max()))).all() else None


def _has_shapes(value: list[Any]) -> bool:
    return any(not isinstance(part, Mapping) for part in value)


def _why_nothing(value: list[Any], hw: tuple[int, int]) -> str:
    """Why an object draws nothing: the first part without area, or that all lie outside."""
    reasons = (
        f"polygon {number} {problem}, and nothing else is drawn"
        for number, part in enumerate(value)
        if isinstance(part, list) and (problem := _no_area(part))
    )
    reason = next(reasons, f"nothing of it is drawn inside its {hw[1]} x {hw[0]} image (width x height)")
    return (
        f"{reason}; write null where there is no target, or read it as an empty mask by the option "
        f"empty_object=keep"
    )


def _check_encoding(value: Mapping[str, Any], hw: tuple[int, int]) -> None:
    if "counts" not in value or "size" not in value:
        raise ValueError("a run-length encoding needs `size` [height, width] and `counts`")
    try:
        height, width = (int(side) for side in value["size"])
    except (TypeError, ValueError):
        raise ValueError("a run-length encoding needs `size` [height, width] and `counts`") from None
    if height * width > in_force().max_pixels:
        raise Fault(
            "huge",
            f"its run-length encoding is of {height} x {width} pixels (height x width), which is more than "
            f"the limit of {in_force().max_pixels:,}; see the option max_pixels",
        )
    check_size((height, width), hw, by_height=True)
