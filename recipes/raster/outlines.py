"""Outlines of objects: along the edges of pixels, then made simpler or right-angled, never at any price.

Geometry here is in pixels of the file, x right, y down, corners of pixels at whole numbers; `Place` takes it
to the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from envs.polygons import mask_to_regions
from envs.rasters.files import PIXELS, Affine, Raster
from prompter.errors import UserError
from recipes.raster.seams import FoundObject
from recipes.raster.views import View

GEODESIC_STEP = 64.0
"""Longest piece of an edge, in pixels, that is measured as one geodesic."""


def outline_of(found: FoundObject) -> MultiPolygon:
    """The outline of an object's pixels, exact: every corner of it is a corner of a pixel.

    Parts hang together by edges of pixels; those that touch at a corner are parts of their own, so that the
    geometry is valid.
    """
    parts = [_of_view(view) for view in found.views]
    if len(parts) == 1:
        return parts[0]
    joined = shapely.union_all(parts)  # exact, since all edges are on one grid of whole numbers
    return _as_multi([_without_needless(one) for one in _polygons(joined)])


def _of_view(view: View) -> MultiPolygon:
    shift = np.array(view.box[:2])
    return _as_multi(
        [
            Polygon(rings[0] + shift, [hole + shift for hole in rings[1:]])
            for rings in mask_to_regions(view.mask())
        ]
    )


def _without_needless(polygon: Polygon) -> Polygon:
    """A polygon of axis-parallel edges, without points in the middle of an edge."""

    def corners(ring: Any) -> Any:
        points = np.asarray(ring.coords)[:-1]
        turns = (points - np.roll(points, 1, axis=0)) * (np.roll(points, -1, axis=0) - points)
        return points[~turns.any(axis=1)]  # at a corner, one step is along x and the other along y

    return Polygon(corners(polygon.exterior), [corners(ring) for ring in polygon.interiors])


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    parts = getattr(geometry, "geoms", [geometry])
    return [part for part in parts if isinstance(part, Polygon) and not part.is_empty]


def _as_multi(polygons: Sequence[Polygon]) -> MultiPolygon:
    return MultiPolygon(list(polygons))


@dataclass(frozen=True)
class CleanUp:
    """What is done to outlines.

    Args:
        simplify: largest distance, in pixels, that a simpler outline may have from the pixels'; 0 leaves it.
        right_angles: turn edges to right angles (and half of them), as buildings have.
        least_iou: an outline whose IoU with the pixels is below this is not taken; the next plainer one is.
    """

    simplify: float = 0.0
    right_angles: bool = False
    least_iou: float = 0.9

    def __post_init__(self) -> None:
        if not self.simplify >= 0:
            raise UserError(f"--simplify must be a number of pixels, 0 or more, but is {self.simplify:g}.")
        if not 0 <= self.least_iou <= 1:
            raise UserError(f"--outline-iou must be between 0 and 1, but is {self.least_iou:g}.")

    def __call__(self, outline: MultiPolygon, aspect: float) -> tuple[MultiPolygon, float]:
        """The cleaned outline, and its IoU with the pixels' outline (areas of the plane of pixels).

        Args:
            outline: of pixels.
            aspect: height of a pixel on the ground as a share of its width, for right angles.
        """
        ways = []
        if self.right_angles:
            ways.append(lambda: _right_angled(outline, aspect, self.simplify or 1.0))
        if self.simplify:
            ways.append(lambda: _simpler(outline, self.simplify))
        for way in ways:
            cleaned = way()
            if cleaned.is_empty or not cleaned.is_valid:
                continue
            iou = _area_iou(cleaned, outline)
            if iou >= self.least_iou:
                return cleaned, iou
        return outline, 1.0


def _simpler(outline: MultiPolygon, tolerance: float) -> MultiPolygon:
    return _as_multi(_polygons(shapely.simplify(outline, tolerance, preserve_topology=True)))


def _right_angled(outline: MultiPolygon, aspect: float, tolerance: float) -> MultiPolygon:
    """Edges turned by `buildingregulariser`, in a frame in which a pixel is as high as on the ground."""
    import geopandas
    from buildingregulariser import regularize_geodataframe

    def stretched(geometry: BaseGeometry, factor: float) -> BaseGeometry:
        return shapely.transform(geometry, lambda points: points * (1.0, factor))

    frame = geopandas.GeoDataFrame(geometry=_polygons(stretched(outline, aspect)))
    done = regularize_geodataframe(
        frame,
        parallel_threshold=2 * tolerance,
        simplify_tolerance=tolerance,
        allow_circles=False,
        num_cores=1,  # its default forks a pool over all cores
        include_metadata=True,  # leaving columns out calls pandas in a way that it will refuse one day
    )
    return _as_multi(_polygons(stretched(shapely.union_all(list(done.geometry)), 1 / aspect)))


def _area_iou(one: MultiPolygon, other: MultiPolygon) -> float:
    common = shapely.intersection(one, other).area
    return float(common / (one.area + other.area - common))


class Place:
    """Where a raster lies: takes outlines in pixels to the map, and measures them on the ground.

    Args:
        raster: the file.
        out: the coordinate system of what is written, as pyproj takes it ("EPSG:4326"); None is the file's.

    Raises:
        UserError: if `out` is no coordinate system, or the file has none that could lead there.
    """

    def __init__(self, raster: Raster, out: str | None = None) -> None:
        self.transform: Affine = raster.transform
        self.has_place = raster.transform != PIXELS
        self.crs = CRS.from_wkt(raster.crs) if raster.crs else None
        self.out = self.crs
        self._to_out: Transformer | None = None
        if out is not None:
            if self.crs is None:
                raise UserError(
                    f"--dst-crs {out}: {raster.path} has no coordinate system to come from; leave it out."
                )
            try:
                self.out = CRS.from_user_input(out)
                self._to_out = Transformer.from_crs(self.crs, self.out, always_xy=True)
            except (CRSError, ProjError) as error:
                raise UserError(f"--dst-crs {out}: {_first_line(error)}.") from None

    @cached_property
    def geodetic(self) -> Transformer | None:
        """From the file's system to longitude and latitude on its own ellipsoid; None where it has none."""
        base = None if self.crs is None else self.crs.geodetic_crs
        return None if base is None else Transformer.from_crs(self.crs, base, always_xy=True)

    @cached_property
    def to_wgs84(self) -> Transformer | None:
        """From the file's system to longitude and latitude of WGS 84; None where that is unknown."""
        if self.crs is None or self.geodetic is None:
            return None
        return Transformer.from_crs(self.crs, "OGC:CRS84", always_xy=True)

    def to_map(self, outline: BaseGeometry) -> BaseGeometry:
        """From pixels to the file's own coordinates."""
        a, b, c, d, e, f = self.transform
        if not self.has_place:
            return outline

        def moved(points: Any) -> Any:
            x, y = points[:, 0], points[:, 1]
            return np.column_stack([a * x + b * y + c, d * x + e * y + f])

        return shapely.transform(outline, moved)

    def to_pixels(self, geometry: BaseGeometry) -> BaseGeometry:
        """Inverse of `to_map`."""
        a, b, c, d, e, f = self.transform
        size = a * e - b * d

        def moved(points: Any) -> Any:
            x, y = points[:, 0] - c, points[:, 1] - f
            return np.column_stack([(e * x - b * y) / size, (a * y - d * x) / size])

        return shapely.transform(geometry, moved)

    def to_output(self, geometry: BaseGeometry) -> BaseGeometry:
        """From the file's coordinates to those of what is written."""
        return geometry if self._to_out is None else projected(geometry, self._to_out)

    def measured(self, outline: BaseGeometry) -> tuple[float, float] | None:
        """Area in square metres and perimeter in metres of an outline in pixels, on the file's ellipsoid.

        Geodesic (Karney 2013, by GeographicLib in PROJ), so the scale of a projection does not count. None
        where the file has no coordinate system of the Earth.
        """
        if self.geodetic is None or self.crs is None:
            return None
        geod = self.crs.get_geod()
        if geod is None:
            return None
        fine = self.to_map(shapely.segmentize(outline, GEODESIC_STEP))
        area, perimeter = geod.geometry_area_perimeter(
            shapely.orient_polygons(projected(fine, self.geodetic))
        )
        return abs(float(area)), float(perimeter)

    def aspect(self, outline: BaseGeometry) -> float:
        """Height of a pixel on the ground, there, as a share of its width."""
        if self.crs is None:
            return 1.0
        a, b, _, d, e, _ = self.transform
        x, y = 1.0, 1.0
        if self.crs.is_geographic:
            centre = self.to_map(outline.centroid)
            x = float(np.cos(np.radians(centre.y)))
        return float(np.hypot(b * x, e * y) / np.hypot(a * x, d * y))


def projected(geometry: BaseGeometry, transformer: Transformer) -> BaseGeometry:
    """Take a geometry's points through a transformer; x and y are as `always_xy` has them."""

    def moved(points: Any) -> Any:
        x, y = (points[0].tolist()) if len(points) == 1 else (points[:, 0], points[:, 1])
        return np.column_stack(transformer.transform(x, y))  # pyproj wants a single point as plain numbers

    return shapely.transform(geometry, moved)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
