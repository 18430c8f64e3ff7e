"""Objects on seams come out once, by what windows show; outlines, run-lengths and areas are exact."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.masks import Mask, decode_rle, encode_rle, mask_to_box, union
from envs.polygons import regions_to_mask
from envs.rasters.files import PIXELS, Raster
from envs.rasters.windows import Grid, Window
from prompter.errors import UserError
from prompter.types import Instance, PromptSet
from recipes.raster.features import ATTRIBUTES, Feature
from recipes.raster.outlines import CleanUp, Place, outline_of, projected
from recipes.raster.prompts import PromptedWindows, read_prompts
from recipes.raster.seams import FoundObject, WindowAnswer, joined
from recipes.raster.views import View, views_of
from recipes.raster.writers import geojson_writer, run_lengths
from tests.fixtures.made_rollouts import made_rollout

WH = (300, 260)
GRID = Grid(WH, 128, 32)


def raster(wh: tuple[int, int] = WH, crs: str = "EPSG:32631", transform: Any = None) -> Raster:
    """The header of a raster that is not there."""
    text = pyproj.CRS(crs).to_wkt() if crs else ""
    where = transform or ((0.5, 0.0, 400000.0, 0.0, -0.5, 5000000.0) if crs else PIXELS)
    return Raster("x.tif", "GTiff", wh, "uint8", (None,), ("gray",), ("",), False, crs=text, transform=where)


def answer(window: Window, masks: list[Mask], query: int = 0, *, read: bool = True) -> WindowAnswer:
    """What a window shows of masks of the whole raster."""
    x0, y0, x1, y1 = window.rect
    seen = [mask[y0:y1, x0:x1] for mask in masks]
    seen = [mask for mask in seen if mask.any()]
    instances = tuple(Instance(mask_to_box(mask)) for mask in seen)
    rollout = made_rollout(
        PromptSet(instances),
        target=None,
        image_wh=(x1 - x0, y1 - y0),
        prediction=encode_rle(union(seen, (y1 - y0, x1 - x0))),
        predicted_instances=tuple(map(encode_rle, seen)),
        predicted_ious=tuple(0.5 for _ in seen),
    )
    return WindowAnswer(window, query, tuple(views_of(rollout, window, query, WH, None)), read)


def painted(found: FoundObject) -> Mask:
    """An object's mask in the whole raster, from its outline."""
    rings = [
        [np.asarray(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)]
        for part in outline_of(found).geoms
    ]
    return regions_to_mask(rings, WH[::-1])


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Mask:
    mask = np.zeros(WH[::-1], np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def everything(masks: list[Mask]) -> list[FoundObject]:
    return list(joined((answer(window, masks) for window in GRID), WH))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_disjoint_shapes_of_any_size_come_out_once_and_exact(seed: int) -> None:
    generator = np.random.default_rng(seed)
    taken, masks = np.zeros(WH[::-1], np.bool_), []
    for _ in range(generator.integers(1, 9)):
        width, height = generator.integers(3, 200, 2)
        x, y = generator.integers(0, WH[0] - 3), generator.integers(0, WH[1] - 3)
        mask = rectangle(x, y, x + width, y + height)
        if generator.random() < 0.5 and min(width, height) > 12:  # a hole
            mask &= ~rectangle(x + 4, y + 4, min(x + width, WH[0]) - 4, min(y + height, WH[1]) - 4)
        grown = mask.copy()
        grown[:-1] |= mask[1:]
        grown[:, :-1] |= mask[:, 1:]
        if not (grown & taken).any():
            taken |= grown
            masks.append(mask)
    found = everything(masks)
    assert len(found) == len(masks)
    expected = sorted(masks, key=lambda mask: mask.tobytes())
    for mask, one in zip(expected, sorted(map(painted, found), key=lambda mask: mask.tobytes()), strict=True):
        assert (mask == one).all()
    for one in found:
        assert outline_of(one).is_valid
        lengths = run_lengths(one.views, WH[::-1])
        assert lengths == encode_rle(painted(one))


def test_a_river_through_all_windows_is_one_object() -> None:
    mask = rectangle(0, 10, 300, 14) | rectangle(290, 10, 294, 250) | rectangle(5, 246, 294, 250)
    [found] = everything([mask])
    assert (painted(found) == mask).all() and len({view.window for view in found.views}) > 5


def test_row_houses_that_touch_stay_two() -> None:
    left, right = rectangle(60, 40, 112, 80), rectangle(112, 40, 160, 80)  # within the overlap
    assert len(everything([left, right])) == 2


def test_a_whole_view_is_taken_before_parts_of_it_and_slivers_are_left_out() -> None:
    first, second = list(GRID)[:2]
    inside = (second.rect[0], first.rect[2])  # what both show
    mask = rectangle(inside[0] - 30, 50, inside[0] + 12, 70)  # the first shows all of it
    worse = mask.copy()
    worse[50:54] = False
    found = list(joined([answer(first, [mask]), answer(second, [worse])], WH))
    assert [view.window for view in found[0].views] == [first] and len(found) == 1 and len(found[0].seen) == 2
    sliver = rectangle(inside[1] - 2, 50, inside[1], 60)  # at the edge of the first; the second sees none
    assert not list(joined([answer(first, [sliver]), answer(second, [])], WH))
    assert len(list(joined([answer(first, [sliver]), answer(second, [], read=False)], WH))) == 1
    assert len(list(joined([answer(first, [sliver])], WH))) == 1  # nobody else has looked


def test_questions_are_joined_apart() -> None:
    mask = rectangle(10, 10, 250, 60)
    answers = [answer(window, [mask], query) for window in GRID for query in (0, 1)]
    found = list(joined(answers, WH))
    assert [one.main.query for one in found] == [0, 1]


def test_only_a_row_of_windows_is_held() -> None:
    mask = [rectangle(x, y, x + 8, y + 8) for x in range(4, 290, 24) for y in range(4, 250, 24)]
    early = 0
    answers = [answer(window, mask) for window in GRID]

    def counted() -> Any:
        nonlocal early
        for one in answers:
            if one.window.row == 2 and not early:
                early = len(seen)
            yield one

    seen: list[FoundObject] = []
    for one in joined(counted(), WH):
        seen.append(one)
    assert len(seen) == len(mask) and early > 25


def view(mask: Mask) -> FoundObject:
    """An object of a mask, as one window over the whole raster shows it."""
    found = answer(Window(0, 0, (0, 0, *WH)), [mask]).views
    return FoundObject(found, found)


def test_parts_that_touch_at_a_corner_and_holes_make_valid_geometry() -> None:
    mask = rectangle(10, 10, 20, 20) | rectangle(20, 20, 30, 30)
    mask |= rectangle(50, 50, 80, 80) & ~rectangle(55, 55, 60, 60) & ~rectangle(60, 60, 65, 65)
    outline = outline_of(view(mask))
    assert outline.is_valid and len(outline.geoms) == 3 and outline.area == mask.sum()
    assert sum(len(part.interiors) for part in outline.geoms) == 2


@pytest.mark.parametrize("angle", [0, 30, 45])
def test_cleaning_up_never_costs_more_than_is_allowed(angle: float) -> None:
    shape = shapely.Polygon([(0, 0), (60, 0), (60, 25), (25, 25), (25, 60), (0, 60)])  # an L
    turned = shapely.affinity.translate(shapely.affinity.rotate(shape, angle), 100, 100)
    rows, columns = np.mgrid[: WH[1], : WH[0]] + 0.5
    mask = shapely.contains_xy(turned, columns, rows)
    outline = outline_of(view(mask))
    corners = shapely.get_num_coordinates(outline)
    for clean_up in (CleanUp(1.5), CleanUp(1.5, right_angles=True), CleanUp(1.5, True, 0.97)):
        cleaned, iou = clean_up(outline, 1.0)
        assert iou >= clean_up.least_iou and cleaned.is_valid
        assert iou == pytest.approx(cleaned.intersection(outline).area / cleaned.union(outline).area)
        assert cleaned.intersection(turned).area / cleaned.union(turned).area > 0.9
        assert angle == 0 or clean_up.least_iou > 0.9 or shapely.get_num_coordinates(cleaned) < corners / 3
    assert CleanUp(40.0, False, 0.99)(outline, 1.0) == (outline, 1.0)  # too coarse: left as it was
    with pytest.raises(UserError, match="between 0 and 1"):
        CleanUp(least_iou=2)
    with pytest.raises(UserError, match="0 or more"):
        CleanUp(simplify=float("nan"))


def test_right_angles_are_right_on_the_ground_in_degrees_too() -> None:
    """Where a pixel is twice as wide as high on the ground, a turned square is none in pixels."""
    place = Place(raster(crs="EPSG:4326", transform=(2e-5, 0.0, 10.0, 0.0, -1e-5, 60.0)))
    angle = math.radians(30)
    square = np.array([[-30, -30], [30, -30], [30, 30], [-30, 30]]) @ np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    aspect = place.aspect(shapely.box(0, 0, 300, 260))
    assert aspect == pytest.approx(1e-5 / (2e-5 * 0.5), rel=1e-3)  # cos 60 degrees
    rows, columns = np.mgrid[: WH[1], : WH[0]] + 0.5
    truth = shapely.Polygon(square * (1, 1 / aspect) + (150, 130))
    mask = shapely.contains_xy(truth, columns, rows)
    cleaned, iou = CleanUp(1.5, right_angles=True)(outline_of(view(mask)), aspect)
    assert iou > 0.9
    points = shapely.get_coordinates(cleaned)[:-1] * (1, aspect)
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    cosines = (before * after).sum(1) / np.hypot(*before.T) / np.hypot(*after.T)
    assert len(points) == 4 and np.abs(cosines).max() < 0.02


@pytest.mark.parametrize(
    "crs, transform",
    [
        ("EPSG:3857", (10.0, 0.0, 1e6, 0.0, -10.0, 8e6)),
        ("EPSG:4326", (1e-4, 0.0, 10.0, 0.0, -1e-4, 60.0)),
        ("EPSG:2263", (1.0, 0.0, 980000.0, 0.0, -1.0, 200000.0)),  # US feet
        ("+proj=laea +lat_0=50 +lon_0=9 +ellps=bessel +units=m", (2.0, 0.5, 1e4, 0.5, -2.0, 1e4)),
    ],
)
def test_areas_are_geodesic_in_any_coordinates(crs: str, transform: Any) -> None:
    place = Place(raster(crs=crs, transform=transform))
    outline = outline_of(view(rectangle(20, 30, 120, 110) & ~rectangle(40, 40, 60, 70)))
    measured = place.measured(outline)
    assert measured is not None
    assert place.crs is not None and place.geodetic is not None
    geod = place.crs.get_geod()
    shape = projected(place.to_map(shapely.segmentize(outline, 1.0)), place.geodetic)
    sine, cosine = (function(math.radians(shape.centroid.y)) for function in (math.sin, math.cos))
    meridian = (
        geod.a * (1 - geod.es) / (1 - geod.es * sine**2) ** 1.5
    )  # radii of curvature, Snyder 1987, 4-18
    parallel = geod.a / math.sqrt(1 - geod.es * sine**2) * cosine  # and 4-20
    expected = shape.area * math.radians(1) ** 2 * meridian * parallel
    assert measured[0] == pytest.approx(expected, rel=1e-4)


def test_a_raster_without_a_place_has_pixels_and_no_area() -> None:
    place = Place(raster(crs=""))
    outline = outline_of(view(rectangle(20, 30, 120, 110)))
    assert place.measured(outline) is None and place.to_map(outline) is outline and place.to_wgs84 is None
    with pytest.raises(UserError, match="no coordinate system to come from"):
        Place(raster(crs=""), "EPSG:4326")
    with pytest.raises(UserError, match="--dst-crs rubbish"):
        Place(raster(), "rubbish")
    site = 'LOCAL_CS["site",UNIT["metre",1]]'
    local = Place(replace(raster(crs=""), crs=site, transform=(1.0, 0.0, 5.0, 0.0, -1.0, 5.0)))
    assert local.measured(outline) is None and local.to_wgs84 is None


def geojson(path: Path, *geometries: Any) -> Path:
    features = [{"type": "Feature", "properties": {}, "geometry": one} for one in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_prompts_come_from_shapes_and_points_of_any_coordinates(tmp_path: Path) -> None:
    place = Place(raster())
    to_degrees = pyproj.Transformer.from_crs("EPSG:32631", "EPSG:4326", always_xy=True)

    def degrees(x: float, y: float) -> Any:
        return to_degrees.transform(400000 + x * 0.5, 5000000 - y * 0.5)

    corners = [degrees(*corner) for corner in ((10, 20), (30, 20), (30, 50), (10, 50), (10, 20))]
    one, two = degrees(5, 6), degrees(7, 8)
    path = geojson(
        tmp_path / "p.geojson",
        {"type": "Polygon", "coordinates": [corners]},
        {"type": "Point", "coordinates": one},
        {"type": "MultiPoint", "coordinates": [one, two]},
    )
    box, point, points = read_prompts(path, place)
    assert box.box == pytest.approx((10, 20, 30, 50), abs=0.01) and not box.positive_points
    assert point.box is None and point.positive_points[0] == pytest.approx((5, 6), abs=0.01)
    assert len(points.positive_points) == 2
    for geometry, said in (
        (None, "feature 1 has no shape"),
        ({"type": "LineString", "coordinates": [one, one]}, "feature 1 makes no prompt"),
        ({"type": "Point", "coordinates": (0.0, 1e30)}, "cannot be taken to the raster's place"),
    ):
        with pytest.raises(UserError, match=said):
            read_prompts(geojson(tmp_path / "bad.geojson", geometry), place)
    (tmp_path / "x.gpkg").write_text("<OGRVRTDataSource></OGRVRTDataSource>")
    with pytest.raises(UserError, match="neither a GeoPackage nor GeoJSON"):
        read_prompts(tmp_path / "x.gpkg", place)
    with pytest.raises(UserError, match="cannot be opened"):
        read_prompts(tmp_path / "gone.gpkg", place)


def test_a_prompt_belongs_to_the_window_whose_centre_is_nearest() -> None:
    windows = list(GRID)
    first, second = windows[:2]
    x = (first.rect[2] + second.rect[0]) / 2
    left, right = Instance((x - 8, 40, x + 2, 50)), Instance((x - 2, 40, x + 8, 50))
    wide, outside = Instance((10, 40, 250, 50)), Instance((400, 40, 450, 50))
    placed = PromptedWindows([left, right, wide, outside], GRID)
    assert placed.outside == 1 and {first, second} <= placed.windows
    sample = type("Sample", (), {"image_id": first.name})
    [first_answer] = placed.answer([sample])  # type: ignore[list-item]
    boxes = [one.box for one in first_answer.reading.instances]  # type: ignore[union-attr]
    assert left.box in boxes and (10, 40, 128, 50) in boxes and len(boxes) == 2


def test_masks_of_views_are_kept_exactly() -> None:
    mask = rectangle(7, 9, 100, 77) & ~rectangle(20, 20, 30, 31)
    [one] = answer(next(iter(GRID)), [mask]).views
    assert isinstance(one, View) and one.box == (7, 9, 100, 77)
    assert (one.mask() == mask[9:77, 7:100]).all() and one.area == mask.sum()
    assert (decode_rle(run_lengths([one], WH[::-1])) == mask).all()


def test_what_crosses_the_antimeridian_is_cut_there(tmp_path: Path) -> None:
    """RFC 7946, section 3.1.9."""
    header = raster(crs="EPSG:3832", transform=(1000.0, 0.0, 3180000.0, 0.0, -1000.0, 100000.0))
    place, found = Place(header), view(rectangle(10, 30, 290, 60) & ~rectangle(100, 40, 200, 50))
    outline = place.to_map(outline_of(found))
    with geojson_writer(tmp_path / "x.geojson", header, place, ["it"]) as sink:
        sink([Feature(found, outline_of(found), outline, dict.fromkeys(ATTRIBUTES))])
    [feature] = json.loads((tmp_path / "x.geojson").read_text())["features"]
    shape = shapely.geometry.shape(feature["geometry"])
    west, east = sorted(shape.geoms, key=lambda part: part.centroid.x)
    assert west.bounds[0] == -180 and east.bounds[2] == 180 and shape.is_valid
    assert all(part.exterior.is_ccw for part in shape.geoms)
    geod = pyproj.Geod(ellps="WGS84")
    area = abs(geod.geometry_area_perimeter(shapely.orient_polygons(shape))[0])
    assert area == pytest.approx(place.measured(outline_of(found))[0], rel=1e-3)  # type: ignore[index]
