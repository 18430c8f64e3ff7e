"""The sets in the REFER format as they are published, and generated ones in every way of writing them."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from envs.datasets import open_dataset
from envs.datasets.check import check_split
from envs.datasets.nwpu_refer import NOT_ENGLISH
from envs.datasets.reading.language import is_english
from envs.datasets.reading.layouts.refer import (
    MISSING_TARGETS,
    NO_TARGETS,
    UNKNOWN_ANNOTATION,
    WITHOUT_SENTENCE,
    in_split,
)
from envs.masks import encode_rle, union
from prompter.errors import UserError
from tests.fixtures.layouts import FIXTURES
from tests.fixtures.refer_layouts import coco_file, references, write_pickle
from tests.fixtures.scenes import HEIGHT, WIDTH, make_scene, write_json

CASES = int(os.environ.get("PROMPTER_GENERATED_SETS", "40"))


def change(path: Path, key: str, number: int, **values: Any) -> None:
    """Change one object of a COCO file."""
    data = json.loads(path.read_text())
    data[key][number].update(values)
    write_json(path, data)


class TestGRefCoco:
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return FIXTURES["grefcoco"].build(tmp_path)

    def test_references_without_a_sentence_are_left_out_and_counted(self, options: dict[str, Any]) -> None:
        source = open_dataset("grefcoco", "val", **options)
        assert (len(source), source.left_out, source.skipped) == (48, {WITHOUT_SENTENCE: 3}, [])
        report = check_split("grefcoco", "val", options)
        assert report.left_out == {WITHOUT_SENTENCE: 3}
        assert report.problems["unreadable"] == []

    def test_an_empty_sentence_is_named(self, options: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "grefcoco" / "grefs(unc).json"
        refs = json.loads(path.read_text())
        refs[4]["sentences"][1] = {"raw": " ", "sent": "", "sent_id": 9, "tokens": []}
        write_json(path, refs)
        with pytest.raises(
            UserError, match=r"grefs\(unc\)\.json, reference 4: one of its sentences is empty"
        ):
            open_dataset("grefcoco", "val", **options)

    def test_a_byte_order_mark_is_read_past(self, options: dict[str, Any], tmp_path: Path) -> None:
        for path in (tmp_path / "grefcoco").glob("*.json"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert len(open_dataset("grefcoco", "val", **options)) == 48

    def test_rela_leaves_crowds_out_of_the_target(self, options: dict[str, Any]) -> None:
        every = open_dataset("grefcoco", "val", **options)
        rela = open_dataset("grefcoco", "val", **options, targets="rela")
        assert len(rela) == len(every)  # the published number of samples
        assert rela.left_out[NO_TARGETS] == 1
        assert (len(every[0].instances), len(every[2].instances)) == (1, 3)
        assert (len(rela[0].instances), len(rela[2].instances)) == (0, 2)
        assert (rela[0].tags["multiplicity"], rela[2].tags["multiplicity"]) == ("one", "several")

    def test_rela_passes_over_polygons_of_two_points(self, options: dict[str, Any], tmp_path: Path) -> None:
        instances = tmp_path / "grefcoco" / "instances.json"
        good = make_scene(0).things[1].polygon()
        change(instances, "annotations", 1, segmentation=[[1.0, 2.0, 3.0, 4.0], good, [*good, 1.0]])
        change(instances, "annotations", 2, segmentation=[[1.0, 2.0, 3.0, 4.0]])
        sample = open_dataset("grefcoco", "val", **options, targets="rela")[2]
        assert list(sample.instances) == [encode_rle(make_scene(0).things[1].mask())]
        with pytest.raises(UserError, match=r"annotations 1 \(id 2\)"):
            open_dataset("grefcoco", "val", **options)[2]


class TestRrsisD:
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return FIXTURES["rrsis-d"].build(tmp_path)

    def test_a_list_of_one_encoding_is_the_mask(self, options: dict[str, Any]) -> None:
        for number, sample in enumerate(open_dataset("rrsis-d", "test", **options)):
            thing = make_scene(number // 3).things[number % 3]
            assert np.array_equal(sample.target_mask(), thing.mask())
            assert sample.tags["category"] == thing.name  # by the reference: annotations say `categories_id`

    def test_another_size_is_refused_or_resized(self, options: dict[str, Any], tmp_path: Path) -> None:
        small = make_scene(1).things[0].mask()[::2, ::2]
        instances = tmp_path / "rrsisd" / "instances.json"
        change(instances, "annotations", 3, segmentation=[encode_rle(small)])
        with pytest.raises(UserError, match=r"instances\.json, annotations 3 \(id 3\): .*mask_size=resize"):
            open_dataset("rrsis-d", "test", **options)[3]
        source = open_dataset("rrsis-d", "test", **options, mask_size="resize")
        assert len(list(source)) == 24  # the published number of samples
        target = source[3].target_mask()
        assert target.shape == (HEIGHT, WIDTH)
        assert np.array_equal(target[::2, ::2], small)


def test_polygons_are_in_the_frame_of_their_record(tmp_path: Path) -> None:
    """An image that was resized after its polygons were drawn: they are brought along, not cut off."""
    options = FIXTURES["refcoco"].build(tmp_path)
    instances = tmp_path / "refcoco" / "instances.json"
    thing = make_scene(0).things[0]
    change(instances, "images", 0, width=WIDTH * 2, height=HEIGHT * 2)
    change(instances, "annotations", 0, segmentation=[[2 * v for v in thing.polygon()]])
    with pytest.raises(UserError, match=r"00000\.jpg: it is 64 x 96 .* says 128 x 192; the option mask_size"):
        open_dataset("refcoco", "val", **options)[0]
    sample = open_dataset("refcoco", "val", **options, mask_size="resize")[0]
    assert np.array_equal(sample.target_mask(), thing.mask())


class TestNwpuRefer:
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return FIXTURES["nwpu-refer"].build(tmp_path)

    def test_nothing_is_dropped_without_a_word(self, options: dict[str, Any]) -> None:
        english = open_dataset("nwpu-refer", "test", **options)
        assert english.left_out == {WITHOUT_SENTENCE: 1, NOT_ENGLISH: 1, MISSING_TARGETS: 2}
        every = open_dataset("nwpu-refer", "test", **options, language="all")
        assert NOT_ENGLISH not in every.left_out
        assert "The harbour’s tank of 0." in [sample.query for sample in english]

    def test_an_unknown_annotation_is_left_out_or_refused(self, options: dict[str, Any]) -> None:
        single = open_dataset("nwpu-refer", "test", **options, targets="single")
        assert single.left_out[UNKNOWN_ANNOTATION] == 1
        assert (
            len(single) == len(open_dataset("nwpu-refer", "test", **options)) + 2
        )  # three share an expression
        with pytest.raises(UserError, match="its annotation 5000 is not among the annotations"):
            open_dataset("nwpu-refer", "test", **options, unknown="refuse")

    def test_text_of_another_encoding_is_asked_for(self, options: dict[str, Any], tmp_path: Path) -> None:
        """Python 2 wrote text as bytes, in the encoding of the machine."""
        path = tmp_path / "new_refs(unc).p"
        refs = pickle.loads(path.read_bytes())[:1]
        refs[0] = {**refs[0], "sentences": [{"raw": "PLACEHOLDER", "sent": "x", "sent_id": 0, "tokens": []}]}
        raw = "港口的船".encode("gbk")
        written = pickle.dumps(refs, protocol=2).replace(
            b"X\x0b\x00\x00\x00PLACEHOLDER", b"U" + bytes([len(raw)]) + raw
        )
        path.write_bytes(written)
        with pytest.raises(UserError, match=r"reference 0: it is not utf-8 .*encoding=gbk"):
            open_dataset("nwpu-refer", "test", **options, language="all")
        source = open_dataset("nwpu-refer", "test", **options, language="all", encoding="gbk")
        assert [sample.query for sample in source] == ["港口的船"]


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_english(text: str) -> None:
    assert is_english(text)


@given(st.text(st.sampled_from("aé’“”–— 5²µ°ﬁＡ")), st.sampled_from("船ж한あبק"))
def test_typographic_marks_are_english_and_letters_of_other_scripts_are_not(text: str, letter: str) -> None:
    assert is_english(text)
    assert not is_english(text + letter)
    assert not is_english(letter + text)


@pytest.mark.parametrize(
    ("found", "asked", "belongs"),
    [
        ("train", "train", True),
        ("testA", "test", True),
        ("testA", "testA", True),
        ("testA", "testB", False),
        ("testAB", "testB", True),
        ("test", "testA", False),
        ("val", "train", False),
        ("trainA", "testA", False),
    ],
)
def test_splits_belong_as_in_refer_s_own_code(found: str, asked: str, belongs: bool) -> None:
    assert in_split(found, asked) == belongs


# --- generated sets: every way of writing what the readers take, and an oracle that knows the masks -------


def written_mask(mask: np.ndarray, draw: random.Random, polygon: list[float]) -> tuple[str, Any]:
    """One of the ways in which a segmentation is written; all say the same mask."""
    compressed = encode_rle(mask)
    runs = coco.frPyObjects([polygon], HEIGHT, WIDTH)
    flat = mask.reshape(-1, order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": counts if flat[0] == 0 else [0, *counts]}
    half = np.zeros_like(mask)
    half[:, : WIDTH // 2] = True
    assert runs
    return draw.choice(
        [
            ("polygons", [polygon]),
            ("an encoding", compressed),
            ("runs", uncompressed),
            ("a list of one encoding", [compressed]),
            ("a list of runs", [uncompressed]),
            ("halves", [encode_rle(mask & half), encode_rle(mask & ~half)]),
            ("both", [compressed, polygon]),
            ("a speck beside", [polygon, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]),
        ]
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "train2014"
    for number in range(4):
        make_scene(number).save(folder / f"{number:05d}.jpg")
    return folder


@pytest.mark.parametrize("seed", range(CASES))
def test_a_generated_set_is_read_as_it_was_meant(pictures: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    instances, refs = coco_file(4), references(4, "val")
    for annotation in instances["annotations"]:
        thing = make_scene(annotation["image_id"] - 1000).things[(annotation["id"] - 1) % 3]
        _, annotation["segmentation"] = written_mask(thing.mask(), draw, thing.polygon())
        if draw.random() < 0.3:
            annotation["categories_id"] = annotation.pop("category_id")
        annotation["bbox"] = draw.choice([[900, 900, 4, 4], [1.5, 2.5, 3.5, 4.5], []])
    expected: dict[str, np.ndarray] = {}
    left_out: Counter[str] = Counter()
    number_type = draw.choice([int, np.int64, np.int32, np.uint16])
    for one in refs:
        first = (one["ann_id"] - 1) // 3 * 3 + 1
        ids = draw.choice([[one["ann_id"]], [first, first + 2], [first, first + 1, first + 2], [-1]])
        masks = [make_scene(one["image_id"] - 1000).things[(i - 1) % 3].mask() for i in ids if i != -1]
        if draw.random() < 0.2:
            one.update(sentences=[], sent_ids=[])
            left_out[WITHOUT_SENTENCE] += 1
        expected |= {s["sent"]: union(masks, (HEIGHT, WIDTH)) for s in one["sentences"]}
        one["ann_id"] = number_type(ids[0]) if len(ids) == 1 and ids != [-1] else ids
        one["image_id"] = number_type(one["image_id"])
    encoding = draw.choice(["utf-8", "utf-8-sig"])
    folder = tmp_path / "grefcoco"
    write_pickle(folder / "grefs(unc).p", refs, protocol=draw.randrange(6))
    (folder / "instances.json").write_text(json.dumps(instances), encoding=encoding)
    source = open_dataset("grefcoco", "val", root=tmp_path, images=pictures)
    assert {s.query: s.target_mask().tolist() for s in source} == {k: v.tolist() for k, v in expected.items()}
    assert Counter(source.left_out) == left_out
