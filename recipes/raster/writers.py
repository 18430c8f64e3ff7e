"""Features as files: GeoPackage, GeoJSON, COCO and a mask, each written as features come, whole or absent.

The same features give the same bytes.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pycocotools import mask as coco
from shapely.geometry import MultiPolygon, mapping
from shapely.geometry.base import BaseGeometry

from envs.rasters.files import Raster, import_rasterio
from prompter.runs.disk import full_disk_told
from prompter.runs.files import atomic_write
from recipes.raster.features import ATTRIBUTES, Feature
from recipes.raster.outlines import Place, projected
from recipes.raster.views import View

Sink = Callable[[Sequence[Feature]], None]
"""Takes the next features."""

Opener = Callable[[Path, Raster, Place, Sequence[str]], AbstractContextManager[Sink]]

DECIMALS = 8
"""Of degrees in GeoJSON: about a millimetre."""

_DATE = "2000-01-01T00:00:00.000Z"
"""What a GeoPackage says of when it was written, so that equal contents are equal files."""

_MOST_COCO_PIXELS = 2**32 - 1


@contextmanager
def gpkg_writer(path: Path, raster: Raster, place: Place, queries: Sequence[str]) -> Iterator[Sink]:
    """A GeoPackage: one layer `objects` of multipolygons, in the place's output coordinates."""
    import pyogrio
    from pyogrio.raw import write

    with _moved_in(path) as temporary:
        before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _DATE})

        def sink(features: Sequence[Feature]) -> None:
            outlines = [place.to_output(feature.outline) for feature in features]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*crs.*was not provided.*")
                write(
                    str(temporary),
                    geometry=np.array(shapely.to_wkb([_multi(one) for one in outlines]), object),
                    field_data=[_column(features, name, kind) for name, (kind, _) in ATTRIBUTES.items()],
                    fields=np.array(list(ATTRIBUTES), object),
                    layer="objects",
                    driver="GPKG",
                    geometry_type="MultiPolygon",
                    crs=None if place.out is None else place.out.to_wkt(),
                    append=temporary.exists(),
                )

        try:
            sink([])
            yield lambda features: sink(features) if features else None
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _multi(geometry: BaseGeometry) -> MultiPolygon:
    return geometry if isinstance(geometry, MultiPolygon) else MultiPolygon([geometry])


def _column(features: Sequence[Feature], name: str, kind: str) -> Any:
    values = [feature.attributes[name] for feature in features]
    if kind == "float":
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(values, np.int64 if kind == "int" else object)


@contextmanager
def geojson_writer(path: Path, raster: Raster, place: Place, queries: Sequence[str]) -> Iterator[Sink]:
    """GeoJSON by RFC 7946: longitude and latitude of WGS 84, outlines counter-clockwise, cut at 180 degrees.

    Of a raster whose place on Earth is not known, coordinates are its own, and the member `prompter` says so.
    """
    head: dict[str, Any] = {"type": "FeatureCollection"}
    if place.to_wgs84 is None:
        frame = "the raster's own coordinates" if place.has_place else "pixels of the image, x right, y down"
        head["prompter"] = {"frame": frame, "image_wh": list(raster.wh)}
    with atomic_write(path) as handle:
        handle.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [')
        count = 0

        def sink(features: Sequence[Feature]) -> None:
            nonlocal count
            for feature in features:
                geometry = feature.outline
                if place.to_wgs84 is not None:
                    geometry = shapely.transform(
                        _cut_at_180(projected(geometry, place.to_wgs84)),
                        lambda points: points.round(DECIMALS),
                    )
                geometry = shapely.orient_polygons(geometry)
                one = {
                    "type": "Feature",
                    "id": feature.attributes["det_id"],
                    "bbox": list(geometry.bounds),
                    "geometry": mapping(geometry.geoms[0] if len(geometry.geoms) == 1 else geometry),
                    "properties": feature.attributes,
                }
                text = json.dumps(one, ensure_ascii=False, allow_nan=False)
                handle.write((",\n" if count else "\n") + text)
                count += 1

        yield sink
        handle.write("\n]}\n")


def _cut_at_180(geometry: MultiPolygon) -> MultiPolygon:
    """Cut what crosses the antimeridian in two, as section 3.1.9 of RFC 7946 asks."""
    if geometry.bounds[2] - geometry.bounds[0] <= 180:
        return geometry
    round_earth = np.array([360.0, 0.0])

    def eastward(points: Any) -> Any:
        return np.where(points[:, :1] < 0, points + round_earth, points)

    whole = shapely.transform(geometry, eastward)
    sides = [shapely.intersection(whole, shapely.box(left, -90, left + 180, 90)) for left in (0, 180)]
    sides[1] = shapely.transform(sides[1], lambda points: points - round_earth)
    parts = [part for side in sides for part in getattr(side, "geoms", [side]) if part.area]
    return MultiPolygon(parts)


@contextmanager
def coco_writer(path: Path, raster: Raster, place: Place, queries: Sequence[str]) -> Iterator[Sink]:
    """A COCO dataset of one image, the raster: masks exact, as run-lengths of the whole file's size."""
    width, height = raster.wh
    image = {"id": 1, "file_name": Path(raster.path).name, "width": width, "height": height}
    categories = [
        {"id": number, "name": query, "supercategory": "query"}
        for number, query in enumerate(queries, start=1)
    ]
    with atomic_write(path) as handle:
        handle.write('{"images": ' + json.dumps([image], ensure_ascii=False))
        handle.write(',\n"categories": ' + json.dumps(categories, ensure_ascii=False))
        handle.write(',\n"annotations": [')
        count = 0

        def sink(features: Sequence[Feature]) -> None:
            nonlocal count
            for feature in features:
                left, top, right, bottom = feature.found.box
                one = {
                    "id": count + 1,
                    "image_id": 1,
                    "category_id": feature.found.main.query + 1,
                    "segmentation": run_lengths(feature.found.views, (height, width)),
                    "area": feature.attributes["area_px"],
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                    "score": feature.attributes["score"],
                    "det_id": feature.attributes["det_id"],
                }
                handle.write((",\n" if count else "\n") + json.dumps(one))
                count += 1

        yield sink
        handle.write("\n]}\n")


def run_lengths(views: Sequence[View], hw: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run-lengths of the union of views in an image of (height, width).

    Made from the runs of each view, so that the image is never in memory.
    """
    height, width = hw
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    for view in views:
        x, y = view.box[:2]
        columns = np.pad(view.mask().T.astype(np.int8), ((0, 0), (1, 1)))  # runs go down the columns
        change = np.diff(columns, axis=1)
        for found, which in ((starts, 1), (ends, -1)):
            column, row = np.nonzero(change == which)
            found.append((column + x).astype(np.int64) * height + row + y)
    start, end = np.concatenate(starts), np.concatenate(ends)
    order = np.argsort(start, kind="stable")
    start, reached = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate([[True], start[1:] > reached[:-1]])  # a run that no earlier one reaches
    start, end = start[first], reached[np.append(np.flatnonzero(first)[1:] - 1, len(reached) - 1)]
    borders = np.column_stack([start, end]).reshape(-1)
    counts = np.diff(borders, prepend=0, append=height * width).tolist()
    if not counts[-1]:
        counts.pop()  # the last pixel is of the object: nothing comes after it
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


@contextmanager
def mask_writer(path: Path, raster: Raster, place: Place, queries: Sequence[str]) -> Iterator[Sink]:
    """A cloud-optimised GeoTIFF on the raster's own grid: 0, or the number of the feature (uint32).

    Features count from 1 in the order of the other files (a GeoPackage's `fid`). Where objects overlap, the
    later one is seen.
    """
    rasterio = import_rasterio()
    from rasterio.shutil import copy

    profile = {
        "driver": "GTiff", "width": raster.wh[0], "height": raster.wh[1], "count": 1, "dtype": "uint32",
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "sparse_ok": True,
        "bigtiff": "if_safer", "nodata": 0, "crs": raster.crs or None,
        "transform": rasterio.Affine(*raster.transform) if place.has_place else None,
    }  # fmt: skip
    with _moved_in(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        drawing = temporary.with_suffix(".drawing.tif")
        with rasterio.Env(GDAL_NUM_THREADS="1", GDAL_CACHEMAX=256, GDAL_PAM_ENABLED="NO"):
            with rasterio.open(
                drawing, "w+", **{k: v for k, v in profile.items() if v is not None}
            ) as dataset:
                count = 0

                def sink(features: Sequence[Feature]) -> None:
                    nonlocal count
                    for feature in features:
                        count += 1
                        for view in feature.found.views:
                            x0, y0, x1, y1 = view.box
                            window = rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0)
                            values = dataset.read(1, window=window)
                            values[view.mask()] = count
                            dataset.write(values, 1, window=window)

                yield sink
            copy(
                drawing,
                temporary,
                driver="COG",
                compress="DEFLATE",
                overview_resampling="NEAREST",
                bigtiff="IF_SAFER",
            )


@contextmanager
def _moved_in(path: Path) -> Iterator[Path]:
    """A path in a folder of its own, for a library to write; moved to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_told(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as name:
        temporary = Path(name) / path.name
        yield temporary
        temporary.replace(path)


WRITERS: dict[str, tuple[str, Opener]] = {
    "gpkg": ("objects.gpkg", gpkg_writer),
    "geojson": ("objects.geojson", geojson_writer),
    "coco": ("coco.json", coco_writer),
    "mask": ("mask.tif", mask_writer),
}
"""What can be written -> file name and writer."""


def fits_coco(raster: Raster) -> bool:
    """Whether COCO's run-lengths, which are counted in 32 bits, can hold the raster's pixels."""
    return raster.wh[0] * raster.wh[1] <= _MOST_COCO_PIXELS
