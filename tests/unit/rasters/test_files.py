"""Raster files are opened without trusting them, seen by one stretch, and refused in one sentence."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from envs.rasters.bands import chosen_bands
from envs.rasters.files import PIXELS, open_raster
from envs.rasters.view import view_of
from envs.rasters.windows import Grid, Window
from prompter.errors import UserError
from tests.fixtures.training import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

UTM = rasterio.Affine(0.5, 0, 400000, 0, -0.5, 5000000)


def raster(path: Path, values: Any, **more: Any) -> Path:
    """Write values [bands, height, width] as a GeoTIFF."""
    values = np.asarray(values)
    profile = {"crs": "EPSG:32631", "transform": UTM, **more}
    profile = {key: value for key, value in profile.items() if value is not None}
    bands, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype=values.dtype, **profile
    ) as file:
        file.write(values)
    return path


def whole(path: Path) -> Window:
    return next(iter(Grid(open_raster(path).wh)))


def picture(path: Path, bands: str | None = None, stretch: str | None = None) -> Any:
    found = open_raster(path)
    view = pickle.loads(pickle.dumps(view_of(found, chosen_bands(found, bands), stretch)))
    return np.asarray(view.picture(whole(path)))


def ramp(dtype: str, bands: int = 1, low: float = 0, high: float = 1000) -> Any:
    """Values from low to high, [bands, 64, 64]."""
    one = np.linspace(low, high, 64 * 64).reshape(64, 64)
    return np.stack([one] * bands).astype(dtype)


def test_a_virtual_raster_names_other_files_and_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    raster(tmp_path / "secret.tif", ramp("uint8", high=255))
    text = f"""<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1">
        <SimpleSource><SourceFilename>{tmp_path / "secret.tif"}</SourceFilename></SimpleSource>
        </VRTRasterBand></VRTDataset>"""
    for name in ("x.tif", "x.vrt"):
        (tmp_path / name).write_text(text)
        assert rasterio.open(tmp_path / name).count == 1  # GDAL would read it
        with pytest.raises(UserError, match=r"names other files .*which are not opened"):
            open_raster(tmp_path / name)
    with pytest.raises(UserError, match="no plain file of this machine"):
        open_raster("/vsicurl/http/x.tif")
    (tmp_path / "x.tif").write_bytes(b"P6 1 1 255 abc")
    with pytest.raises(UserError, match="no GeoTIFF, JPEG 2000, PNG or JPEG"):
        open_raster(tmp_path / "x.tif")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "secret.tif").read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        open_raster(tmp_path / "cut.tif")


def test_files_beside_a_raster_are_not_looked_into(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", ramp("uint8", high=255))
    other = raster(tmp_path / "other.tif", np.full((1, 32, 32), 7, np.uint8), transform=None, crs=None)
    metadata = f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{other}</MDI></Metadata>'
    (tmp_path / "a.tif.aux.xml").write_text(metadata + "<SRS>EPSG:4326</SRS></PAMDataset>")
    found = open_raster(path)
    assert "32631" in found.crs
    coarse = next(iter(Grid(found.wh, 64, 16, scale=2)))
    assert np.asarray(view_of(found, (1,)).picture(coarse)).std() > 10


def test_more_than_eight_bits_are_seen_by_one_stretch_for_the_whole_file(tmp_path: Path) -> None:
    for dtype in ("uint16", "int16", "float32", "float64"):
        path = raster(tmp_path / f"{dtype}.tif", ramp(dtype))
        seen = picture(path)[..., 0].astype(int)
        assert seen.min() == 0 and seen.max() == 255 and abs(seen[32, 0] - 127) <= 2
        view = view_of(open_raster(path), (1,))
        corner = np.asarray(view.picture(Window(0, 0, (0, 0, 64, 32))))  # a part is seen as in the whole
        assert (corner == picture(path)[:32]).all()
    assert (
        picture(raster(tmp_path / "8.tif", ramp("uint8", high=80)))[..., 0] == ramp("uint8", high=80)[0]
    ).all()
    assert picture(tmp_path / "8.tif", stretch="minmax").max() == 255
    assert picture(tmp_path / "uint16.tif", stretch="range:0:2000").max() in (127, 128)
    assert picture(tmp_path / "uint16.tif", stretch="full").max() == round(1000 / 65535 * 255)


def test_the_stretch_of_a_large_file_is_found_in_squares_all_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.add.outer(np.arange(900), np.arange(700)).astype(np.uint16)[None]
    path = raster(tmp_path / "large.tif", values)
    found = open_raster(path)
    [whole_range] = view_of(found, (1,)).ranges
    monkeypatch.setattr("envs.rasters.view.LOOKED_AT", 160)  # 630,000 pixels are many now
    [sampled] = view_of(found, (1,)).ranges
    assert sampled == pytest.approx(whole_range, abs=40) and sampled != whole_range
    assert whole_range == pytest.approx(np.percentile(values, (2, 98)), abs=10)


def test_bands_by_number_by_name_and_as_composites(tmp_path: Path) -> None:
    values = np.stack([np.full((64, 64), 10 * band, np.uint8) for band in range(1, 8)])
    path = raster(tmp_path / "seven.tif", values)
    found = open_raster(path)
    with pytest.raises(UserError, match=r"has 7 bands .*as in --bands 3,2,1"):
        chosen_bands(found, None)
    assert picture(path, "4,3,2")[0, 0].tolist() == [40, 30, 20]
    assert picture(path, "5")[0, 0].tolist() == [50, 50, 50]
    sentinel = "red=3,green=2,blue=1,nir=4"
    assert (
        chosen_bands(found, "nir,red,green", sentinel)
        == (4, 3, 2)
        == chosen_bands(found, "false-colour", sentinel)
    )
    assert chosen_bands(found, None, sentinel) == (3, 2, 1)
    for asked, named, said in (
        ("8,1,2", None, "no band 8; .* has 7"),
        ("nir,red,green", None, "--band-map nir=4"),
        ("1,2", None, "one band, or three"),
        ("1", "nir:4", "NAME=NUMBER"),
        ("1", "nir=9", "no band 9"),
    ):
        with pytest.raises(UserError, match=said):
            chosen_bands(found, asked, named)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("blue", "green", "red", "nir", "x", "y", "z")
    assert chosen_bands(open_raster(path), None) == (3, 2, 1)
    assert chosen_bands(open_raster(path), "false-colour") == (4, 3, 2)
    assert picture(raster(tmp_path / "many.tif", np.zeros((43, 64, 64), np.uint8)), "43,1,2").max() == 0
    assert chosen_bands(open_raster(raster(tmp_path / "2.tif", ramp("uint8", 2, high=9))), "2") == (2,)


def test_what_was_not_measured_is_black_and_moves_no_stretch(tmp_path: Path) -> None:
    values = ramp("int16")
    values[0, :8] = -9999
    path = raster(tmp_path / "nodata.tif", values, nodata=-9999)
    view = view_of(open_raster(path), (1,))
    assert 100 < view.ranges[0][0] < 200 and picture(path)[:8].max() == 0
    shown = view.shown(whole(path))
    assert shown is not None and not shown[:8].any() and shown[8:].all()
    floats = ramp("float32")
    floats[0, :8] = np.nan
    path = raster(tmp_path / "nan.tif", floats)
    assert picture(path)[:8].max() == 0 and picture(path).max() == 255
    shown = view_of(open_raster(path), (1,)).shown(whole(path))
    assert shown is not None and not shown[:8].any()


def test_alpha_hides_and_a_bright_roof_is_not_nodata(tmp_path: Path) -> None:
    values = np.full((4, 64, 64), 200, np.uint8)
    values[3, :10] = 0
    path = raster(tmp_path / "alpha.tif", values, photometric="RGB", alpha="YES")
    found = open_raster(path)
    assert chosen_bands(found, None) == (1, 2, 3) and found.alpha == 4
    assert picture(path)[:10].max() == 0 and picture(path)[10:].min() == 200
    shown = view_of(found, (1, 2, 3)).shown(whole(path))
    assert shown is not None and not shown[:10].any() and shown[10:].all()
    bright = np.full((3, 64, 64), 100, np.uint8)
    bright[0] = 255
    path = raster(tmp_path / "roof.tif", bright, nodata=255, photometric="RGB")
    assert (picture(path)[..., 0] == 255).all()  # one band of 255 is a colour
    assert view_of(open_raster(path), (1, 2, 3)).shown(whole(path)) is None


def test_palettes_are_colours(tmp_path: Path) -> None:
    path = tmp_path / "palette.tif"
    profile = {
        "driver": "GTiff",
        "width": 64,
        "height": 64,
        "count": 1,
        "dtype": "uint8",
        "photometric": "palette",
    }
    with rasterio.open(path, "w", crs="EPSG:32631", transform=UTM, **profile) as file:
        file.write(np.tile(np.arange(64, dtype=np.uint8) % 3, (64, 1)), 1)
        file.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (10, 20, 30, 255)})
    assert picture(path)[0, :3].tolist() == [[255, 0, 0], [0, 255, 0], [10, 20, 30]]


def test_complex_numbers_are_refused_and_no_place_is_told(tmp_path: Path) -> None:
    path = raster(tmp_path / "sar.tif", ramp("complex64"))
    with pytest.raises(UserError, match="complex numbers"):
        open_raster(path)
    bare = open_raster(raster(tmp_path / "bare.tif", ramp("uint8", high=255), crs=None, transform=None))
    assert bare.transform == PIXELS and not bare.crs and "no place on a map" in bare.notes[0]
    local = open_raster(raster(tmp_path / "local.tif", ramp("uint8", high=255), crs=None))
    assert local.transform == tuple(UTM)[:6] and "no coordinate system" in local.notes[0]
    (tmp_path / "bare.tfw").write_text(
        "0.5\n0\n0\n-0.5\n400000.25\n4999999.75\n"
    )  # of the first pixel's centre
    assert open_raster(tmp_path / "bare.tif").transform == tuple(UTM)[:6]
    (tmp_path / "bare.tfw").write_text("no numbers")
    with pytest.raises(UserError, match="six numbers"):
        open_raster(tmp_path / "bare.tif")


def test_pixels_that_cannot_be_read_say_where(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1, 256, 256), np.uint8)
    path = raster(tmp_path / "cut.tif", noise, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    view = view_of(open_raster(path), (1,))
    with pytest.raises(UserError, match=r"cannot be read in columns 0 to 256, rows 0 to 256"):
        view.picture(whole(path))


def test_tables_of_another_program_do_not_lead_astray(tmp_path: Path) -> None:
    path = raster(tmp_path / "a b.tif", ramp("uint8", high=255))
    code = (
        "import sys; from envs.rasters.files import open_raster; from recipes.raster.outlines import Place; "
        "raster = open_raster(sys.argv[1]); place = Place(raster, 'EPSG:4326'); print(place.crs.to_epsg())"
    )
    rubbish = {**os.environ, "PROJ_LIB": "/rubbish", "PROJ_DATA": "/rubbish", "GDAL_DATA": "/rubbish"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, env=rubbish, capture_output=True, text=True
    )
    assert done.stdout.strip() == "32631", done.stderr


@pytest.mark.parametrize("wh", [(1, 1), (64, 5), (100, 64), (129, 300), (1000, 777)])
def test_windows_depend_on_the_file_alone_and_leave_no_pixel_out(wh: tuple[int, int]) -> None:
    grid = Grid(wh, 64, 16)
    windows = list(grid)
    seen = np.zeros((wh[1], wh[0]), np.int32)
    for window in windows:
        x0, y0, x1, y1 = window.rect
        seen[y0:y1, x0:x1] += 1
        assert (x1 - x0, y1 - y0) == (min(64, wh[0]), min(64, wh[1])) == window.picture_wh
    assert seen.min() == 1 and windows == sorted(windows)
    for one, other in itertools.pairwise(windows):
        if one.row == other.row:
            assert one.rect[2] - other.rect[0] >= 16
    part = (wh[0] // 3, wh[1] // 3, wh[0] // 3 + 1, wh[1] // 3 + 1)
    assert set(grid.meeting(part)) < set(windows) or len(windows) == 1
    for sides in ((32, 16), (64, 8), (64, 40)):
        with pytest.raises(UserError, match="must be"):
            Grid(wh, *sides)


def test_a_file_that_is_written_anew_is_read_anew_and_other_formats_are_read(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.full((1, 64, 64), 9, np.uint8))
    assert picture(path).max() == 9
    raster(path, np.full((1, 64, 70), 8, np.uint8))
    assert picture(path).max() == 8
    seen = view_of(open_raster(path), (1,))
    path.unlink()
    with pytest.raises(UserError, match="cannot be opened"):
        seen.picture(Window(0, 0, (0, 0, 64, 64)))
    values = ramp("uint8", 3, high=255)
    for name, driver in (("a.jp2", "JP2OpenJPEG"), ("a.png", "PNG")):
        shape = {"width": 64, "height": 64, "count": 3, "dtype": "uint8"}
        with rasterio.open(
            tmp_path / name, "w", driver=driver, crs="EPSG:32631", transform=UTM, **shape
        ) as file:
            file.write(values)
        assert open_raster(tmp_path / name).driver == driver and picture(tmp_path / name).std() > 50
