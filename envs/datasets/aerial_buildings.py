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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from envs.assets import fetch_package_folder
from envs.datasets.building_windows import Encoded, Questions, kinds_by_place, window_samples
from envs.datasets.reading.pixels.images import ImageWindow, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.masks import Mask, polygons_to_mask
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
    no_target: float = 1.0,
    tiles: Sequence[int] | None = None,
    questions: Questions = "all",
    held_out_share: float = 0.25,
    encode: Encoded = "window",
    seed: int = 0,
) -> RecordSource[Sample]:
    """Open one split.

    Args:
        split: train (8 tiles), val (1 tile) or test (3 tiles).
        root: the folder with `images/` and `polygon_lists/`; fetched when not given.
        window: side of the square windows in pixels, at most the tiles' 571.
        stride: most pixels from one window to the next; a row of windows reaches from edge to edge, but for
            a few pixels where another window would show almost the same.
        queries_per_window: most questions asked about one window.
        min_visible: share of a building's pixels a window must show for the building to be an answer.
        min_area: fewest visible pixels for the same (60 pixels are 7.4 square metres).
        max_targets: leave out questions with more targets than this; None keeps all.
        no_target: share of the questions without a target that is kept.
        tiles: only these of the split's tiles, such as one neighbourhood; None is all of them.
        questions: "asked" leaves out the kinds of questions that are held out on a tile, "held-out" asks
            only those: other questions about the same place (see
            `envs.datasets.building_windows.kinds_by_place`).
        held_out_share: share of the kinds of questions that is held out on each tile.
        encode: what a segmenter encodes: each "window", or the "region", a whole tile, once for all its
            windows.
        seed: draws kinds and wordings of the questions, and which kinds are held out.

    Raises:
        UserError: if the tiles cannot be fetched or read, or an option is out of range.
    """
    if not 16 <= window <= 571:
        raise UserError(f"option 'window' of dataset {NAME!r} must be between 16 and 571, but is {window}.")
    if stride < 1:
        raise UserError(f"option 'stride' of dataset {NAME!r} must be at least 1, but is {stride}.")
    if tiles is not None and (not tiles or not set(tiles) <= set(TILES[split])):
        raise UserError(
            f"option 'tiles' of dataset {NAME!r} must name tiles of split {split}, which are "
            f"{', '.join(map(str, TILES[split]))}, but is {list(tiles)}."
        )
    chosen = [tile for tile in TILES[split] if tiles is None or tile in tiles]
    asked = kinds_by_place(NAME, len(chosen), questions, held_out_share, seed)
    folder = root or fetch_tiles()
    samples: list[Sample] = []
    for tile, kinds in zip(chosen, asked, strict=True):
        image_path = folder / "images" / SURVEY / f"{SURVEY}_{tile}.tif"
        outlines = folder / "polygon_lists" / SURVEY / f"{SURVEY}_{tile}.json"
        width, height = image_wh(image_path)
        samples += window_samples(
            NAME,
            split,
            str(tile),
            partial(ImageWindow, str(image_path)),
            (0, 0, width, height),
            _building_masks(outlines, (height, width)),
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


def fetch_tiles() -> Path:
    """The folder of the tiles, fetched if it is not here.

    Raises:
        UserError: if it cannot be had.
    """
    return fetch_package_folder(PACKAGE, VERSION, FOLDER, ARCHIVE_SHA256, "sdist")


def _building_masks(path: Path, hw: tuple[int, int]) -> list[Mask]:
    """Rasterise a tile's outlines, each `{"polygon": [[x, y], …]}`, to masks of (height, width)."""
    with blaming(f"outlines {path}"):
        outlines: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["objects"]
        flat = [[float(v) for point in outline["polygon"] for v in point] for outline in outlines]
        return [polygons_to_mask([polygon], hw) for polygon in flat]
