"""The images of a page: each once, as JPEG, as large as fits into what a page may weigh."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from eval.viewer.groups import LoadImage

SIDES = (640, 512, 384, 256, 192, 128)
"""Longer sides in pixels to choose from. Images are made smaller, never larger."""

MOST_BYTES = 24_000_000
"""What all images of a page may take together, as base64."""

_TRIED, _QUALITY = 6, 82


@dataclass(frozen=True)
class PageImages:
    """The images of a page.

    Args:
        texts: base64 of a JPEG each, or "" where an image could not be had or did not fit.
        side: their longer side at most, in pixels; 0 without any.
        missing: how many could not be loaded.
        over: how many were left out because they did not fit.
    """

    texts: Sequence[str]
    side: int
    missing: int
    over: int

    @property
    def note(self) -> str:
        """What a reader should know of them, or ""."""
        said = []
        if self.over:
            said.append(f"{self.over:,} images are left out, or the page would be too large.")
        if self.missing:
            said.append(f"{self.missing:,} images could not be loaded: their masks are drawn on grey.")
        return " ".join(said)


def page_images(loaders: Sequence[LoadImage | None], most_bytes: int = MOST_BYTES) -> PageImages:
    """Encode images so that together they stay within a limit.

    The longer side is the largest of `SIDES` at which all would fit, judged by some of them. An image that
    cannot be loaded is left out and counted, since a page is written after hours of work.

    Args:
        loaders: one per image; None where there is none.
        most_bytes: the limit, in bytes of base64.
    """
    there = [place for place, loader in enumerate(loaders) if loader is not None]
    side = _side(loaders, there[:: max(1, len(there) // _TRIED)][:_TRIED], len(there), most_bytes)
    texts: list[str] = []
    used = missing = over = 0
    for loader in loaders:
        image = _loaded(loader)
        text = "" if image is None else jpeg_text(image, side)
        if image is None:
            missing += 1
        elif used + len(text) > most_bytes:
            text, over = "", over + 1
        used += len(text)
        texts.append(text)
    return PageImages(texts, side if there else 0, missing, over)


def _side(loaders: Sequence[LoadImage | None], tried: Sequence[int], count: int, most_bytes: int) -> int:
    images = [one for one in (_loaded(loaders[place]) for place in tried) if one is not None]
    for side in SIDES:
        sizes = [len(jpeg_text(one, side)) for one in images]
        if not sizes or count * sum(sizes) / len(sizes) <= 0.95 * most_bytes:
            return side
    return SIDES[-1]


def _loaded(loader: LoadImage | None) -> Image.Image | None:
    if loader is None:
        return None
    try:
        return loader()
    except (LookupError, OSError, ValueError):  # moved files, other samples: the page goes on without it
        return None


def jpeg_text(image: Image.Image, side: int) -> str:
    """Base64 of an image as JPEG, its longer side at most `side` pixels."""
    scale = min(1.0, side / max(image.size))
    wh = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.convert("RGB")
    if shown.size != wh:
        shown = shown.resize(wh, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
