"""The copies of the sets as tables: which split and columns are meant, and what a row asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.datasets import open_dataset
from envs.sample import SampleSource
from prompter.errors import UserError
from tests.fixtures.layouts import FIXTURES
from tests.fixtures.scenes import make_scene
from tests.fixtures.table_layouts import build_earthreason_fs, label, png, table, write_shards


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def opened(key: str, root: Path, split: str | None = None, **changes: Any) -> SampleSource:
    fixture = FIXTURES[key]
    return open_dataset(fixture.name, split or fixture.split, **{**fixture.build(root), **changes})


class TestFewShots:
    @pytest.mark.parametrize(
        ("split", "count"), [("train_1shot", 4), ("train_5shot", 20), ("train_10shot", 8)]
    )
    def test_shots_are_splits(self, tmp_path: Path, split: str, count: int) -> None:
        assert len(opened("earthreason-fs", tmp_path, split)) == count

    def test_shots_are_never_joined_to_train(self, tmp_path: Path) -> None:
        with pytest.raises(
            UserError, match="several that may be meant: train_10shot, train_1shot, train_5shot"
        ):
            opened("earthreason-fs", tmp_path, "train")
        chosen = opened("earthreason-fs", tmp_path / "again", "train", table_split="train_5shot")
        assert (len(chosen), chosen.split) == (20, "train")

    def test_by_hub_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library gives a dictionary of the card's splits, as it does here for a local copy."""
        import datasets

        load = datasets.load_dataset
        build_earthreason_fs(tmp_path / "copy")
        asked: list[str] = []

        def by_id(place: str, **options: Any) -> Any:
            if options:  # one of ours, for a local folder
                return load(place, **options)
            asked.append(place)
            return load(str(tmp_path / "copy"))

        monkeypatch.setattr(datasets, "load_dataset", by_id)
        for root in ("omlab/EarthReason-FS", "hub:omlab/EarthReason-FS"):
            local = open_dataset("earthreason", "test", root=tmp_path / "copy")
            for ours, theirs in zip(local, open_dataset("earthreason", "test", root=root), strict=True):
                assert ours == theirs
                assert np.array_equal(ours.image_array(), theirs.image_array())
        assert asked == ["omlab/EarthReason-FS"] * 2

    def test_a_mistyped_path_is_not_asked_of_the_hub(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("the hub was asked"))
        build_earthreason_fs(tmp_path / "data" / "EarthReason")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(
            UserError, match=r"There is no folder 'data/EarthReson'\. Did you mean 'EarthReason'\?"
        ):
            open_dataset("earthreason", "test", root="data/EarthReson")

    def test_an_id_that_cannot_be_loaded_may_be_a_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        def unreachable(place: str) -> Any:
            raise ConnectionError(f"Couldn't reach {place!r} on the Hub")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(
            UserError, match="there is no local folder 'omlba/X', and as a dataset on the hub"
        ):
            open_dataset("earthreason", "test", root="omlba/X")


class TestEarthReasonTables:
    def rows(self, root: Path, **changes: list[Any]) -> Path:
        scenes = [make_scene(number) for number in range(4)]
        rows: dict[str, list[Any]] = {
            "image": [png(scene.pixels) for scene in scenes],
            "mask": [png(label(scene.things[0].mask())) for scene in scenes],
            "question": ["a?", "b?", "c?", "d?"],
            **changes,
        }
        write_shards(table(rows, images=("image", "mask")), root, "test", 1)
        return root

    def test_the_first_question_is_one_of_an_image_not_of_a_row(self, tmp_path: Path) -> None:
        """A copy with a row for each question: rows of equal pixels are one image."""
        pixels = [png(make_scene(number).pixels) for number in (0, 0, 1, 0)]
        root = self.rows(tmp_path, image=pixels)
        first = open_dataset("earthreason", "test", root=root)
        assert [(s.query, s.image_id) for s in first] == [("a?", "row-0"), ("c?", "row-2")]
        every = open_dataset("earthreason", "test", root=root, question="all")
        assert [s.image_id for s in every] == ["row-0", "row-0", "row-0", "row-2"]
        by_name = self.rows(tmp_path / "named", image_id=["x", "y", "y", "y"])
        assert [s.query for s in open_dataset("earthreason", "test", root=by_name)] == ["a?", "b?"]

    def test_columns_can_be_named(self, tmp_path: Path) -> None:
        root = self.rows(tmp_path, wording=["e?", "f?", "g?", "h?"])
        source = open_dataset("earthreason", "test", root=root, columns={"text": "wording"})
        assert [sample.query for sample in source] == ["e?", "f?", "g?", "h?"]
        with pytest.raises(UserError, match=r"has no column 'gone'; it has: image, mask, question, wording"):
            open_dataset("earthreason", "test", root=root, columns={"mask": "gone"})
        with pytest.raises(UserError, match=r"option 'columns' has no part 'txt'\. Did you mean 'text'\?"):
            open_dataset("earthreason", "test", root=root, columns={"txt": "wording"})

    def test_rows_without_a_question_are_left_out_and_counted(self, tmp_path: Path) -> None:
        root = self.rows(tmp_path, question=["a?", "", " ", "d?"])
        source = open_dataset("earthreason", "test", root=root)
        assert [sample.query for sample in source] == ["a?", "d?"]
        assert source.left_out == {"records without a question": 2}  # type: ignore[attr-defined]

    def test_a_list_of_two_images_says_not_which_is_meant(self, tmp_path: Path) -> None:
        two = [[png(make_scene(number).pixels)] * (1 + number) for number in range(2)]
        rows = {
            "images": two,
            "problem": ["a?", "b?"],
            "mask": [label(make_scene(n).things[0].mask()).tolist() for n in (0, 1)],
        }
        write_shards(table(rows, images=(), lists=("images",)), tmp_path / "data", "test", 1)
        with pytest.raises(UserError, match=r"row 1, column 'images': it must hold one image, but holds 2"):
            open_dataset("earthreason", "test", root=tmp_path)
        assert len(open_dataset("earthreason", "test", root=tmp_path, skip_bad=True)) == 1


class TestRefCocoTables:
    def test_only_the_split_and_the_splitting_asked_for(self, tmp_path: Path) -> None:
        options = FIXTURES["refcoco-images"].build(tmp_path)
        assert len(open_dataset("refcoco", "val", **options)) == 8 * 3 * 2
        assert len(open_dataset("refcoco", "val", **options, split_by="google")) == 3 * 3 * 2
        assert len(open_dataset("refcocog", "val", **options)) == 2 * 3 * 2
        with pytest.raises(
            UserError, match=r"has no split 'val'; it has: refcoco_google_val, refcoco_unc_val"
        ):
            open_dataset("refcoco+", "val", **options)

    def test_wordings(self, tmp_path: Path) -> None:
        options = FIXTURES["refcoco-images"].build(tmp_path)
        assert open_dataset("refcoco", "val", **options)[0].query == "the ship of 0 0"
        assert open_dataset("refcoco", "val", **options, text="raw")[0].query == "The Ship of 0 (0)."

    def test_the_sentences_are_asked_not_the_prompt_that_all_share(self, tmp_path: Path) -> None:
        assert [s.query for s in opened("refcoco-references", tmp_path)][:2] == [
            "the ship of 0",
            "left ship 0",
        ]


class TestJsonLines:
    def test_lines_are_read_as_they_are_written(self, tmp_path: Path) -> None:
        """No type is guessed of a column: dates stay text, and a key may be missing in a line."""
        scene = make_scene(0)
        scene.save(tmp_path / "a.png")
        polygon = [scene.things[0].polygon()]
        lines = [
            {"image": "a.png", "question": "2024-01-01T00:00:00", "mask": polygon},
            {"image": "a.png", "question": "12", "mask": None, "extra": 1},
            {"image": "a.png", "question": "none"},
        ]
        (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        source = open_dataset("risbench", "test", root=tmp_path)
        assert [sample.query for sample in source] == ["2024-01-01T00:00:00", "12", "none"]
        assert [bool(sample.target_mask().any()) for sample in source] == [True, False, False]

    def test_a_broken_line_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "test.jsonl").write_text('{"image": "a.png", "question": "a", "mask": null}\n{"image": ')
        with pytest.raises(UserError, match=r"test\.jsonl, record 1"):
            open_dataset("risbench", "test", root=tmp_path)
