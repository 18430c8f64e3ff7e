"""Images that a header alone does not tell about, and rules that are mistyped."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from envs.datasets import open_dataset
from envs.datasets.check import check_split
from envs.datasets.reading.faults import BadRecord, Fault, kind_of
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.pixels.pictures import read_rgb
from envs.datasets.reading.records import told
from envs.datasets.reading.rules import ReadingRules, applied
from prompter.errors import UserError
from tests.fixtures.foreign_images import encoded, exif, png16, png_chunk, tiff


def rgb(height: int = 4, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_an_orientation_tag_behind_the_pixels_is_refused(tmp_path: Path) -> None:
    """The header does not know of it, so that size and pixels would part ways."""
    data = encoded(Image.fromarray(rgb()), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data[:-12] + png_chunk(b"eXIf", exif(6)) + data[-12:])
    with pytest.raises(UserError, match=r"a\.png: its orientation tag stands behind its pixels"):
        ImageFile(str(path))()


def test_a_broken_tag_loses_no_image() -> None:
    data = encoded(Image.fromarray(rgb()), "PNG")
    assert np.array_equal(read_rgb(data[:33] + png_chunk(b"eXIf", b"MM\0*broken") + data[33:]), rgb())


@pytest.mark.parametrize(
    ("data", "message", "kind"),
    [
        (tiff(np.zeros((4, 5, 5), np.uint8)), "TIFF of 5 channels", "unreadable"),
        (tiff(np.zeros((4, 5, 6), np.uint16)), "TIFF of 6 channels", "unreadable"),
        (b"no image", "no image of a format", "unreadable"),
        (tiff(np.zeros((4, 5, 3), np.float32)), "32-bit floating-point numbers a channel", "depth"),
        (png16(np.zeros((4, 5, 2), np.uint16)), "16 bits a channel", "depth"),
    ],
    ids=["five channels", "six deep channels", "no image", "RGB of floats", "grey and alpha"],
)
def test_what_is_refused_is_named(data: bytes, message: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    with pytest.raises(BadRecord, match=message) as caught:
        image_wh(path)
    assert kind_of(caught.value) == kind
    assert "a.tif" in str(caught.value)


def test_deep_jpeg_2000_is_noticed() -> None:
    values = np.linspace(0, 4095, 300).astype(np.uint16).reshape(15, 20)
    data = encoded(Image.fromarray(values), "JPEG2000", irreversible=False)
    with pytest.raises(Fault, match="16 bits a channel"):
        read_rgb(data)
    with applied(ReadingRules(stretch="minmax")):
        shown = np.asarray(read_rgb(data))[..., 0]
    assert (shown.min(), shown.max()) == (0, 255)


def test_a_decoded_image_is_read_by_the_same_rules() -> None:
    values = np.arange(20, dtype=np.uint16).reshape(4, 5) * 1000
    with pytest.raises(Fault, match="16 bits a channel"):
        read_rgb(Image.fromarray(values))
    with applied(ReadingRules(stretch="range:0:19000")):
        right = np.rint(values / 19000 * 255)
        assert np.abs(np.asarray(read_rgb(Image.fromarray(values)))[..., 0] - right).max() <= 1
    assert np.array_equal(read_rgb(Image.fromarray(rgb())), rgb())


def test_a_loader_keeps_its_rules_when_it_is_sent_away(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 9000, np.uint16)).save(tmp_path / "a.png")
    with applied(ReadingRules(stretch="range:0:9000")):
        loader = ImageFile(str(tmp_path / "a.png"))
    assert np.asarray(pickle.loads(pickle.dumps(loader))()).min() == 255


@pytest.mark.parametrize(
    "options",
    [
        {"stretch": "percentiles"},
        {"stretch": "range:5:5"},
        {"stretch": "percentile:10:101"},
        {"stretch": "minmax:1:2"},
        {"mask_values": "above:x"},
        {"mask_values": "#ff00"},
        {"mask_values": ""},
        {"mask_ignore": "none"},
        {"mask_size": "crop"},
        {"units": "metres"},
        {"max_pixels": "many"},
    ],
)
def test_a_mistyped_rule_is_one_sentence(options: dict[str, Any], tmp_path: Path) -> None:
    [name] = options
    with pytest.raises(UserError, match=f"option '{name}'"):
        open_dataset("manifest", "all", path=tmp_path / "data.jsonl", **options)


def test_a_drawn_set_has_no_rules_of_reading() -> None:
    with pytest.raises(UserError, match="has no option 'stretch'"):
        open_dataset("synthetic-aerial", "val", stretch="full")


def test_what_was_left_out_and_read_past_is_told_at_the_end(tmp_path: Path) -> None:
    Image.fromarray(rgb(20, 20)).save(tmp_path / "a.png")
    box = "[[2, 2, 9, 2, 9, 9, 2, 9], [1, 1]]"
    lines = [f'{{"image": "a.png", "query": "{n}", "mask": {box}}}' for n in range(3)]
    lines += [
        '{"image": "gone.png", "query": "x", "mask": null}',
        '{"image": "a.png", "query": "", "mask": null}',
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    source = open_dataset("manifest", "all", path=tmp_path / "data.jsonl", skip_bad=True)
    first, second = told(source)
    assert first.startswith("2 records left out (2 unreadable); the first: ")
    assert second.startswith("3 parts of shapes that have no area, left out or drawn as a line; the first: ")
    assert "line 1, key 'mask': polygon 1 needs at least three x, y pairs" in second


def test_pillow_s_own_limit_is_lifted_while_a_header_is_read_and_then_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(rgb(20, 30)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert np.array_equal(ImageFile(str(path))(), rgb(20, 30))
    assert Image.MAX_IMAGE_PIXELS == 10
    with applied(ReadingRules(max_pixels=599)), pytest.raises(UserError, match=r"a\.png.*limit of 599"):
        image_wh(path)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_a_file_of_several_pictures_is_told(suffix: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], lossless=True)
    overview = TiffImagePlugin.ImageFileDirectory_v2()
    overview[254] = 1  # NewSubfileType: a smaller copy
    first.save(tmp_path / "b.tif", save_all=True, append_images=[second.resize((20, 15))], tiffinfo=overview)
    lines = [{"image": name, "query": "x", "boxes": [[1, 1, 5, 5]]} for name in (f"a.{suffix}", "b.tif")]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = open_dataset("manifest", "all", path=tmp_path / "data.jsonl")
    assert source[0].image_array()[5, 5].tolist() == pytest.approx([255, 0, 0], abs=2)
    report = check_split("manifest", "all", {"path": tmp_path / "data.jsonl"})
    assert len(report.notes["pages"]) == 1 and f"a.{suffix}: it holds 2 pictures" in report.notes["pages"][0]
