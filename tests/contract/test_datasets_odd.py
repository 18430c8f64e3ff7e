"""Odd files and records of the sets: what is read, refused, or left out and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.datasets import open_dataset
from envs.datasets.check import check_split
from envs.sample import SampleSource
from prompter.errors import UserError
from tests.fixtures.layouts import FIXTURES
from tests.fixtures.scenes import make_scene, save_label, write_json
from tests.fixtures.table_layouts import label, png, table, write_shards


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def opened(key: str, root: Path, split: str | None = None, **changes: Any) -> SampleSource:
    fixture = FIXTURES[key]
    return open_dataset(fixture.name, split or fixture.split, **{**fixture.build(root), **changes})


class TestEmptyAnswers:
    """`answer: []` beside a label that is not empty."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        FIXTURES["earthreason"].build(tmp_path)
        write_json(tmp_path / "val" / "QAs" / "val_001.json", {"questions": ["Where?"], "answer": []})
        return tmp_path

    @pytest.mark.parametrize(("rule", "target"), [("no_target", False), ("label", True)])
    def test_the_option_says_which_holds_and_a_tag_tells(self, root: Path, rule: str, target: bool) -> None:
        sample = open_dataset("earthreason", "val", root=root, empty_answer=rule)[1]
        assert sample.tags["answer"] == "contradicts the label"
        assert sample.tags["target"] == ("present" if target else "none")
        expected = make_scene(1).things[0].mask() & target
        assert np.array_equal(sample.target_mask(), expected)

    def test_it_can_be_refused(self, root: Path) -> None:
        source = open_dataset("earthreason", "val", root=root, empty_answer="refuse")
        with pytest.raises(UserError, match=r"val_001.json: its answer is \[\].*'empty_answer'"):
            source[1]
        assert len(open_dataset("earthreason", "val", root=root, empty_answer="refuse", skip_bad=True)) == 11

    def test_others_have_no_tag(self, root: Path) -> None:
        source = open_dataset("earthreason", "val", root=root)
        assert [s.image_id for s in source if "answer" in s.tags] == ["val_001"]

    def test_in_tables(self, tmp_path: Path) -> None:
        scenes = [make_scene(number) for number in range(3)]
        rows = {
            "image": [png(scene.pixels) for scene in scenes],
            "mask": [png(label(scene.things[0].mask() & (n != 1))) for n, scene in enumerate(scenes)],
            "questions": [["a?"]] * 3,
            "answer": [["there"], [], []],
        }
        write_shards(table(rows, images=("image", "mask")), tmp_path, "test", 1)
        tags = [dict(sample.tags) for sample in open_dataset("earthreason", "test", root=tmp_path)]
        contradiction = {"target": "none", "answer": "contradicts the label"}
        assert tags == [{"target": "present"}, {"target": "none"}, contradiction]


class TestEarthReasonFiles:
    def test_images_without_a_question_are_left_out_and_told(self, tmp_path: Path) -> None:
        options = FIXTURES["earthreason"].build(tmp_path)
        for number, questions in enumerate(([], ["", " "])):
            path = tmp_path / "val" / "QAs" / f"val_00{number + 1}.json"
            write_json(path, {"questions": questions, "answer": ["x"]})
        source = open_dataset("earthreason", "val", **options)
        assert source.left_out == {"records without a question": 2}  # type: ignore[attr-defined]
        assert len({sample.image_id for sample in source}) == 10
        assert check_split("earthreason", "val", options).left_out == {"records without a question": 2}

    def test_folders_nested_and_not_are_read_together(self, tmp_path: Path) -> None:
        options = FIXTURES["earthreason"].build(tmp_path)
        inner = tmp_path / "val" / "val" / "images"
        inner.mkdir(parents=True)
        for path in sorted((tmp_path / "val" / "images").iterdir())[::2]:
            path.rename(inner / path.name)
        assert len({sample.image_id for sample in open_dataset("earthreason", "val", **options)}) == 12

    @pytest.mark.parametrize(
        ("other", "what"),
        [
            ("val/val/images/val_003.jpg", "image"),
            ("val/images/val_003.png", "image"),
            ("val/labels/val_003.jpg", "label"),
            ("val/val/QAs/val_003.json", "questions file"),
        ],
    )
    def test_a_stem_that_is_there_twice_is_refused(self, tmp_path: Path, other: str, what: str) -> None:
        options = FIXTURES["earthreason"].build(tmp_path)
        path = tmp_path / other
        if what == "questions file":
            write_json(path, {"questions": ["Another?"], "answer": ["x"]})
        elif what == "label":
            save_label(path, make_scene(5).things[0].mask())
        else:
            make_scene(5).save(path)
        with pytest.raises(UserError, match=f"there are two {what}s for 'val_003'") as caught:
            open_dataset("earthreason", "val", **options)[9]
        assert str(path) in str(caught.value)
        source = open_dataset("earthreason", "val", **options, skip_bad=True)
        assert (len({s.image_id for s in source}), len(source.skipped)) == (11, 1)  # type: ignore[attr-defined]

    def test_a_copy_of_the_same_bytes_is_one_file(self, tmp_path: Path) -> None:
        options = FIXTURES["earthreason"].build(tmp_path)
        path = next((tmp_path / "val" / "images").glob("val_003.*"))
        inner = tmp_path / "val" / "val" / "images"
        inner.mkdir(parents=True)
        (inner / path.name).write_bytes(path.read_bytes())
        assert len(open_dataset("earthreason", "val", **options)) == 36

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk"])
    def test_questions_in_other_encodings(self, tmp_path: Path, encoding: str) -> None:
        options = FIXTURES["earthreason"].build(tmp_path)
        path = tmp_path / "val" / "QAs" / "val_000.json"
        path.write_text(
            json.dumps({"questions": ["码头在哪里?"], "answer": []}, ensure_ascii=False), encoding
        )
        if encoding == "gbk":
            with pytest.raises(UserError, match=r"val_000\.json: it is not utf-8.*encoding=gbk"):
                open_dataset("earthreason", "val", **options)
            options["encoding"] = "gbk"
        assert open_dataset("earthreason", "val", **options)[0].query == "码头在哪里?"


class TestPhraseFiles:
    @pytest.mark.parametrize("key", ["risbench", "refsegrs"])
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk"])
    def test_other_encodings(self, tmp_path: Path, key: str, encoding: str) -> None:
        options = FIXTURES[key].build(tmp_path)
        path = tmp_path / "output_phrase_test.txt"
        name = path.read_text().split()[0]
        path.write_text(
            f"{name} 西边的船\r\n{name}\tthe harbour’s ship\u2028near it\n",
            encoding if encoding != "gbk" else "utf-8",
        )
        if encoding == "gbk":
            path.write_bytes(f"{name} 西边的船\n".encode("gbk"))
            with pytest.raises(UserError, match=r"output_phrase_test\.txt: it is not utf-8"):
                open_dataset(key, "test", **options)
            options["encoding"] = "gbk"
        queries = [sample.query for sample in open_dataset(key, "test", **options)]
        assert queries == ["西边的船", "the harbour’s ship\u2028near it"][: 1 if encoding == "gbk" else 2]

    def test_a_copy_with_one_split_is_not_taken_for_another(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="has no split 'test'; it has: train"):
            opened("refsegrs-table", tmp_path, "test")

    def test_thresholds_hold_in_tables(self, tmp_path: Path) -> None:
        scene = make_scene(0)
        grey = label(scene.things[0].mask())
        grey[:, scene.things[0].x1][grey[:, scene.things[0].x1] > 0] = 40
        rows = {"image": [png(scene.pixels)], "label": [png(grey)], "text": ["ship"]}
        write_shards(table(rows, images=("image", "label")), tmp_path, "test", 1)
        areas = [
            int(open_dataset("refsegrs", "test", root=tmp_path, threshold=threshold)[0].target_mask().sum())
            for threshold in (0, 50, 255)
        ]
        assert areas == [int((grey > 0).sum()), int((grey == 255).sum()), int((grey == 255).sum())]


class TestLasersEditions:
    def test_the_competitions_test_says_that_it_has_no_masks(self, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match=r"test_explicit\.json holds no masks: it is of the competition's"
        ):
            opened("lasers-competition", tmp_path, "explicit")

    def test_masks_beyond_the_segment_tokens(self, tmp_path: Path) -> None:
        options = FIXTURES["lasers"].build(tmp_path)
        path = tmp_path / "test" / "annotations" / "test_explicit.json"
        records = json.loads(path.read_text())
        records[2]["answer"] = "The ship is [SEG]."
        write_json(path, records)
        with pytest.raises(UserError, match=r"record 2: its answer has 1 \[SEG\], but.*2 masks.*masks=first"):
            open_dataset("lasers", "explicit", **options)[2]
        sample = open_dataset("lasers", "explicit", **options, masks="first")[2]
        assert np.array_equal(sample.target_mask(), make_scene(2).things[0].mask())

    def test_folders_looked_in(self, tmp_path: Path) -> None:
        FIXTURES["lasers"].build(tmp_path / "rs_reason_seg" / "LaSeRS")
        assert len(open_dataset("lasers", "explicit", root=tmp_path)) == 24


class TestDiorRsvgOdd:
    def odd(self, root: Path) -> dict[str, Any]:
        """Object 0 has no description; the box of object 2 leaves its image to the right."""
        options = FIXTURES["dior-rsvg"].build(root)
        path = root / "Annotations" / "00000.xml"
        text = path.read_text().replace("<description>the ship of scene 0</description>", "<description/>")
        thing = make_scene(0).things[2]
        path.write_text(text.replace(f"<xmax>{thing.x2}</xmax>", "<xmax>120</xmax>"))
        return options

    @pytest.mark.parametrize(
        ("rule", "count", "right"), [("keep", 29, 120.0), ("clip", 29, 96.0), ("leave_out", 28, None)]
    )
    def test_empty_descriptions_and_boxes_that_leave(
        self, tmp_path: Path, rule: str, count: int, right: float | None
    ) -> None:
        source = open_dataset("dior-rsvg", "test", **self.odd(tmp_path), outside=rule)
        left_out = dict(source.left_out)  # type: ignore[attr-defined]
        assert len(source) == count
        assert left_out.pop("objects without a description") == 1
        assert (len(left_out) == 1) == (rule == "leave_out")
        [box] = [s.boxes[0] for s in source if s.sample_id == "object-2"] or [None]
        assert (box[2] if box else None) == right

    def test_the_same_in_tables(self, tmp_path: Path) -> None:
        scene = make_scene(0)
        objects = {
            "bbox": [[2, 2, 120, 9], [2, 2, 9, 9], [3, 3, 9, 9]],
            "captions": ["wide", "", "fits"],
            "categories": ["a", "b", "c"],
            "categories_normalized": ["a", "b", "c"],
        }
        rows = {"image": [png(scene.pixels)], "path": ["0.jpg"], "objects": [objects]}
        write_shards(table(rows), tmp_path, "test", 1)
        boxes = {}
        for rule in ("keep", "clip", "leave_out"):
            source = open_dataset("dior-rsvg", "test", root=tmp_path, outside=rule)
            boxes[rule] = {sample.query: sample.boxes[0][2] for sample in source}
            assert source.left_out["objects without a description"] == 1  # type: ignore[attr-defined]
        assert boxes == {
            "keep": {"wide": 120, "fits": 9},
            "clip": {"wide": 96, "fits": 9},
            "leave_out": {"fits": 9},
        }

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "gbk"])
    def test_lists_and_xml_in_other_encodings(self, tmp_path: Path, encoding: str) -> None:
        options = FIXTURES["dior-rsvg"].build(tmp_path)
        listing = tmp_path / "test.txt"
        listing.write_text(listing.read_text(), "utf-8-sig")
        path = tmp_path / "Annotations" / "00000.xml"
        head = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n'
        path.write_text(head + path.read_text().replace("the ship of scene 0", "西边的船"), encoding)
        assert open_dataset("dior-rsvg", "test", **options)[0].query == "西边的船"


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "RefSegRS.zip").touch()
    with pytest.raises(UserError, match=r"It holds archives, which are to be unpacked first: RefSegRS\.zip"):
        open_dataset("refsegrs", "test", root=tmp_path)


def test_geoseg_bench_prompts(tmp_path: Path) -> None:
    tags = [dict(sample.tags) for sample in opened("geoseg-bench", tmp_path)]
    assert tags[:2] == [{"task": "interactive", "prompt": "points"}, {"task": "interactive", "prompt": "box"}]
    assert opened("geoseg-bench", tmp_path, "reasoning")[0].tags == {"task": "reasoning"}


def test_what_the_catalog_says_of_published_code_can_be_opened(tmp_path: Path) -> None:
    """The options named there exist and are taken."""
    options = FIXTURES["earthreason"].build(tmp_path / "e")
    from envs.datasets.catalog import CATALOG

    for chosen in CATALOG["earthreason"].as_published.values():
        assert len(open_dataset("earthreason", "val", **{**options, **chosen})) == 12
    options = FIXTURES["lasers"].build(tmp_path / "l")
    for chosen in CATALOG["lasers"].as_published.values():
        assert len(open_dataset("lasers", "explicit", **options, **chosen)) == 24
