"""What the published files do that a straightforward loader gets wrong, each on a miniature of the set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.datasets import open_dataset
from envs.datasets.vrsbench import percent_box
from envs.masks import decode_rle, encode_rle
from envs.sample import Sample, SampleSource
from prompter.errors import UserError
from tests.fixtures.layouts import FETCHED, FIXTURES, build_lasers, lisa_file, write_parquet
from tests.fixtures.refer_layouts import build_rrsis_d
from tests.fixtures.scenes import HEIGHT, WIDTH, make_scene, write_json


def opened(key: str, root: Path, split: str | None = None, **changes: Any) -> SampleSource:
    fixture = FIXTURES[key]
    options = fixture.build(root)
    return open_dataset(fixture.name, split or fixture.split, **{**options, **changes})


def by_image(source: SampleSource) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in source:
        groups.setdefault(sample.image_id, []).append(sample)
    return groups


class TestEarthReason:
    def test_question_rules(self, tmp_path: Path) -> None:
        every = by_image(opened("earthreason", tmp_path))
        assert {len(samples) for samples in every.values()} == {2, 3, 4}
        first = opened("earthreason", tmp_path, question="first")
        assert [s.query for s in first] == [samples[0].query for samples in every.values()]
        drawn = opened("earthreason", tmp_path, question="random:0")
        again = opened("earthreason", tmp_path, question="random:0")
        other = opened("earthreason", tmp_path, question="random:1")
        assert len(drawn) == len(every)
        assert [s.query for s in drawn] == [s.query for s in again]
        assert [s.query for s in drawn] != [s.query for s in other]
        assert all(s.query in {one.query for one in every[s.image_id]} for s in drawn)

    def test_questions_of_one_image_share_its_mask(self, tmp_path: Path) -> None:
        for samples in by_image(opened("earthreason", tmp_path)).values():
            assert len({str(sample.target) for sample in samples}) == 1

    def test_an_empty_answer_means_no_target_and_needs_no_label(self, tmp_path: Path) -> None:
        groups = by_image(opened("earthreason", tmp_path))
        assert not (tmp_path / "val" / "labels" / "val_000.png").exists()
        assert [s.tags["target"] for s in groups["val_000"]] == ["none", "none"]
        assert not groups["val_000"][0].target_mask().any()

    def test_any_value_that_is_not_zero_is_target(self, tmp_path: Path) -> None:
        """Label values in the fixture run from 21 to 221."""
        for number, samples in enumerate(by_image(opened("earthreason", tmp_path)).values()):
            if number:
                assert np.array_equal(samples[0].target_mask(), make_scene(number).things[0].mask())

    def test_a_missing_label_shifts_nothing(self, tmp_path: Path) -> None:
        """Pairing sorted lists, as SegEarth-R1 does, would give every later image its neighbour's mask."""
        options = FIXTURES["earthreason"].build(tmp_path)
        (tmp_path / "val" / "labels" / "val_003.png").unlink()
        with pytest.raises(UserError, match="there is no label for 'val_003'"):
            open_dataset("earthreason", "val", **options)
        source = open_dataset("earthreason", "val", **options, skip_bad=True)
        assert len(source.skipped) == 1
        for stem, samples in by_image(source).items():
            number = int(stem[-3:])
            if number:
                assert np.array_equal(samples[0].target_mask(), make_scene(number).things[0].mask())

    def test_an_unknown_question_rule_is_refused(self, tmp_path: Path) -> None:
        for rule in ("last", "random", "random:x", "first:1"):
            with pytest.raises(UserError, match="'question' of dataset 'earthreason' must be"):
                opened("earthreason", tmp_path, question=rule)

    def test_roots_seen_in_the_wild(self, tmp_path: Path) -> None:
        FIXTURES["earthreason"].build(tmp_path / "rs_reason_seg" / "RSReasonSeg")
        assert len(open_dataset("earthreason", "test", root=tmp_path)) == 12
        assert len(open_dataset("earthreason", "val", root=tmp_path)) == 12


class TestRrsisD:
    def test_overlaps_of_parts_count_once_or_drop_out(self, tmp_path: Path) -> None:
        thing = make_scene(0).things[0]
        joined = opened("rrsis-d", tmp_path)[0].target_mask()
        assert np.array_equal(joined, thing.mask())
        reference = opened("rrsis-d", tmp_path, overlap="reference")[0].target_mask()
        left = thing.mask()
        left[:, (thing.x1 + thing.x2) // 2 :] = False
        assert np.array_equal(reference, left)

    def test_the_boxes_of_another_frame_are_not_used(self, tmp_path: Path) -> None:
        assert all(sample.boxes == () for sample in opened("rrsis-d", tmp_path))

    def test_only_the_split_asked_for_and_the_raw_wording(self, tmp_path: Path) -> None:
        assert len(opened("rrsis-d", tmp_path)) == 8 * 3
        assert len(opened("rrsis-d", tmp_path, split="train")) == 1
        sample = opened("rrsis-d", tmp_path)[0]
        assert sample.query == "The Ship of 0."
        assert sample.tags["category"] == "ship"


class TestPhraseSets:
    @pytest.mark.parametrize(("threshold", "grey_counts"), [(0, True), (50, False), (255, False)])
    def test_refsegrs_thresholds(self, tmp_path: Path, threshold: int, grey_counts: bool) -> None:
        thing = make_scene(0).things[0]
        target = opened("refsegrs", tmp_path, threshold=threshold)[0].target_mask()
        assert target[thing.y1, thing.x1] == grey_counts
        assert target[thing.y1, thing.x1 + 1]

    def test_another_threshold_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="must be one of"):
            opened("refsegrs", tmp_path, threshold=10)

    def test_risbench_val_names_train_images(self, tmp_path: Path) -> None:
        source = opened("risbench-val", tmp_path)
        assert {sample.image_id.split("_")[0] for sample in source} == {"train"}
        assert {sample.split for sample in source} == {"val"}

    def test_labels_of_one_and_of_three_channels_are_alike(self, tmp_path: Path) -> None:
        for samples, number in zip(by_image(opened("risbench", tmp_path)).values(), range(12), strict=True):
            assert np.array_equal(samples[0].target_mask(), make_scene(number).things[0].mask())

    def test_risbench_folders_under_their_other_names(self, tmp_path: Path) -> None:
        FIXTURES["risbench"].build(tmp_path)
        (tmp_path / "img_rgb").rename(tmp_path / "images")
        (tmp_path / "mask").rename(tmp_path / "masks")
        assert len(open_dataset("risbench", "test", root=tmp_path)) == 24

    def test_a_line_without_a_phrase_is_named(self, tmp_path: Path) -> None:
        options = FIXTURES["risbench"].build(tmp_path)
        path = tmp_path / "output_phrase_test.txt"
        path.write_text(path.read_text() + "\ntest_0_0.png\n")
        with pytest.raises(UserError, match=r"output_phrase_test\.txt, line 25: it must be a name"):
            open_dataset("risbench", "test", **options)
        assert len(open_dataset("risbench", "test", **options, skip_bad=True).skipped) == 1


class TestLasers:
    AXES = ("short_query", "long_query", "explicit", "implicit", "single_cate", "multi_cate")

    def test_nine_axes(self, tmp_path: Path) -> None:
        build_lasers(tmp_path)
        for axis in (*self.AXES, "instance_level", "part_level", "semantic_level"):
            assert {sample.tags["axis"] for sample in open_dataset("lasers", axis, root=tmp_path)} == {axis}

    def test_one_mask_per_segment_token_in_order(self, tmp_path: Path) -> None:
        for number, sample in enumerate(opened("lasers", tmp_path)):
            expected = [encode_rle(thing.mask()) for thing in make_scene(number).things[: number % 4]]
            assert list(sample.instances) == expected

    def test_an_absent_mask_means_no_target(self, tmp_path: Path) -> None:
        source = opened("lasers", tmp_path)
        counts = Counter(sample.tags["multiplicity"] for sample in source)
        assert counts == {"none": 6, "one": 6, "several": 12}

    def test_fewer_masks_than_segment_tokens_is_named(self, tmp_path: Path) -> None:
        build_lasers(tmp_path)
        path = tmp_path / "test" / "annotations" / "test_explicit.json"
        records = json.loads(path.read_text())
        records[2]["mask"].pop()
        write_json(path, records)
        source = open_dataset("lasers", "explicit", root=tmp_path)
        with pytest.raises(UserError, match=r"test_explicit\.json, record 2: its answer has 2 \[SEG\], but"):
            source[2]
        assert len(open_dataset("lasers", "explicit", root=tmp_path, skip_bad=True)) == 23


class TestLisaStyle:
    def test_ignored_pixels_are_no_target(self, tmp_path: Path) -> None:
        """The ignored area inside the target comes first in the file; being smaller, it is drawn last."""
        sample = by_image(opened("reasonseg", tmp_path))["1"][0]
        assert sample.ignore is not None
        ignore, thing = decode_rle(sample.ignore), make_scene(1).things[0]
        assert int(ignore.sum()) == 9
        assert np.array_equal(sample.target_mask() | ignore, thing.mask())

    def test_a_flag_is_not_drawn(self, tmp_path: Path) -> None:
        sample = by_image(opened("reasonseg", tmp_path))["2"][0]
        assert np.array_equal(sample.target_mask(), make_scene(2).things[0].mask())

    def test_cp1252(self, tmp_path: Path) -> None:
        sample = by_image(opened("reasonseg", tmp_path))["3"][0]
        assert sample.query == "Wo liegt das Frachtstück für den Süden?"

    def test_short_and_long_questions(self, tmp_path: Path) -> None:
        groups = by_image(opened("reasonseg", tmp_path))
        assert groups["4"][0].tags["length"] == "short"
        assert groups["5"][0].tags["length"] == "long"

    def test_evaluation_asks_the_first_text_and_training_all(self, tmp_path: Path) -> None:
        assert len(opened("reasonseg", tmp_path)) == 20
        assert len(opened("reasonseg", tmp_path, split="train")) == 40
        assert len(opened("reasonseg", tmp_path, texts="all")) == 40

    def test_an_image_without_annotation_is_named(self, tmp_path: Path) -> None:
        options = FIXTURES["reasonseg"].build(tmp_path)
        (tmp_path / "ReasonSeg" / "val" / "7.json").unlink()
        with pytest.raises(UserError, match=r"7\.jpg has no annotation 7\.json"):
            open_dataset("reasonseg", "val", **options)

    def test_outline_pixels_belong_to_the_polygon(self, tmp_path: Path) -> None:
        """LISA draws outline and inside: a polygon from (10, 5) to (20, 9) covers 11 x 5 pixels."""
        make_scene(0).save(tmp_path / "val" / "0.jpg")
        corners = [[10.7, 5.2], [20.0, 5.9], [20.9, 9.1], [10.0, 9.9]]
        lisa_file(tmp_path / "val" / "0.json", ["it"], [{"label": "target", "points": corners}])
        target = open_dataset("reasonseg", "val", root=tmp_path)[0].target_mask()
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[5:10, 10:21] = True
        assert np.array_equal(target, expected)

    def test_gres_lists_name_ids_twice(self, tmp_path: Path) -> None:
        assert len(opened("gres", tmp_path)) == 22
        assert len(opened("gres", tmp_path, split="train")) == 66

    def test_gres_small_and_large_by_area(self, tmp_path: Path) -> None:
        whole = opened("gres", tmp_path)
        small = opened("gres", tmp_path, split="test_small")
        large = opened("gres", tmp_path, split="test_large")
        assert 0 < len(small) < len(whole)
        assert len(small) + len(large) == len(whole)
        assert max(int(s.target_mask().sum()) for s in small) < 500
        assert min(int(s.target_mask().sum()) for s in large) >= 500
        assert {sample.tags["size"] for sample in small} == {"small"}


class TestReferSets:
    def test_nwpu_joins_the_targets_of_one_expression(self, tmp_path: Path) -> None:
        [sample] = [s for s in opened("nwpu-refer", tmp_path) if s.query == "Everything in scene 2."]
        assert len(sample.instances) == 3
        assert sample.tags["multiplicity"] == "several"

    def test_nwpu_forms_of_segmentation(self, tmp_path: Path) -> None:
        samples = {sample.query: sample for sample in opened("nwpu-refer", tmp_path)}
        by_rle = samples["The Tank of 0, wording 0."]
        assert np.array_equal(by_rle.target_mask(), make_scene(0).things[1].mask())
        by_box = samples["The Ship of 1, wording 0."]
        assert np.array_equal(by_box.target_mask(), make_scene(1).things[0].mask())
        nothing = samples["The Tank of 1, wording 0."]
        assert nothing.tags["multiplicity"] == "none"
        assert nothing.instances == ()

    def test_nwpu_languages(self, tmp_path: Path) -> None:
        english = [sample.query for sample in opened("nwpu-refer", tmp_path)]
        every = [sample.query for sample in opened("nwpu-refer", tmp_path, language="all")]
        assert set(every) - set(english) == {"船只"}

    def test_refcoco_takes_the_image_name_from_the_coco_file(self, tmp_path: Path) -> None:
        source = opened("refcoco", tmp_path)
        assert Path(source[0].load_image.path).name == "00000.jpg"  # type: ignore[attr-defined]
        assert source[0].query == "the ship of 0 wording 0"
        assert opened("refcoco", tmp_path, text="raw")[0].query == "The Ship of 0, wording 0."

    def test_refcoco_images_elsewhere(self, tmp_path: Path) -> None:
        options = FIXTURES["refcoco"].build(tmp_path / "a")
        images = tmp_path / "coco"
        (tmp_path / "a" / "images" / "mscoco" / "images" / "train2014").rename(images)
        with pytest.raises(UserError, match="COCO's train2014 images"):
            open_dataset("refcoco", "val", **options)
        assert len(open_dataset("refcoco", "val", **options, images=images)) == 48

    def test_grefcoco_one_several_and_none(self, tmp_path: Path) -> None:
        counts = Counter(sample.tags["multiplicity"] for sample in opened("grefcoco", tmp_path))
        assert counts == {"one": 16, "several": 16, "none": 16}

    def test_an_unknown_annotation_is_named_and_can_be_skipped(self, tmp_path: Path) -> None:
        options = FIXTURES["grefcoco"].build(tmp_path)
        path = tmp_path / "grefcoco" / "grefs(unc).json"
        refs = json.loads(path.read_text())
        refs[0]["ann_id"] = [12345]
        write_json(path, refs)
        with pytest.raises(UserError, match=r"reference 0: its annotation 12345 is not among"):
            open_dataset("grefcoco", "val", **options)
        source = open_dataset("grefcoco", "val", **options, skip_bad=True)
        assert (len(source), len(source.skipped)) == (46, 1)

    def test_an_image_of_another_size_than_its_record_is_named(self, tmp_path: Path) -> None:
        options = build_rrsis_d(tmp_path)
        path = tmp_path / "rrsisd" / "instances.json"
        data = json.loads(path.read_text())
        data["images"][0]["height"] = 10
        write_json(path, data)
        with pytest.raises(UserError, match=r"00000\.jpg: it is 64 x 96 .* says 10 x 96"):
            open_dataset("rrsis-d", "test", **options)[0]


class TestBoxSets:
    def test_vrsbench_percent_boxes_scale_each_side(self) -> None:
        assert percent_box("{<25><40><33><60>}", (200, 50)) == (50.0, 20.0, 66.0, 30.0)
        for bad in ("{<25><40><33>}", "[25, 40, 33, 60]", "{<25><40><33><101>}", None):
            with pytest.raises(ValueError, match="ground_truth"):
                percent_box(bad, (200, 50))

    def test_vrsbench_keeps_boxes_without_area(self, tmp_path: Path) -> None:
        source = opened("vrsbench", tmp_path)
        assert len(source) == 20
        assert [s.tags.get("box") for s in source] == [None] * 19 + ["degenerate"]

    def test_dior_rsvg_counts_objects_through_all_files(self, tmp_path: Path) -> None:
        source = opened("dior-rsvg", tmp_path)
        assert [s.query for s in source][:3] == [
            "the ship of scene 0",
            "the court of scene 0",
            "the tank of scene 1",
        ]

    def test_dior_rsvg_object_that_does_not_exist(self, tmp_path: Path) -> None:
        options = FIXTURES["dior-rsvg"].build(tmp_path)
        (tmp_path / "test.txt").write_text("0\n60\n")
        with pytest.raises(UserError, match="object 60 does not exist; the files hold 60"):
            open_dataset("dior-rsvg", "test", **options)


class TestHubTables:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def test_a_port_of_another_split_is_refused(self, tmp_path: Path) -> None:
        """The ports call their only split "test", so that ReasonSeg_val would pass for the test split."""
        options = FIXTURES["reasonseg-port"].build(tmp_path)
        with pytest.raises(UserError, match="has no split 'test'"):
            open_dataset("reasonseg", "test", **options)

    def test_a_missing_column_is_named(self, tmp_path: Path) -> None:
        rows = {"image": [make_scene(0).pixels], "words": ["it"]}
        write_parquet(tmp_path / "port" / "test.parquet", rows, images=("image",))
        with pytest.raises(UserError, match="has no column 'text' or 'question'; it has: image, words"):
            open_dataset("reasonseg", "test", root=tmp_path / "port")

    def test_a_mask_of_another_size_is_named(self, tmp_path: Path) -> None:
        rows = {"image": [make_scene(0).pixels], "text": ["it"], "mask": [np.zeros((8, 9), np.uint8)]}
        write_parquet(tmp_path / "port" / "test.parquet", rows, images=("image", "mask"))
        source = open_dataset("reasonseg", "test", root=tmp_path / "port")
        with pytest.raises(UserError, match="row 0, column 'mask': it is 8 x 9"):
            source[0]

    def test_questions_beside_an_image_share_it(self, tmp_path: Path) -> None:
        source = opened("earthreason-parquet", tmp_path)
        assert len(source) == 24
        assert source[0].image_id == source[1].image_id
        assert source[0].tags["target"] == "none"


@pytest.mark.parametrize("key", [key for key in FIXTURES if key not in {"manifest", *FETCHED}])
def test_a_set_that_is_missing_says_where_it_was_looked_for(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture = FIXTURES[key]
    monkeypatch.delenv("PROMPTER_DATA", raising=False)
    with pytest.raises(UserError, match=r"\$PROMPTER_DATA is not set"):
        open_dataset(fixture.name, fixture.split)
    monkeypatch.setenv("PROMPTER_DATA", str(tmp_path))
    with pytest.raises(UserError) as caught:
        open_dataset(fixture.name, fixture.split)
    message = str(caught.value)
    assert str(tmp_path / fixture.name) in message
    assert "Expected layout:\n  " in message
    assert "Where to get it: " in message


def test_a_set_is_found_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FIXTURES["risbench"].build(tmp_path / "risbench")
    monkeypatch.setenv("PROMPTER_DATA", str(tmp_path))
    assert len(open_dataset("risbench", "test")) == 24
