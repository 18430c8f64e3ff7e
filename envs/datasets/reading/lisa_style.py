"""Polygon files as LISA writes them: one JSON beside each image, with `text`, `is_sentence`, `shapes`.

The drawing rule is that of LISA's own loader, because the published numbers rest on it: points
are cut to whole pixels; outline and inside of each polygon are filled; larger polygons are drawn
first, so that a small "ignore" inside a large target survives; label `flag` is skipped; a label
holding "ignore" marks pixels that no metric counts; any other label is target.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from envs.datasets.reading.images import ImageFile, image_wh
from envs.datasets.reading.records import blaming
from envs.datasets.reading.text import decode_text
from envs.masks import MAX_COORDINATE, Mask, encode_rle
from envs.sample import Sample


@dataclass(frozen=True)
class LisaAnnotation:
    """What one file holds; `shapes` are (label, points [n, 2] in whole pixels)."""

    texts: tuple[str, ...]
    is_sentence: bool
    shapes: tuple[tuple[str, np.ndarray], ...]

    def draw(self, hw: tuple[int, int]) -> tuple[Mask, Mask]:
        """Return (target, ignore), each [height, width] for `hw` (height, width)."""
        filled = [(label, _fill(points, hw)) for label, points in self.shapes]
        filled = sorted(filled, key=lambda shape: int(shape[1].sum()))[::-1]  # of equals, the last first
        target = np.zeros(hw, dtype=np.bool_)
        ignore = np.zeros(hw, dtype=np.bool_)
        for label, mask in filled:
            is_ignore = "ignore" in label
            target[mask], ignore[mask] = not is_ignore, is_ignore
        return target, ignore


def read_lisa_annotation(path: Path, encoding: str | None = None) -> LisaAnnotation:
    """Read one annotation file.

    Args:
        path: the file.
        encoding: of its text. Without it that is UTF-8, or cp1252 where that fails, as in LISA's own
            loader; but what looks like Chinese GBK is refused, because cp1252 would read nonsense.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    with blaming(f"annotation {path}"):
        data = _load(path, encoding)
        texts = data["text"]
        if isinstance(texts, str):
            texts = [texts]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError("the key 'text' must hold at least one question")
        shapes = []
        for number, shape in enumerate(data["shapes"]):
            label = str(shape["label"]).lower()
            if label == "flag":
                continue
            points = np.asarray(shape["points"], dtype=np.float64)
            if points.ndim != 2 or points.shape[1] != 2 or not len(points):
                raise ValueError(f"the points of shape {number} must be a list of [x, y]")
            if not (np.abs(points) <= MAX_COORDINATE).all():  # False for NaN
                raise ValueError(f"shape {number} has a coordinate that is not finite or beyond any image")
            shapes.append((label, points.astype(np.int32)))
        return LisaAnnotation(tuple(texts), bool(data.get("is_sentence", True)), tuple(shapes))


def lisa_sample(
    dataset: str,
    split: str,
    image: Path,
    annotation: Path,
    text_index: int,
    tags: dict[str, str],
    *,
    name: str | None = None,
    encoding: str | None = None,
) -> Sample:
    """Build the sample for one text of one annotated image.

    Args:
        dataset, split: it belongs to.
        image, annotation: the files.
        text_index: which of the texts is asked, from 0.
        tags: added to those found here.
        name: of the image within the split; None is the files' stems.
        encoding: as for `read_lisa_annotation`.
    """
    found = read_lisa_annotation(annotation, encoding)
    width, height = image_wh(image)
    target, ignore = found.draw((height, width))
    with blaming(f"annotation {annotation}"):
        query = found.texts[text_index]
    return Sample(
        sample_id=f"{name or annotation.stem}/{text_index}",
        dataset=dataset,
        split=split,
        image_id=name or image.stem,
        image_wh=(width, height),
        load_image=ImageFile(str(image)),
        query=query,
        target=encode_rle(target),
        ignore=encode_rle(ignore) if ignore.any() else None,
        tags={"length": "long" if found.is_sentence else "short", **tags},
    )


def _load(path: Path, encoding: str | None) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        text = decode_text(raw, encoding)
    except ValueError:
        if encoding is not None or _looks_chinese(raw):
            raise
        text = raw.decode("cp1252")
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it must be a JSON object")
    return data


def _looks_chinese(raw: bytes) -> bool:
    """Whether bytes that are not UTF-8 fit GBK, and hold two of its characters in a row somewhere."""
    try:
        raw.decode("gbk")
    except UnicodeDecodeError:
        return False
    return re.search(rb"(?:[\xb0-\xf7][\xa1-\xfe]){2}", raw) is not None


def _fill(points: np.ndarray, hw: tuple[int, int]) -> Mask:
    canvas = np.zeros(hw, dtype=np.uint8)
    cv2.polylines(canvas, [points], isClosed=True, color=1, thickness=1)
    cv2.fillPoly(canvas, [points], color=1)
    return canvas.astype(np.bool_)
