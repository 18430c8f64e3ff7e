"""What a user may give as an image, read once into the image frame, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.datasets.reading.pixels.georeference import georeference_of
from envs.datasets.reading.pixels.pictures import read_rgb
from envs.datasets.reading.pixels.stretch import parse_stretch
from envs.datasets.reading.records import blaming
from envs.datasets.reading.rules import ReadingRules, applied
from envs.sample import Sample, content_hash
from prompter.errors import UserError

ImageLike = str | Path | bytes | Image.Image | NDArray[Any]
"""A path, bytes of an encoded file, a PIL image, or an array; see `read_picture`."""

DATASET = "images"
"""What samples say they come from where a user gave the image."""


@dataclass(frozen=True)
class Picture:
    """An image that was given.

    Args:
        name: its path as it was given, or "image-…" with a hash of its pixels; equal only if the images are.
        load: returns it as PIL RGB, upright.
        wh: (width, height) in pixels.
    """

    name: str
    load: Callable[[], Image.Image] = field(repr=False)
    wh: tuple[int, int]

    def sample(self, query: str, sample_id: str = "") -> Sample:
        """A question about it, without a target; `sample_id` is the image's name where it is not given."""
        return Sample(sample_id or self.name, DATASET, "", self.name, self.wh, self.load, query, None)


def read_picture(given: ImageLike, rules: ReadingRules) -> Picture:
    """Read an image.

    Args:
        given: a path; bytes of an encoded file; a PIL image; or an array of numbers [height, width],
            [height, width, 3] RGB or [height, width, 4] RGBA (alpha is dropped). Arrays are uint8, or of any
            number type if `rules.stretch` says how they are seen. What carries an orientation tag is turned
            upright unless `rules.orientation` is "ignore".
        rules: how files are read where more than one reading is possible.

    Raises:
        UserError: if it cannot be read, or could be misread: more than 8 bits without a stretch, channels
            first, more pixels than `rules.max_pixels`, or a raster with a place on a map.
    """
    with applied(rules):
        if isinstance(given, str | Path):
            refuse_map(given)
            with blaming(f"image {given}"):
                return _kept(read_rgb(given), str(given))
        if isinstance(given, bytes | Image.Image):
            with blaming("the image"):
                return _kept(read_rgb(given))
        with blaming("the image"):
            return _kept(read_rgb(Image.fromarray(_as_bytes(given, rules))))


def refuse_map(path: Path | str) -> None:
    """Refuse a file whose pixels have a place on a map, which is lost where pixels are all there is.

    Raises:
        UserError: saying what to do; or that the file is missing.
    """
    with blaming(f"image {path}"):
        place = georeference_of(path)
    if place is not None:
        raise UserError(
            f"image {path}: it has a place on a map ({place}), which would be lost: outlines come out in "
            f"pixels. `prompter segment` keeps it; if pixels are what you want, save it as PNG without, or "
            f"give its pixels as an array."
        )


def _kept(image: Image.Image, name: str = "") -> Picture:
    pixels = np.asarray(image)
    return Picture(name or f"image-{content_hash(pixels)}", partial(_itself, image), image.size)


def _itself(image: Image.Image) -> Image.Image:
    return image


def _as_bytes(given: Any, rules: ReadingRules) -> NDArray[np.uint8]:
    """An array as a copy in uint8, [height, width, 3]; ValueError with a sentence if it is no image."""
    if not isinstance(given, np.ndarray):
        raise ValueError(
            f"it should be a path, a PIL image, bytes or a NumPy array, but is a {type(given).__name__}"
        )
    layout = given.shape[2:] in ((), (1,), (3,), (4,)) and given.ndim in (2, 3)
    if not layout or not given.size:
        hint = "; channels go last" if given.ndim == 3 and given.shape[0] in (1, 3, 4) else ""
        raise ValueError(
            f"an array should be [height, width], [height, width, 3] or [height, width, 4], "
            f"but has shape {given.shape}{hint}"
        )
    if given.dtype.kind not in "iuf":
        raise ValueError(f"an array should hold numbers, but holds {given.dtype}")
    colours = given.reshape(*given.shape[:2], -1)[..., :3]
    if colours.dtype != np.uint8:
        if rules.stretch == "refuse":
            raise ValueError(
                f"it holds {colours.dtype}, and how that is to be seen is not said; give uint8, or say it "
                f"with the option stretch (percentile, minmax, full or range:LOW:HIGH)"
            )
        colours = parse_stretch(rules.stretch).to_bytes(colours)
    return np.ascontiguousarray(np.repeat(colours, 3 // colours.shape[2], axis=2)).copy()
