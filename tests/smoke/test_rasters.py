"""`prompter segment` on a real scene of twelve tiles: each object once, whatever the extent, in its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from pycocotools.coco import COCO
from pyogrio.raw import read

from recipes.cli import main
from tests.fixtures.runs import contents
from tests.fixtures.tile_scene import scene

pytestmark = pytest.mark.smoke

ORACLE = ["--policy", "tests.fixtures.tile_scene:oracle", "--executor", "own-masks"]
WINDOWS = ["--tile-size", "400", "--overlap", "64"]


def objects(out: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """det_id -> shape in map coordinates, and attributes, of a GeoPackage."""
    meta, _, shapes, columns = read(str(out / "objects.gpkg"))
    rows = [dict(zip(meta["fields"], row, strict=True)) for row in zip(*columns, strict=True)]
    return {row["det_id"]: (shape, row) for shape, row in zip(shapely.from_wkb(shapes), rows, strict=True)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scene.tif."""
    folder = tmp_path_factory.mktemp("rasters")
    scene().write(folder / "scene.tif", photometric="RGB")
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The scene, asked about in windows by an oracle that sees each window alone."""
    assert (
        main(
            ["segment", str(place / "scene.tif"), "buildings", "-o", str(place / "whole"), *ORACLE, *WINDOWS]
        )
        == 0
    )
    return place / "whole"


def test_every_building_on_a_seam_comes_out_once_and_whole(whole: Path) -> None:
    truth = scene()
    assert truth.wh == (1714, 2285) and truth.pairs == 97
    assert sum(building.pieces > 1 for building in truth.buildings) >= 40  # some go over two edges, or more
    index = COCO()
    index.dataset = json.loads((whole / "coco.json").read_text())
    index.createIndex()
    expected = {building.box: building for building in truth.buildings}
    assert len(expected) == len(truth.buildings) == len(index.anns)
    for one in index.anns.values():
        left, top, width, height = one["bbox"]
        building = expected.pop((left, top, left + width, top + height))
        mask = index.annToMask(one).astype(bool)
        assert (mask[top : top + height, left : left + width] == building.mask).all()
        assert one["area"] == mask.sum() == building.mask.sum()
    assert not expected
    summary = json.loads((whole / "raster.json").read_text())
    assert summary["on_seams"] > 150 and summary["objects"] == {"buildings": len(truth.buildings)}
    assert max(row["joined"] for _, row in objects(whole).values()) > 1


def test_outlines_lie_on_the_corners_of_their_pixels(whole: Path) -> None:
    truth, transform = scene(), scene().profile["transform"]
    found, apart = objects(whole), []
    by_box = {building.box: building for building in truth.buildings}
    for shape, row in found.values():
        pixels = shapely.transform(shape, lambda points: np.column_stack(~transform * points.T))
        corners = shapely.get_coordinates(pixels)
        assert np.abs(corners - corners.round()).max() < 1e-4
        assert pixels.is_valid and round(pixels.area) == row["area_px"]
        building = by_box[tuple(round(value) for value in pixels.bounds)]
        apart.append(
            shapely.get_coordinates(pixels.centroid)[0]
            - shapely.get_coordinates(building.published.centroid)[0]
        )
    # Against the outlines as they were published, which are no pixels: no shift, and half a pixel each.
    assert np.abs(np.mean(apart, axis=0)).max() < 0.1
    assert np.percentile(np.abs(apart), 95) < 0.5


def test_areas_are_those_on_the_ellipsoid(whole: Path) -> None:
    projection = pyproj.Proj("EPSG:31982")
    for shape, row in objects(whole).values():
        longitude, latitude = projection(shape.centroid.x, shape.centroid.y, inverse=True)
        scale = projection.get_factors(longitude, latitude).areal_scale
        assert row["area_m2"] == pytest.approx(row["area_px"] * 0.35**2 / scale, rel=2e-6)
        assert row["area_m2"] != pytest.approx(row["area_px"] * 0.35**2, rel=5e-4)  # what the plane would say


@pytest.mark.parametrize("part", [(500, 700, 900, 1000), (0, 0, 399, 401)])
def test_the_extent_changes_no_outline(
    whole: Path, place: Path, part: tuple[int, int, int, int], tmp_path: Path
) -> None:
    transform = scene().profile["transform"]
    (x0, y1), (x1, y0) = transform * part[:2], transform * part[2:]
    out = tmp_path / "part"
    extent = ["--bbox", *map(str, (x0, y0, x1, y1))]
    assert (
        main(["segment", str(place / "scene.tif"), "buildings", "-o", str(out), *ORACLE, *WINDOWS, *extent])
        == 0
    )
    everything, found = objects(whole), objects(out)
    inside = shapely.box(x0, y0, x1, y1)
    expected = {name for name, (shape, _) in everything.items() if shape.intersection(inside).area > 1e-6}
    assert set(found) == expected and 10 < len(expected) < len(everything)
    for name, (shape, row) in found.items():
        assert shape.equals_exact(everything[name][0], 0) and row == everything[name][1]


def test_all_files_hold_the_same_objects(whole: Path) -> None:
    found = objects(whole)
    collection = json.loads((whole / "objects.geojson").read_text())
    assert [feature["id"] for feature in collection["features"]] == list(found)
    to_degrees = pyproj.Transformer.from_crs("EPSG:31982", "OGC:CRS84", always_xy=True)
    for feature in collection["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        expected = shapely.transform(
            found[feature["id"]][0], lambda points: np.column_stack(to_degrees.transform(*points.T))
        )
        assert shape.hausdorff_distance(expected) < 1e-7
        rings = [shape] if shape.geom_type == "Polygon" else shape.geoms
        assert all(ring.exterior.is_ccw for ring in rings)
    with rasterio.open(whole / "mask.tif") as file:
        values = file.read(1)
        assert file.crs == scene().profile["crs"] and file.transform == scene().profile["transform"]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.overviews(1)
    sizes = np.bincount(values.reshape(-1), minlength=len(found) + 1)[1:]
    truth = np.array([row["area_px"] for _, row in found.values()])
    assert (sizes <= truth).all() and (sizes == truth).mean() > 0.9  # a few buildings overlap


def test_a_killed_run_comes_out_byte_for_byte(whole: Path, place: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for name in ("completions.jsonl", "rollouts/own-masks.jsonl"):
        file = cut / "windows-1" / name
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
    for name in ("objects.gpkg", "coco.json", "mask.tif", "objects.geojson"):
        (cut / name).unlink()
    (cut / ".mask.tif.left").mkdir()
    (cut / ".mask.tif.left" / "mask.drawing.tif").write_bytes(b"half")
    assert main(["segment", str(place / "scene.tif"), "buildings", "-o", str(cut), *ORACLE, *WINDOWS]) == 0
    before, after = contents(whole), contents(cut)
    before.pop("raster.json"), after.pop("raster.json")  # names its folder
    assert after == before
