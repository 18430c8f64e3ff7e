"""A contact sheet: a grid of samples, each with its image, its target drawn upon it and its question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs.masks import Mask
from envs.sample import RGB, Sample
from prompter.runs.files import atomic_write

INSTANCE_COLOURS: tuple[tuple[int, int, int], ...] = (
    (255, 64, 160),
    (0, 225, 255),
    (255, 200, 0),
    (150, 110, 255),
    (90, 255, 120),
    (255, 120, 40),
)
"""Outline colours of the first, second, … target object; they repeat after the last."""

_PAPER = (250, 249, 246)
_INK = (28, 28, 30)
_FAINT = (120, 120, 124)
_GAP = 12  # pixels between tiles


def overlay_masks(image: RGB, masks: Sequence[Mask], *, tint: float = 0.22) -> RGB:
    """Tint and outline masks on a copy of an image, each in its own colour.

    Args:
        image: [height, width, 3] uint8.
        masks: each [height, width] bool.
        tint: how much of the colour covers the object, 0 to 1.
    """
    result = image.copy()
    for number, mask in enumerate(masks):
        colour = INSTANCE_COLOURS[number % len(INSTANCE_COLOURS)]
        mixed = result[mask] * (1 - tint) + np.array(colour) * tint
        result[mask] = np.rint(mixed).astype(np.uint8)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(result, contours, -1, colour, max(1, round(max(image.shape) / 150)))
    return result


def _target_masks(sample: Sample) -> list[Mask]:
    """One mask per target object, or one for all where the set does not tell objects apart."""
    if sample.instances:
        return sample.instance_masks()
    if sample.target is None:
        return []
    whole = sample.target_mask()
    return [whole] if whole.any() else []


def _tile_image(sample: Sample, side: int, *, target: bool) -> Image.Image:
    """The sample's image with its target, fitted into side x side pixels.

    It is scaled before the target is drawn, so that outlines are equally wide on all tiles.
    """
    width, height = sample.image_wh
    scale = side / max(width, height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    image = np.asarray(sample.load_image().convert("RGB").resize(fitted, method))
    if target:
        masks = [
            cv2.resize(mask.astype(np.uint8) * 255, fitted, interpolation=cv2.INTER_AREA) >= 128
            for mask in _target_masks(sample)
        ]
        image = overlay_masks(image, masks)
    drawn = Image.fromarray(image)
    if target:
        pen = ImageDraw.Draw(drawn)
        for number, box in enumerate(sample.boxes):
            colour = INSTANCE_COLOURS[number % len(INSTANCE_COLOURS)]
            pen.rectangle([value * scale for value in box], outline=colour, width=2)
    return drawn


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """Break text between words into at most `lines` lines of at most `width` pixels."""
    result: list[str] = []
    for word in text.split():
        longer = f"{result[-1]} {word}" if result else word
        if result and font.getlength(longer) <= width:
            result[-1] = longer
        else:
            result.append(word)
    if len(result) > lines:
        result = [*result[: lines - 1], result[lines - 1].rstrip(",.") + " …"]
    return result


def contact_sheet(
    samples: Sequence[Sample],
    *,
    columns: int = 4,
    tile: int = 256,
    target: bool = True,
    caption_lines: int = 3,
) -> Image.Image:
    """Lay samples out in a grid.

    Each tile has the image with every target object tinted and outlined in its own colour (boxes for
    box-only sets), below it the question, and below that in grey the values of the sample's tags, or
    "no target" where there is none.

    Args:
        samples: what to show, in reading order; at least one.
        columns: tiles in a row.
        tile: side in pixels of the square that each image is fitted into.
        target: False shows the bare images.
        caption_lines: room for the question; longer ones end in "…".

    Raises:
        ValueError: if there is no sample, or if `columns` or `tile` is less than 1.
    """
    if not samples:
        raise ValueError("a contact sheet needs at least one sample")
    if columns < 1 or tile < 1:
        raise ValueError(f"columns and tile must be at least 1, but got {columns} and {tile}")
    columns = min(columns, len(samples))
    font = ImageFont.load_default(max(10, tile / 17))
    small = ImageFont.load_default(max(9, tile / 22))
    line, small_line = round(tile / 17 * 1.3), round(tile / 22 * 1.3)
    caption = 6 + caption_lines * line + 2 * small_line
    rows = -(-len(samples) // columns)
    width = columns * (tile + _GAP) + _GAP
    sheet = Image.new("RGB", (width, rows * (tile + caption + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, sample in enumerate(samples):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (tile + _GAP), _GAP + row * (tile + caption + _GAP)
        picture = _tile_image(sample, tile, target=target)
        sheet.paste(picture, (left + (tile - picture.width) // 2, top + (tile - picture.height) // 2))
        y = top + tile + 6
        for text in _wrap(sample.query, font, tile, caption_lines):
            pen.text((left, y), text, _INK, font)
            y += line
        for text in _wrap(_remark(sample), small, tile, 2):
            pen.text((left, y), text, _FAINT, small)
            y += small_line
    return sheet


def _remark(sample: Sample) -> str:
    """What the grey line below a question says."""
    values = list(sample.tags.values())
    empty = not sample.boxes and not _target_masks(sample)
    if empty and "none" not in values:
        values.insert(0, "no target")
    return " · ".join(values)


def write_contact_sheet(sheet: Image.Image, path: Path | str) -> None:
    """Write a sheet as PNG in full colour; the file is whole or absent."""
    with atomic_write(path, "wb") as handle:
        sheet.save(handle, format="PNG", optimize=True)
