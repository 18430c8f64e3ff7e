"""DRSeg, MUSE, MMR, StAR's tables and pairs of LISA's files, as they are published or met in the wild."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.datasets import open_dataset
from envs.datasets.reading.layouts.answer_lists import WITHOUT_OBJECT
from envs.datasets.reading.tables.table_samples import WITHOUT_QUESTION
from envs.masks import encode_rle, union
from envs.sample import SampleSource
from prompter.errors import UserError
from tests.fixtures.layouts import FIXTURES, lisa_file
from tests.fixtures.reasoning_layouts import build_star_table
from tests.fixtures.scenes import HEIGHT, WIDTH, make_scene, write_json
from tests.fixtures.tables import write_parquet

CASES = int(os.environ.get("PROMPTER_GENERATED_SETS", "40"))


def change(path: Path, number: int, **values: Any) -> None:
    """Change one record of a JSON list; None takes a key away."""
    records = json.loads(path.read_text())
    records[number] = {k: v for k, v in {**records[number], **values}.items() if v is not None}
    write_json(path, records)


class TestDrseg:
    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return FIXTURES["drseg"].build(tmp_path)

    @pytest.fixture
    def labels(self, tmp_path: Path, options: dict[str, Any]) -> Path:
        return tmp_path / "DRSeg" / "labels" / "DRSeg_test.json"

    def test_the_first_polygon_of_each_target_is_drawn(self, options: dict[str, Any]) -> None:
        first = open_dataset("drseg", "test", **options)
        every = open_dataset("drseg", "test", **options, polygons="all")
        things = make_scene(2).things
        assert np.array_equal(first[2].target_mask(), things[1].mask())
        assert np.array_equal(every[2].target_mask(), things[0].mask() | things[1].mask())

    def test_targets_are_told_apart_and_those_that_draw_nothing_left_out(
        self, options: dict[str, Any]
    ) -> None:
        source = open_dataset("drseg", "test", **options)
        assert [len(sample.instances) for sample in source][:4] == [2, 1, 1, 1]
        assert source[0].tags["multiplicity"] == "several"
        assert len(source.noted["nothing_drawn"]) == 10  # two in every fourth record

    def test_the_first_question_is_asked_and_its_kind_of_reasoning_kept(
        self, options: dict[str, Any]
    ) -> None:
        source = open_dataset("drseg", "test", **options)
        assert (len(source), source[1].query) == (20, "What stores oil in 1?")
        assert [sample.tags["reasoning"] for sample in source][:3] == ["spatial", "attribute", "scene"]
        assert len(open_dataset("drseg", "test", **options, question="all")) == 40

    def test_a_record_without_a_usable_target(self, options: dict[str, Any], labels: Path) -> None:
        """Refused, skipped, or evaluated as the authors' code does: the next record stands in for it."""
        change(labels, 5, ann_list=[{"segmentation": [3.0, 3.0, 8.0, 8.0]}])
        change(labels, 6, ann_list=[])
        with pytest.raises(
            UserError, match=r"DRSeg_test\.json, record 5: none of its targets draws anything"
        ):
            open_dataset("drseg", "test", **options)[5]
        assert len(open_dataset("drseg", "test", **options, skip_bad=True)) == 18
        published = list(open_dataset("drseg", "test", **options, unusable="next"))
        assert len({sample.sample_id for sample in published}) == 20
        assert [sample.query for sample in published[5:8]] == ["What stores oil in 7?"] * 3
        assert [sample.tags.get("record") for sample in published[4:8]] == [
            None,
            "repeated",
            "repeated",
            None,
        ]

    def test_records_without_questions_are_named(self, options: dict[str, Any], labels: Path) -> None:
        for questions in ([], [" "], "What?", [3]):
            change(labels, 3, questions=questions)
            with pytest.raises(UserError, match=r"DRSeg_test\.json, record 3: .*question"):
                open_dataset("drseg", "test", **options)
            assert len(open_dataset("drseg", "test", **options, skip_bad=True).skipped) == 1

    def test_a_record_of_another_size_than_its_image(self, options: dict[str, Any], labels: Path) -> None:
        polygon = [2 * value for value in make_scene(1).things[1].polygon()]
        record = {"height": 2 * HEIGHT, "width": 2 * WIDTH, "ann_list": [{"segmentation": polygon}]}
        change(labels, 1, **record)
        with pytest.raises(UserError, match="mask_size=resize"):
            open_dataset("drseg", "test", **options)[1]
        sample = open_dataset("drseg", "test", **options, mask_size="resize")[1]
        assert np.array_equal(sample.target_mask(), make_scene(1).things[1].mask())


class TestAnswerLists:
    def test_coco_s_years_may_lie_in_several_folders(self, tmp_path: Path) -> None:
        options = FIXTURES["muse"].build(tmp_path)
        assert not list(tmp_path.glob("MUSE/**/*.jpg"))  # beside it and above it, in two places
        assert len(list(open_dataset("muse", "test_less", **options))) == 24
        other = tmp_path / "MUSE" / "val2017"
        other.mkdir()
        shutil.move(tmp_path / "coco" / "val2017" / f"{4:012d}.jpg", other / "4.jpg")
        with pytest.raises(UserError, match=r"record 4, question 0: .*000000000004\.jpg"):
            open_dataset("muse", "test_less", **options)[8]
        shutil.move(other / "4.jpg", other / f"{4:012d}.jpg")
        assert len(list(open_dataset("muse", "test_less", **options))) == 24

    def test_a_year_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        options = FIXTURES["muse"].build(tmp_path)
        shutil.rmtree(tmp_path / "coco")
        with pytest.raises(UserError, match="of COCO's val2017, but there is no folder of that name"):
            open_dataset("muse", "test_less", **options)[0]
        shutil.rmtree(tmp_path / "refer_seg")
        with pytest.raises(UserError, match="no folder of COCO images"):
            open_dataset("muse", "test_less", **options)

    def test_mmr_leaves_out_questions_about_nothing(self, tmp_path: Path) -> None:
        source = open_dataset("mmr", "test_part", **FIXTURES["mmr"].build(tmp_path))
        assert source.left_out == {WITHOUT_OBJECT: 1}
        assert [len(sample.instances) for sample in source] == [1, 3] * 12
        assert {sample.tags["granularity"] for sample in source} == {"part"}

    def test_records_without_questions_are_counted(self, tmp_path: Path) -> None:
        options = FIXTURES["muse"].build(tmp_path)
        change(tmp_path / "MUSE" / "muse_test_less.json", 3, questions=[], answers=[])
        source = open_dataset("muse", "test_less", **options)
        assert (len(source), source.left_out) == (22, {WITHOUT_QUESTION: 1})

    def test_answers_that_do_not_match_their_questions_are_named(self, tmp_path: Path) -> None:
        options = FIXTURES["mmr"].build(tmp_path)
        for answers in ([[]], "none", [{"segmentation": []}, []], None):
            change(tmp_path / "MMR" / "MMR_test_part_only.json", 2, answers=answers)
            with pytest.raises(UserError, match=r"MMR_test_part_only\.json, record 2: "):
                open_dataset("mmr", "test_part", **options)
            assert len(open_dataset("mmr", "test_part", **options, skip_bad=True)) == 22


class TestStarTables:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def test_a_hub_dataset_of_another_split_is_refused_before_it_is_fetched(self) -> None:
        for place in ("sj9909/MMR_test_part", "hub:sj9909/MMR_test_mixed", "somebody/MMR"):
            with pytest.raises(UserError, match="is not named after the split 'test_obj' of 'mmr'"):
                open_dataset("mmr", "test_obj", root=place)

    def test_kinds_of_reasoning_are_tags(self, tmp_path: Path) -> None:
        source = open_dataset("reasonseg-x", "val", **FIXTURES["reasonseg-x"].build(tmp_path))
        assert [sample.tags["reasoning"] for sample in source][:3] == ["spatial", "commonsense", "attribute"]
        scene = make_scene(1)
        assert np.array_equal(source[3].target_mask(), scene.things[0].mask() | scene.things[1].mask())
        assert source[2].image_id == source[3].image_id

    def test_the_training_table_has_a_list_of_masks(self, tmp_path: Path) -> None:
        scenes = [make_scene(number) for number in range(3)]
        rows = {
            "image": [scene.pixels for scene in scenes],
            "problem": ["which?"] * 3,
            "solution_mask": [[thing.mask().tolist() for thing in scene.things] for scene in scenes],
        }
        write_parquet(
            tmp_path / "ReasonSegX_train" / "data" / "train-00000-of-00001.parquet", rows, images=("image",)
        )
        source = open_dataset("reasonseg-x", "train", root=tmp_path / "ReasonSegX_train")
        for scene, sample in zip(scenes, source, strict=True):
            masks = [thing.mask() for thing in scene.things]
            assert np.array_equal(sample.target_mask(), union(masks, (HEIGHT, WIDTH)))

    def test_a_table_as_the_library_saves_it(self, tmp_path: Path) -> None:
        """StAR's own script writes each split with `save_to_disk`."""
        import datasets

        build_star_table("raw", "train")(tmp_path)
        files = str(tmp_path / "raw" / "data" / "*.parquet")
        datasets.load_dataset("parquet", data_files=files)["train"].save_to_disk(
            tmp_path / "MMR" / "test_obj"
        )
        source = open_dataset("mmr", "test_obj", root=tmp_path / "MMR" / "test_obj")
        assert (len(source), source[0].tags["granularity"]) == (24, "object")


class TestPairsOfFiles:
    def pair(self, place: Path, image: str, annotation: str | None, number: int) -> None:
        make_scene(number).save(place / image)
        if annotation is not None:
            shape = {"label": "target", "points": make_scene(number).things[0].points()}
            lisa_file(place / annotation, [f"scene {number}"], [shape])

    def opened(self, root: Path, **options: Any) -> SampleSource:
        return open_dataset("reasonseg", "val", root=root, **options)

    def test_one_stem_in_two_folders_is_two_pairs(self, tmp_path: Path) -> None:
        self.pair(tmp_path / "val" / "a", "1.jpg", "1.json", 1)
        self.pair(tmp_path / "val" / "b", "1.jpg", "1.json", 2)
        self.pair(tmp_path / "val" / "b", "2.png", "2.json", 3)
        source = self.opened(tmp_path)
        assert [sample.sample_id for sample in source] == ["2/0", "a/1/0", "b/1/0"]
        for sample, number in zip(source, (3, 1, 2), strict=True):
            assert sample.query == f"scene {number}"
            assert np.array_equal(sample.target_mask(), make_scene(number).things[0].mask())

    def test_generated_trees_are_paired_as_they_lie(self, tmp_path: Path) -> None:
        draw = random.Random(0)
        for tree in range(12):
            places = ["", "a", "b", "a/c"]
            wanted = set(draw.sample([(p, str(n)) for p in places for n in range(3)], draw.randrange(1, 9)))
            for number, (place, stem) in enumerate(sorted(wanted)):
                suffix = draw.choice([".jpg", ".png", ".jpeg"])
                self.pair(tmp_path / str(tree) / "val" / place, stem + suffix, f"{stem}.json", number)
            found = {sample.query: sample for sample in self.opened(tmp_path / str(tree))}
            assert set(found) == {f"scene {number}" for number in range(len(wanted))}
            for number in range(len(wanted)):
                mask = found[f"scene {number}"].target_mask()
                assert np.array_equal(mask, make_scene(number).things[0].mask())

    def test_files_in_folders_of_their_own_are_found_by_a_stem_that_only_they_have(
        self, tmp_path: Path
    ) -> None:
        for number in range(3):
            self.pair(tmp_path / "val" / "images", f"{number}.jpg", None, number)
            shape = {"label": "target", "points": make_scene(number).things[0].points()}
            lisa_file(tmp_path / "val" / "jsons" / f"{number}.json", [f"scene {number}"], [shape])
        assert [sample.image_id for sample in self.opened(tmp_path)] == ["0", "1", "2"]
        self.pair(tmp_path / "val" / "more", "1.jpg", None, 7)
        with pytest.raises(UserError, match=r"two images for '1', .*images/1\.jpg and .*more/1\.jpg"):
            self.opened(tmp_path)
        source = self.opened(tmp_path, skip_bad=True)
        assert (len(source), len(source.skipped)) == (2, 1)

    def test_chinese_text_is_refused_or_read_by_its_encoding(self, tmp_path: Path) -> None:
        self.pair(tmp_path / "val", "1.jpg", "1.json", 1)
        path = tmp_path / "val" / "1.json"
        path.write_bytes(path.read_text().replace("scene 1", "港口里的船").encode("gbk"))
        with pytest.raises(UserError, match=r"1\.json: it is not utf-8 .*encoding=gbk"):
            self.opened(tmp_path)
        assert self.opened(tmp_path, encoding="gbk")[0].query == "港口里的船"
        path.write_bytes(
            path.read_bytes().decode("gbk").replace("港口里的船", "für den Süden").encode("cp1252")
        )
        assert self.opened(tmp_path)[0].query == "für den Süden"  # as LISA's own loader reads it
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().decode("cp1252").encode("utf-8"))
        assert self.opened(tmp_path)[0].query == "für den Süden"

    def test_a_list_of_gres_may_begin_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        options = FIXTURES["gres"].build(tmp_path)
        path = tmp_path / "gres_annotations" / "test" / "test.txt"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert len(open_dataset("gres", "test", **options)) == 22


def test_vrsbench_tells_unique_by_a_boolean_or_its_text(tmp_path: Path) -> None:
    source = open_dataset("vrsbench", "val", **FIXTURES["vrsbench"].build(tmp_path))
    assert [sample.tags["unique"] for sample in source][:4] == ["yes", "no", "yes", "no"]


# --- generated sets: what is read is right, what cannot be is refused by name, what draws nothing counted ---


def generated_target(draw: random.Random, polygon: list[float]) -> tuple[Any, str]:
    """A target of DRSeg as it may be written, and what becomes of it: drawn, nothing, or refused."""
    beside = [value + 1.0 for value in polygon]
    nothing = [[5.0, 5.0], [5.0, 5.0, 9.0, 9.0], [7.0, 7.0] * 4, [value + 900.0 for value in polygon]]
    return draw.choice(
        [
            (polygon, "drawn"),
            ([polygon], "drawn"),
            ([polygon, beside], "drawn"),
            ([polygon, [3.0, 3.0]], "drawn"),
            (draw.choice(nothing), "nothing"),
            ([draw.choice(nothing), polygon], "nothing"),
            (draw.choice(["", [], None, 7, {"counts": ""}, [*polygon, 1.0], ["x"] * 6]), "refused"),
        ]
    )


@pytest.mark.parametrize("seed", range(CASES))
def test_a_generated_drseg_is_read_as_it_was_meant(pictures: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    records, expected, refused = [], {}, 0
    for number in range(8):
        things = make_scene(number % 4).things
        written = [(thing, *generated_target(draw, thing.polygon())) for thing in draw.sample(things, 2)]
        questions = draw.choice([[f"Which of {number}?"], [f" Which of {number}?\n", "And that?"], [], [" "]])
        record = {
            "id": draw.choice([str, int])(number % 4),
            "height": HEIGHT,
            "width": WIDTH,
            "ann_list": [{"segmentation": shape} for _, shape, _ in written],
            "questions": questions,
            "answers": [],
            "reasoning_types": draw.choice([["scene"], "scene", []]),
        }
        records.append(record)
        outcomes = {outcome for _, _, outcome in written}
        is_asked = questions not in ([], [" "])
        if is_asked and "refused" not in outcomes and "drawn" in outcomes:
            masks = [thing.mask() for thing, _, outcome in written if outcome == "drawn"]
            expected[f"Which of {number}?"] = union(masks, (HEIGHT, WIDTH)).tolist()
        else:
            refused += 1
    encoding = draw.choice(["utf-8", "utf-8-sig"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "DRSeg_val.json").write_text(json.dumps(records), encoding=encoding)
    (tmp_path / "CODrone").mkdir()
    (tmp_path / "CODrone" / "DRval").symlink_to(pictures)
    if not expected:
        with pytest.raises(UserError, match="holds no usable record"):
            open_dataset("drseg", "val", root=tmp_path, skip_bad=True)
        return
    source = open_dataset("drseg", "val", root=tmp_path, skip_bad=True)
    assert {sample.query: sample.target_mask().tolist() for sample in source} == expected
    assert len(source.skipped) == refused
    assert all("DRSeg_val.json, record " in sentence for sentence in source.skipped)


@pytest.mark.parametrize("seed", range(CASES))
def test_a_generated_mmr_is_read_as_it_was_meant(pictures: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    records, expected, refused, left_out = [], {}, 0, Counter()
    for number in range(8):
        things = make_scene(number % 4).things
        answers = [draw.sample(things, draw.randrange(4)) for _ in range(draw.randrange(3))]
        questions = [f"What is {number}.{index}?" for index in range(len(answers))]
        is_whole = draw.random() < 0.8
        objects = [[{"segmentation": encode_rle(one.mask())} for one in answer] for answer in answers]
        record = {
            "file_name": f"train2017/{number % 4}.jpg",
            "questions": questions if is_whole else [*questions, "One more?"],
            "answers": objects,
        }
        records.append(record)
        if not is_whole:
            refused += 1
            continue
        left_out[WITHOUT_QUESTION] += not answers
        left_out[WITHOUT_OBJECT] += sum(not answer for answer in answers)
        for question, answer in zip(questions, answers, strict=True):
            if answer:
                expected[question] = union([one.mask() for one in answer], (HEIGHT, WIDTH)).tolist()
    write_json(tmp_path / "MMR_val.json", records)
    (tmp_path / "train2017").symlink_to(pictures)
    if not expected:
        with pytest.raises(UserError, match="holds no usable record"):
            open_dataset("mmr", "val", root=tmp_path, skip_bad=True)
        return
    source = open_dataset("mmr", "val", root=tmp_path, skip_bad=True)
    assert {sample.query: sample.target_mask().tolist() for sample in source} == expected
    assert len(source.skipped) == refused
    assert Counter(source.left_out) == +left_out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        make_scene(number).save(folder / f"{number}.jpg")
    return folder
