"""Boxes and points that a user has already, from a vector file, in the place of a policy's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from envs.rasters.windows import Grid, Rect, Window, contains
from envs.sample import Sample
from prompter.errors import UserError
from prompter.runs.jsonl import to_line
from prompter.types import Answer, Instance, PromptSet
from recipes.raster.outlines import Place, projected

_FORMATS = ((b"SQLite format 3\0", "a GeoPackage"), (b"{", "GeoJSON"), (b"\xef\xbb\xbf{", "GeoJSON"))


def read_prompts(path: Path, place: Place) -> list[Instance]:
    """Read prompts, one for each feature, in its order; pixels of the raster.

    Args:
        path: a GeoPackage or a GeoJSON file. Of polygons and lines the box is taken, tight in the raster's
            rows and columns; a point is a positive point; several points in one feature are of one object.
        place: the raster's. Coordinates are taken to its system; where it has no place, they are pixels.

    Raises:
        UserError: if the file is of another format, cannot be read, or holds an empty or flat shape.
    """
    shapes, crs = _read(path)
    transformer = None
    if crs is not None and place.crs is not None:
        try:
            transformer = Transformer.from_crs(CRS.from_user_input(crs), place.crs, always_xy=True)
        except (CRSError, ProjError) as error:
            raise UserError(f"prompts {path}: its coordinate system is not understood ({error}).") from None
    prompts = []
    for number, shape in enumerate(shapes, start=1):
        if shape is None or shape.is_empty:
            raise UserError(f"prompts {path}: feature {number} has no shape.")
        there = shape if transformer is None else projected(shape, transformer)
        if not all(abs(value) < 1e12 for value in there.bounds):  # not so of NaN and infinities
            raise UserError(f"prompts {path}: feature {number} cannot be taken to the raster's place.")
        inside = place.to_pixels(there)
        points = getattr(inside, "geoms", [inside])
        try:
            if all(part.geom_type == "Point" for part in points):
                prompts.append(Instance(positive_points=tuple((part.x, part.y) for part in points)))
            else:
                prompts.append(Instance(box=inside.bounds))
        except ValueError as error:
            raise UserError(f"prompts {path}: feature {number} makes no prompt: {error}.") from None
    return prompts


def _read(path: Path) -> tuple[Sequence[Any], str | None]:
    try:
        with open(path, "rb") as handle:
            start = handle.read(64)
    except OSError as error:
        raise UserError(f"prompts {path}: it cannot be opened ({error.strerror}).") from None
    if not any(start.lstrip().startswith(magic) for magic, _ in _FORMATS):
        raise UserError(f"prompts {path}: it is neither a GeoPackage nor GeoJSON; convert it (ogr2ogr).")
    from pyogrio.errors import DataLayerError, DataSourceError
    from pyogrio.raw import read

    try:
        meta, _, geometry, _ = read(str(path.absolute()), columns=[])
    except (DataSourceError, DataLayerError) as error:
        raise UserError(f"prompts {path}: it cannot be read ({' '.join(str(error).split())}).") from None
    return ([] if geometry is None else list(shapely.from_wkb(geometry))), meta["crs"]


@dataclass(frozen=True)
class _Placed:
    window: Window
    prompt: Instance


class PromptedWindows:
    """An `eval.answerers.base.Answerer` that gives every window the prompts that are its own.

    A prompt belongs to the window that shows all of it and whose centre is nearest to the prompt's; one that
    fits into no window belongs to all that show a part of it, its box cut to what they show.

    Args:
        prompts: in pixels of the file.
        grid: the windows.
    """

    def __init__(self, prompts: Sequence[Instance], grid: Grid) -> None:
        self._by_window: dict[str, list[Instance]] = {}
        self.outside = 0
        windows: set[Window] = set()
        for prompt in prompts:
            placed = _placed(prompt, grid)
            self.outside += not placed
            for one in placed:
                windows.add(one.window)
                shifted = one.prompt.moved(-one.window.rect[0], -one.window.rect[1])
                self._by_window.setdefault(one.window.name, []).append(shifted)
        self.windows = frozenset(windows)

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """The prompts of each window, whatever the question."""
        answers = []
        for sample in samples:
            prompts = PromptSet(tuple(self._by_window.get(sample.image_id, ())))
            answers.append(Answer(to_line({"prompts": prompts.to_json()}).rstrip(), prompts))
        return answers

    def close(self) -> None:
        """Nothing is held."""


def _placed(prompt: Instance, grid: Grid) -> list[_Placed]:
    points = prompt.positive_points
    box = prompt.box or (
        min(x for x, _ in points), min(y for _, y in points),
        max(x for x, _ in points), max(y for _, y in points),
    )  # fmt: skip
    width, height = grid.wh
    if box[2] < 0 or box[3] < 0 or box[0] >= width or box[1] >= height:
        return []
    pixels: Rect = (
        max(0, int(box[0] // 1)), max(0, int(box[1] // 1)),
        min(width, int(-(-box[2] // 1))), min(height, int(-(-box[3] // 1))),
    )  # fmt: skip
    pixels = (*pixels[:2], max(pixels[2], pixels[0] + 1), max(pixels[3], pixels[1] + 1))
    windows = list(grid.meeting(pixels))
    whole = [window for window in windows if contains(window.rect, pixels)]
    if whole:
        return [_Placed(min(whole, key=lambda window: _apart(window.rect, pixels)), prompt)]
    return [_Placed(window, part) for window in windows if (part := _cut(prompt, window.rect)) is not None]


def _apart(rect: Rect, box: Rect) -> int:
    return max(abs(rect[0] + rect[2] - box[0] - box[2]), abs(rect[1] + rect[3] - box[1] - box[3]))


def _cut(prompt: Instance, rect: Rect) -> Instance | None:
    """The part of a prompt that a rectangle shows, or None."""
    x0, y0, x1, y1 = rect
    points = tuple((x, y) for x, y in prompt.positive_points if x0 <= x < x1 and y0 <= y < y1)
    box = None
    if prompt.box is not None:
        left, top = max(prompt.box[0], x0), max(prompt.box[1], y0)
        right, bottom = min(prompt.box[2], x1), min(prompt.box[3], y1)
        box = (left, top, right, bottom) if right > left and bottom > top else None
    return None if box is None and not points else Instance(box, points)
