"""What may be given as an image, and what is refused rather than misread."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from envs.datasets.reading.pixels.georeference import georeference_of
from envs.datasets.reading.rules import ReadingRules
from prompter.errors import UserError
from recipes.api.pictures import read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
RULES = ReadingRules()


def read(given: Any, **rules: Any) -> np.ndarray:
    picture = read_picture(given, ReadingRules(**rules))
    image = picture.load()
    assert image.mode == "RGB" and image.size == picture.wh
    return np.asarray(image)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def test_every_way_to_give_an_image_is_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(PIXELS))
    for given in (
        path,
        str(path),
        path.read_bytes(),
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[:, ::-1][:, ::-1],
    ):
        assert (read(given) == PIXELS).all()
    assert read_picture(path, RULES).name == str(path)
    assert read_picture(PIXELS, RULES).name == read_picture(Image.fromarray(PIXELS), RULES).name
    assert read_picture(PIXELS, RULES).name != read_picture(PIXELS[::-1], RULES).name


def test_grey_and_alpha_become_rgb() -> None:
    grey = PIXELS[..., 0]
    for given in (grey, grey[..., None]):
        assert (read(given) == grey[..., None]).all()
    assert (read(np.dstack([PIXELS, grey])) == PIXELS).all()


def test_an_array_that_is_changed_later_changes_nothing() -> None:
    given = PIXELS.copy()
    picture = read_picture(given, RULES)
    given[:] = 0
    assert (np.asarray(picture.load()) == PIXELS).all()


def test_more_than_8_bits_are_seen_only_by_a_stated_rule(tmp_path: Path) -> None:
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    path = tmp_path / "deep.png"
    path.write_bytes(png(deep))
    for given in (deep, path, PIXELS / 255):
        with pytest.raises(UserError, match="stretch"):
            read(given)
        assert (read(given, stretch="full")[..., 0] == PIXELS[..., 0]).all()


def test_an_orientation_tag_turns_an_image_as_viewers_do(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert (read(tmp_path / "turned.png") == np.rot90(PIXELS, -1)).all()
    assert (read(tmp_path / "turned.png", orientation="ignore") == PIXELS).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((3, 6, 9), np.uint8), "channels go last"),
        (np.zeros((6, 9, 5), np.uint8), r"has shape \(6, 9, 5\)"),
        (np.zeros((0, 9, 3), np.uint8), "has shape"),
        (np.zeros((6, 9), np.bool_), "holds bool"),
        (np.zeros((6, 9), np.complex64), "holds complex64"),
        ({"image": 1}, "but is a dict"),
        (b"no image", "no image of a format"),
        ("gone.png", "there is no file 'gone.png'"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(given)


def test_an_image_beyond_the_limit_is_refused() -> None:
    with pytest.raises(UserError, match=r"9 x 6 pixels .* more than the limit of 50"):
        read(PIXELS, max_pixels=50)


def geotiff(path: Path, array: np.ndarray, **options: Any) -> Path:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33550], tags.tagtype[33550] = (0.5, 0.5, 0.0), 12
    tags[33922], tags.tagtype[33922] = (0.0, 0.0, 0.0, 4e5, 5e6, 0.0), 12
    Image.fromarray(array).save(path, tiffinfo=tags, **options)
    return path


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}, {"compression": "tiff_lzw"}])
def test_a_raster_with_a_place_on_a_map_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = geotiff(tmp_path / "a.tif", PIXELS, **options)
    assert georeference_of(path) == "GeoTIFF tags (ModelPixelScale, ModelTiepoint)"
    with pytest.raises(UserError, match=r"place on a map .*ModelPixelScale.* would be lost"):
        read(path)
    assert (read(np.asarray(Image.open(path))) == PIXELS).all()  # what the sentence says to do


@pytest.mark.parametrize("world", ["a.pgw", "a.pngw", "a.wld", "a.PGW"])
def test_so_is_an_image_beside_a_world_file(tmp_path: Path, world: str) -> None:
    (tmp_path / "a.png").write_bytes(png(PIXELS))
    (tmp_path / world).write_text("0.5\n0\n0\n-0.5\n400000\n5000000\n")
    with pytest.raises(UserError, match=re.escape(f"the world file {world}")):
        read(tmp_path / "a.png")


def test_a_plain_tiff_is_an_image_like_any_other(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.tif")
    assert georeference_of(tmp_path / "a.tif") is None
    assert (read(tmp_path / "a.tif") == PIXELS).all()
