"""A found object as a feature of a map: outline and attributes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import shapely
from shapely.geometry import MultiPolygon

from recipes.raster.outlines import CleanUp, Place, outline_of
from recipes.raster.seams import FoundObject

ATTRIBUTES: dict[str, tuple[str, str]] = {
    "label": ("str", "the question"),
    "score": ("float", "the segmenter's own estimate of the outline, about 0 to 1; null if it gave none"),
    "area_m2": ("float", "geodesic area in square metres, of the outline as written; null without a place"),
    "perimeter_m": ("float", "geodesic perimeter in metres, holes included"),
    "area_px": ("int", "pixels of the mask"),
    "det_id": ("str", "WINDOW.QUESTION.OBJECT: the same whatever extent was asked for"),
    "query": ("str", "the question"),
    "prompt_type": ("str", "box, points or box+points"),
    "prompt": ("str", "JSON: what the segmenter was given, in pixels of the file"),
    "policy": ("str", "who answered"),
    "executor": ("str", "the segmenter"),
    "tile": ("str", "the window that shows most of it"),
    "seen": ("int", "windows in which it was seen"),
    "joined": ("int", "windows whose views make up its mask"),
    "outline_iou": ("float", "IoU of the outline as written with the mask: what cleaning up cost"),
    "run_id": ("str", "what was asked and how; equal for equal settings, whatever the extent"),
}
"""Attribute -> its kind (str, int or float), and what it says."""


@dataclass(frozen=True)
class Feature:
    """An object on the map.

    Args:
        found: the object.
        pixels: its outline in pixels of the file, exact.
        outline: its outline in the file's coordinates, cleaned.
        attributes: `ATTRIBUTES`, by name.
    """

    found: FoundObject
    pixels: MultiPolygon
    outline: MultiPolygon
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Keep:
    """Which objects are kept.

    Args:
        score: least score; objects without a score are kept.
        area_m2: least area.
        extent: a rectangle in pixels of the file, XYXY, that an object's pixels must meet; None is all.
    """

    score: float | None = None
    area_m2: float | None = None
    extent: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Describe:
    """Makes features.

    Args:
        place: where the raster lies.
        clean_up: what is done to outlines.
        keep: which objects are kept.
        queries: the questions.
        policy, executor, run_id: written into every feature.
    """

    place: Place
    clean_up: CleanUp
    keep: Keep
    queries: Sequence[str]
    policy: str
    executor: str
    run_id: str

    def __call__(self, objects: Iterable[FoundObject]) -> Iterator[Feature]:
        """The features of the objects that are kept, in order."""
        for found in objects:
            feature = self._feature(found)
            if feature is not None:
                yield feature

    def _feature(self, found: FoundObject) -> Feature | None:
        main, keep = found.main, self.keep
        if keep.score is not None and main.score is not None and main.score < keep.score:
            return None
        pixels = outline_of(found)
        if keep.extent is not None and not shapely.intersection(pixels, shapely.box(*keep.extent)).area:
            return None
        cleaned, iou = self.clean_up(pixels, self.place.aspect(pixels))
        measured = self.place.measured(cleaned)
        if keep.area_m2 is not None and measured is not None and measured[0] < keep.area_m2:
            return None
        area, perimeter = measured or (None, None)
        prompt = main.prompt
        kinds = [] if prompt is None or prompt.box is None else ["box"]
        if prompt is not None and (prompt.positive_points or prompt.negative_points):
            kinds.append("points")
        query = self.queries[main.query]
        values = {
            "label": query,
            "score": None if main.score is None else round(main.score, 6),
            "area_m2": area,
            "perimeter_m": perimeter,
            "area_px": round(pixels.area),
            "det_id": found.views[0].name,
            "query": query,
            "prompt_type": "+".join(kinds) or None,
            "prompt": None if prompt is None else json.dumps(prompt.to_json()),
            "policy": self.policy,
            "executor": self.executor,
            "tile": main.window.name,
            "seen": len({view.window for view in found.seen}),
            "joined": len({view.window for view in found.views}),
            "outline_iou": round(iou, 6),
            "run_id": self.run_id,
        }
        return Feature(found, pixels, self.place.to_map(cleaned), values)
