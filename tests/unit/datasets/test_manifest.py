"""manifest: every form of mask is read, and every mistake is named by file, line and key on opening."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from envs.datasets import open_dataset
from envs.masks import encode_rle
from prompter.errors import UserError

HEIGHT, WIDTH = 12, 20


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 7, np.uint8)).save(tmp_path / "images" / "a.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:6, 3:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def write(folder, *records):
    path = folder / "data.jsonl"
    lines = [record if isinstance(record, str | bytes) else json.dumps(record) for record in records]
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def opened(folder, *records, **options):
    return open_dataset("manifest", "all", path=write(folder, *records), **options)


def record(**changes):
    return {"image": "images/a.png", "query": "the box", "mask": "mask.png", **changes}


def expected():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:6, 3:9] = True
    return mask


@pytest.mark.parametrize(
    "mask",
    ["mask.png", [[3, 2, 9, 2, 9, 6, 3, 6]], "rle", {"size": [HEIGHT, WIDTH], "counts": "uncompressed"}],
)
def test_every_form_of_mask_gives_the_same_target(folder, mask):
    if mask == "rle":
        mask = encode_rle(expected())
    elif isinstance(mask, dict):
        flat = expected().ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        mask = {**mask, "counts": np.diff([0, *edges.tolist(), flat.size]).tolist()}
    [sample] = opened(folder, record(mask=mask))
    assert np.array_equal(sample.target_mask(), expected())
    assert sample.image_wh == (WIDTH, HEIGHT)


@pytest.mark.parametrize("empty", [None, []])
def test_null_or_nothing_means_no_target(folder, empty):
    [sample] = opened(folder, record(mask=empty))
    assert sample.target is not None
    assert not sample.target_mask().any()


def test_everything_optional_is_kept(folder):
    [sample] = opened(
        folder,
        record(
            id="first", tags={"axis": "group"}, ignore="mask.png", instances=["mask.png", None], mask=None
        ),
    )
    assert sample.sample_id == "first"
    assert sample.tags == {"axis": "group"}
    assert sample.ignore == encode_rle(expected())
    assert [int(mask.sum()) for mask in sample.instance_masks()] == [24, 0]


def test_instances_alone_make_the_target(folder):
    rest = [[0, 0, 2, 0, 2, 2, 0, 2]]
    line = record(instances=["mask.png", rest])
    del line["mask"]
    [sample] = opened(folder, line)
    assert int(sample.target_mask().sum()) == 28


def test_boxes_alone_make_a_box_only_sample(folder):
    line = record(boxes=[[1, 2, 5, 6.5]])
    del line["mask"]
    [sample] = opened(folder, line)
    assert sample.target is None
    assert sample.boxes == ((1.0, 2.0, 5.0, 6.5),)


def test_blank_lines_and_a_byte_order_mark_are_no_records(folder):
    path = write(folder, "", record(), "", record())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().lstrip())
    source = open_dataset("manifest", "all", path=path)
    assert [sample.sample_id for sample in source] == ["line-1", "line-3"]


BAD = {
    "not json": ('{"image": "images/a.png",', r"line 2: it is not JSON"),
    "a list": ("[1, 2]", r"line 2: it must be a JSON object"),
    "unknown key": (record(querry="x"), r"line 2: there is no key 'querry'. Did you mean 'query'"),
    "no query": (record(query=" "), r"line 2: the key 'query' must be text"),
    "no image": (record(image="images/missing.png"), r"line 2, key 'image': .*missing\.png"),
    "image is no image": (record(image="data.jsonl"), r"line 2, key 'image': image .*data\.jsonl"),
    "no mask": ({"image": "images/a.png", "query": "x"}, r"line 2: it needs one of the keys 'mask'"),
    "rle of another size": (
        record(mask={"size": [5, 5], "counts": "i0"}),
        r"line 2, key 'mask': it is 5 x 5 \(height x width\), but its image is 12 x 20",
    ),
    "rle without counts": (record(mask={"size": [12, 20]}), r"line 2, key 'mask'.*`counts`"),
    "short polygon": (record(mask=[[1, 2, 3, 4]]), r"line 2, key 'mask': polygon 0 needs at least three"),
    "flat polygon": (record(mask=[1, 2, 3, 4, 5, 6]), r"line 2, key 'mask': polygon 0 must be a flat list"),
    "a number": (record(mask=7), r"line 2, key 'mask': it must be a run-length encoding"),
    "missing mask file": (record(mask="gone.png"), r"line 2, key 'mask': .*gone\.png"),
    "bad ignore": (record(ignore="gone.png"), r"line 2, key 'ignore': .*gone\.png"),
    "bad instances": (record(instances="mask.png"), r"line 2, key 'instances': it must be a list"),
    "bad box": (record(boxes=[[3, 3, 1, 9]]), r"line 2, key 'boxes': a box must be finite with x1 < x2"),
    "tags not text": (record(tags={"a": 1}), r"line 2: the key 'tags' must be an object of text"),
    "a key twice": (
        '{"image": "images/a.png", "query": "x", "mask": null, "mask": "mask.png"}',
        "line 2: the key 'mask' stands there twice",
    ),
    "gbk": (b'{"image": "images/a.png", "query": "\xba\xec", "mask": null}', "line 2: it is not utf-8"),
    "points for polygons": (
        record(mask=[[3, 2], [9, 2], [9, 6], [3, 6]]),
        r"line 2, key 'mask': it looks like one polygon as a list of points",
    ),
    "same id": (record(id="line-1"), r"line 2, key 'id': 'line-1' was used before"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_on_opening_and_can_be_skipped(folder, case):
    line, message = BAD[case]
    path = write(folder, record(), line, record())
    with pytest.raises(UserError, match=message) as caught:
        open_dataset("manifest", "all", path=path)
    assert str(path) in str(caught.value)
    source = open_dataset("manifest", "all", path=path, skip_bad=True)
    assert [sample.sample_id for sample in source] == ["line-1", "line-3"]
    assert len(source.skipped) == 1


def test_a_mask_that_only_decoding_shows_to_be_broken_is_named_and_can_be_skipped(folder):
    broken = record(mask={"size": [HEIGHT, WIDTH], "counts": [1, 2]})
    source = opened(folder, record(), broken)
    with pytest.raises(UserError, match=r"line 2, key 'mask': run lengths add up to 3"):
        source[1]
    skipping = opened(folder, record(), broken, skip_bad=True)
    assert len(skipping) == 1
    assert len(skipping.skipped) == 1


def test_a_missing_or_empty_manifest_is_named(folder):
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        open_dataset("manifest", "all", path=folder / "nowhere.jsonl")
    with pytest.raises(UserError, match="holds no usable record"):
        opened(folder)
    with pytest.raises(UserError, match="dataset 'manifest' needs the option 'path'"):
        open_dataset("manifest", "all")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_coordinate_beyond_any_image_is_refused(folder, value):
    with pytest.raises(UserError, match=r"line 1, key 'mask': polygon 0 has a coordinate"):
        opened(folder, record(mask=[[value, 0, 5, 0, 5, 5]]))


def test_points_for_polygons_are_never_no_target(folder):
    points = [[3, 2], [9, 2], [9, 6], [3, 6]]
    with pytest.raises(UserError, match="one polygon as a list of points"):
        opened(folder, record(mask=points), empty_object="keep")


def test_no_boxes_mean_no_target(folder):
    line = record(boxes=[])
    del line["mask"]
    [sample] = opened(folder, line)
    assert sample.target is None and sample.tags == {"target": "none"}


def test_an_id_of_null_is_none(folder):
    assert [sample.sample_id for sample in opened(folder, *[record(id=None)] * 2)] == ["line-1", "line-2"]


def test_half_a_character_is_refused_when_the_sample_is_read(folder):
    bad = record(query="half \ud800 of one")
    with pytest.raises(UserError, match=r"'line-1' asks 'half \\ud800 of one', in which U\+D800 is half"):
        opened(folder, bad)[0]
    assert [sample.sample_id for sample in opened(folder, bad, record(), skip_bad=True)] == ["line-2"]


@pytest.mark.parametrize("mode", ["L", "1"])
def test_a_colour_names_a_grey_value_too(folder, mode):
    Image.fromarray(np.asarray(expected(), np.uint8) * 255).convert(mode).save(folder / "grey.png")
    value = "#ffffff" if mode == "L" else "#010101"
    [sample] = opened(folder, record(mask="grey.png"), mask_values=value)
    assert np.array_equal(sample.target_mask(), expected())
    [other] = opened(folder, record(mask="grey.png"), mask_values="#ff0000")
    assert not other.target_mask().any()


def test_one_resized_mask_is_told_once(folder):
    Image.fromarray(np.asarray(expected(), np.uint8)[:-1] * 255).save(folder / "low.png")
    source = opened(folder, record(mask="low.png"), mask_size="resize")
    assert source[0].target_mask().any()
    assert [len(sentences) for sentences in source.noted.values()] == [1]
