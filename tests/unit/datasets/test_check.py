"""`prompter data`: the walk finds what is wrong, and the command says so."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.datasets import open_dataset
from envs.datasets.check import check_split
from prompter.errors import UserError
from recipes.commands import data as data_command
from tests.fixtures.layouts import FIXTURES
from tests.fixtures.scenes import HEIGHT, WIDTH, make_scene


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    data_command.add_arguments(parser)
    return data_command.run(parser.parse_args(words))


def manifest(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        make_scene(number).save(tmp_path / f"{number}.png")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "empty.png")
    return tmp_path


BOX = [[2, 2, 9, 2, 9, 9, 2, 9]]


def test_a_clean_set_has_nothing_wrong(folder: Path) -> None:
    path = manifest(
        folder,
        {"image": "0.png", "query": "a", "mask": BOX},
        {"image": "0.png", "query": "b", "mask": None},
        {"image": "1.png", "query": "a", "mask": BOX},
    )
    report = check_split("manifest", "all", {"path": path})
    assert report.is_clean
    assert (report.samples, report.images, report.no_target) == (3, 2, 1)


def test_everything_wrong_is_found(folder: Path) -> None:
    make_scene(0).save(folder / "copy.png")
    path = manifest(
        folder,
        {"image": "0.png", "query": "a", "mask": BOX},
        {"image": "0.png", "query": " A ", "mask": BOX},
        {"image": "copy.png", "query": "a", "mask": "empty.png"},
        {"image": "1.png", "query": "a", "boxes": [[0, 0, 500, 5]]},
        {"image": "gone.png", "query": "a", "mask": BOX},
        {"image": "1.png", "query": "b", "mask": {"size": [HEIGHT, WIDTH], "counts": [3]}},
    )
    report = check_split("manifest", "all", {"path": path})
    found = {kind: len(sentences) for kind, sentences in report.problems.items() if sentences}
    assert found == {
        "unreadable": 2,
        "empty_mask": 1,
        "box": 1,
        "duplicate_question": 1,
        "duplicate_image": 1,
    }
    assert not report.is_clean


def test_sizes_are_compared_in_the_unit_of_the_catalog(tmp_path: Path) -> None:
    options = FIXTURES["earthreason"].build(tmp_path)
    [problem] = check_split("earthreason", "val", options).problems["count"]
    assert problem == "split 'val' of earthreason has 12 images; 1135 are published."


def test_the_command_prints_writes_and_returns_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(
        folder,
        *({"image": f"gone-{number}.png", "query": "a", "mask": BOX} for number in range(4)),
        {"image": "0.png", "query": "a", "mask": BOX},
    )
    report = folder / "report.json"
    code = run("check", "manifest", "--dataset-option", f"path={path}", "--most", "2", "--json", str(report))
    printed = capsys.readouterr().out
    assert code == 1
    assert "manifest:all: 1 samples on 1 images, 0 without target" in printed
    assert "4 records that are missing a part or cannot be read:" in printed
    assert "gone-1.png" in printed
    assert "gone-2.png" not in printed
    assert "… and 2 more" in printed
    assert len(json.loads(report.read_text())["problems"]["unreadable"]) == 4


def test_the_command_is_content_with_a_clean_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(folder, {"image": "0.png", "query": "a", "mask": BOX})
    assert run("check", "manifest", "--dataset-option", f"path={path}") == 0
    assert capsys.readouterr().out.endswith("nothing wrong\n")


def test_the_contact_sheet_is_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FIXTURES["risbench"].build(tmp_path)
    output = tmp_path / "sheet.png"
    assert run("show", "risbench:test", "--root", str(tmp_path), "--out", str(output), "--count", "4") == 0
    assert Image.open(output).size[0] > 4 * 100
    assert f"4 of 24 samples: {output}" in capsys.readouterr().out


def test_the_list_names_every_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rrsis-d").mkdir()
    monkeypatch.setenv("PROMPTER_DATA", str(tmp_path))
    assert run("ls") == 0
    lines = capsys.readouterr().out.splitlines()
    words = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert {fixture.name for fixture in FIXTURES.values()} <= set(words)
    assert " found " in words["rrsis-d"]
    assert "not found" in words["lasers"]
    assert "ready" in words["synthetic-aerial"]


def test_the_list_tells_all_about_one_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", "reasonseg") == 0
    printed = capsys.readouterr().out
    assert "val 200" in printed
    assert "texts: first | all" in printed
    assert "mask_size: refuse | resize" in printed


def test_the_list_tells_how_published_code_treats_odd_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", "earthreason") == 0
    printed = capsys.readouterr().out
    assert "odd records as SegEarth-R1 treats them: --dataset-option question=first" in printed
    assert "--dataset-option empty_answer=label" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "risbench"], "say which split of 'risbench': risbench:train"),
        (["check", "risbensh:test"], "there is no dataset 'risbensh'"),
        (["check", "risbench:tset"], "has no split 'tset'"),
        (
            ["show", "risbench:test", "--dataset-option", "root"],
            "--dataset-option is written KEY=VALUE",
        ),
        (["show", "risbench:test", "--dataset-option", "rot=x"], "has no option 'rot'"),
        (["show", "risbench:test", "--count", "0"], "must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*words)


def test_pictures_under_several_names_are_no_fault_where_the_set_has_them(tmp_path: Path) -> None:
    """RISBench has a file for each expression."""
    options = FIXTURES["risbench"].build(tmp_path)
    (tmp_path / "img_rgb" / "test_1_0.png").write_bytes((tmp_path / "img_rgb" / "test_0_0.png").read_bytes())
    report = check_split("risbench", "test", options)
    assert report.problems["duplicate_image"] == []
    assert report.notes["copied_image"] == ["images 'test_0_0' and 'test_1_0' have the same pixels."]


def test_a_set_that_is_bad_all_through_is_told_kind_by_kind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = np.full((HEIGHT, WIDTH), 700, np.uint16)
    for number in range(3):
        Image.fromarray(deep).save(folder / f"deep{number}.png")
    path = manifest(
        folder,
        *({"image": f"deep{number}.png", "query": "a", "mask": BOX} for number in range(3)),
        {"image": "gone.png", "query": "a", "mask": BOX},
    )
    assert run("check", "manifest", "--dataset-option", f"path={path}") == 1
    printed = capsys.readouterr().out
    assert "manifest:all: 0 samples" in printed
    assert "3 images of more than 8 bits a channel" in printed
    assert "1 records that are missing a part" in printed
    with pytest.raises(UserError, match=r"holds no usable record \(3 depth, 1 unreadable\); the first: "):
        open_dataset("manifest", "all", path=path, skip_bad=True)


def test_no_target_and_objects_contradict_each_other(folder: Path) -> None:
    path = manifest(
        folder,
        {"image": "0.png", "query": "a", "mask": None, "instances": [BOX]},
        {"image": "0.png", "query": "b", "mask": None, "boxes": [[1, 1, 5, 5]]},
        {"image": "0.png", "query": "c", "boxes": []},
    )
    report = check_split("manifest", "all", {"path": path})
    assert len(report.problems["contradiction"]) == 2
    assert report.no_target == 3


def test_a_mask_that_covers_its_image_is_noted(folder: Path) -> None:
    whole = [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]
    path = manifest(
        folder, {"image": "0.png", "query": "a", "mask": whole}, {"image": "0.png", "query": "b", "mask": BOX}
    )
    report = check_split("manifest", "all", {"path": path})
    assert report.is_clean
    assert report.notes["full_mask"] == ["the mask of sample 'line-1' covers its whole image."]
