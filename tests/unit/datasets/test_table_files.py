"""Which files are a table's, which split is meant, and what is a hub id; an oracle made the names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.datasets.reading.tables.hub import is_hub_id
from envs.datasets.reading.tables.table_files import holds_table, pick_split, table_files
from prompter.errors import UserError

NAMES = st.sampled_from(
    ["train", "train_1shot", "train_5shot", "val", "validation", "test", "testA", "refcoco_unc_val", "scenes"]
)
KINDS = st.sampled_from([".parquet", ".arrow", ".jsonl"])
STYLES = st.sampled_from(["hub", "hashed", "numbers", "plain", "saved", "converted"])


@contextmanager
def folder_of(*names: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for file in names:
            path = Path(name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield Path(name)


def shard_names(split: str, kind: str, style: str, count: int) -> list[str]:
    """The files of one split, as the hub and the `datasets` library name them."""
    if style == "plain":
        return [f"data/{split}{kind}"]
    if style == "saved":
        return [f"{split}/data-{i:05d}-of-{count:05d}{kind}" for i in range(count)]
    if style == "converted":
        return [f"default/{split}/{i:04d}{kind}" for i in range(count)]
    tail = "-2c68b2dca7cc4d2b" if style == "hashed" else ""
    total = "" if style == "numbers" else f"-of-{count:05d}"
    return [f"data/{split}-{i:05d}{total}{tail if total else ''}{kind}" for i in range(count)]


@settings(max_examples=60)
@given(st.sets(NAMES, min_size=1, max_size=5), KINDS, STYLES, st.integers(1, 12))
def test_splits_are_those_of_the_names_and_never_joined(
    splits: set[str], kind: str, style: str, count: int
) -> None:
    names = {split: shard_names(split, kind, style, count) for split in splits}
    noise = ["README.md", ".cache/huggingface/train-00000-of-00009.parquet", "train/cache-1b2c.arrow"]
    with folder_of(*[file for files in names.values() for file in files], *noise) as folder:
        assert holds_table(folder)
        found = {
            split: [str(p.relative_to(folder)) for p in files] for split, files in table_files(folder).items()
        }
    assert found == names


@settings(max_examples=60)
@given(
    NAMES,
    STYLES.filter(lambda one: one not in ("plain", "numbers", "converted")),
    st.integers(2, 8),
    st.data(),
)
def test_a_missing_shard_is_refused(split: str, style: str, count: int, draw: st.DataObject) -> None:
    names = shard_names(split, ".parquet", style, count)
    names.pop(draw.draw(st.integers(0, count - 1)))
    with folder_of(*names) as folder, pytest.raises(UserError, match=rf"'{split}' has {count} files by"):
        table_files(folder)


@pytest.mark.parametrize(
    "names",
    [
        ("a/train.parquet", "b/train.parquet"),
        ("a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"),
        ("a/train-00000.jsonl", "b/train-00000.jsonl"),
        ("refcoco/val/data-00000-of-00001.arrow", "refcocog/val/data-00000-of-00001.arrow"),
    ],
)
def test_one_split_in_two_folders_is_refused(names: tuple[str, ...]) -> None:
    with folder_of(*names) as folder, pytest.raises(UserError, match="is there twice, in") as caught:
        table_files(folder)
    assert all(str(Path(name)) in str(caught.value) for name in names)


def test_one_split_in_two_formats_is_refused() -> None:
    with folder_of("train-00000.parquet", "train-00001.jsonl") as folder:
        with pytest.raises(UserError, match=r"'train' is there as \.jsonl and \.parquet"):
            table_files(folder)


def test_numbers_that_are_no_shards_name_tables_of_their_own() -> None:
    with folder_of("scenes_2023.parquet", "scenes_2024.parquet") as folder:
        assert sorted(table_files(folder)) == ["scenes_2023", "scenes_2024"]


def test_a_folder_without_tables_holds_none() -> None:
    with folder_of("images/a.jpg", "val.json", ".git/train.parquet") as folder:
        assert not holds_table(folder)


SHOTS = ["train_1shot", "train_5shot", "train_10shot", "val", "test"]


@pytest.mark.parametrize(
    ("place", "asked", "found", "picked"),
    [
        ("omlab/EarthReason-FS", "train_5shot", SHOTS, "train_5shot"),
        ("omlab/EarthReason-FS", "val", SHOTS, "val"),
        ("a/risbench", "val", ["train", "validation", "test"], "validation"),
        ("Ricky06662/ReasonSeg_val", "val", ["test"], "test"),
        ("LCH1025/Earthreason_val", "val", ["train"], "train"),
        ("a/table", "test", ["table"], "table"),
        ("a/refcoco", "val", ["refcoco_unc_val", "refcoco_unc_testA"], "refcoco_unc_val"),
    ],
)
def test_the_split_that_is_meant(place: str, asked: str, found: list[str], picked: str) -> None:
    assert pick_split(place, asked, found) == picked


@pytest.mark.parametrize(
    ("place", "asked", "found", "reason"),
    [
        ("omlab/EarthReason-FS", "train", SHOTS, "several that may be meant: train_1shot, train_5shot"),
        ("opencapyang/RefSegRS", "test", ["train"], "it has: train.*'table_split'"),
        ("a/fewshot", "test", ["train_5shot"], "it has: train_5shot"),
        ("Ricky06662/ReasonSeg_val", "test", ["test"], "its name says that it is 'val'"),
        ("a/refcoco", "val", ["refcoco_unc_val", "refcoco_google_val"], "several that may be meant"),
        ("a/b", "val", ["val", "validation"], "several that may be meant"),
    ],
)
def test_another_split_is_never_taken_for_it(place: str, asked: str, found: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=rf"{place} has no split '{asked}'.*{reason}"):
        pick_split(place, asked, found)


def test_a_table_of_several_sets_is_only_read_by_whole_names() -> None:
    with pytest.raises(UserError, match="has no split 'testA'"):
        pick_split("a/refcoco-benchmark", "testA", ["refcoco_unc_testA"], is_exact=True)


def test_what_is_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "EarthReason").mkdir(parents=True)
    assert is_hub_id("omlab/EarthReason-FS")
    assert is_hub_id("hub:data/EarthReason")
    for local in (
        "data/EarthReason",
        "data/EarthReson",
        "./omlab/a",
        "../a/b",
        "/data/a",
        "a",
        "a/b/c",
        "~/a",
        "a b/c",
    ):
        assert not is_hub_id(local), local
