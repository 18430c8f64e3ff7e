"""docs/use.md works as it stands, and `prompter segment` resumes, refuses and tells what it did."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from envs.masks import decode_rle
from eval.looks.calibration import CalibrationFile, fit_calibration
from prompter.runs.jsonl import read_lines
from recipes.api import batch
from recipes.api.shapes import geometry_to_mask
from recipes.cli import main
from rewards.replay import read_rollouts
from tests.fixtures.runs import contents
from tests.fixtures.training import ROOT
from tests.smoke.test_readme_commands import commands

pytestmark = pytest.mark.smoke

PAGE = ROOT / "docs" / "use.md"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$(?:\n\n^```\n(.*?)^```$)?", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
)
"""The page's Python, each with what it says that it prints; "" if it says nothing of it."""

POLICY = ["--policy", "shipped:small-policy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder while the page is gone through, from its top to its end."""
    place, before = tmp_path_factory.mktemp("use"), Path.cwd()
    os.chdir(place)
    yield place
    os.chdir(before)


@pytest.fixture(scope="module")
def page(folder: Path) -> dict[str, object]:
    """What the page's names stand for after its last block; every block did what it says."""
    names: dict[str, object] = {}
    for code, said in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert not said or printed.getvalue() == said
    return names


def test_every_python_block_of_the_page_runs(page: dict[str, object], folder: Path) -> None:
    assert len(BLOCKS) >= 8 and sum(bool(said) for _, said in BLOCKS) >= 3
    called = {
        node.attr
        for code, _ in BLOCKS
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
    }
    assert {"segment", "refine", "compare", "to_coco", "to_geojson", "to_json", "plot", "save"} <= called
    assert sorted(path.name for path in folder.iterdir()) == [
        *("answer", "answer.geojson", "answer.png", "scene.png")
    ]


def test_the_page_costs_one_encode_for_each_segmenter(page: dict[str, object]) -> None:
    counters = page["p"].counters  # type: ignore[attr-defined]
    assert counters["encodes"] == 2  # mobile-sam and box; the page has one image
    assert counters["decodes"] > 10


@pytest.fixture(scope="module")
def answers(folder: Path, page: dict[str, object]) -> Path:
    """The page's command, run on two images and two questions with the light segmenter."""
    shutil.copy("scene.png", "other.png")
    [line] = commands(PAGE)
    program, name, scene, question, *words = [
        {"mobile-sam": "box"}.get(word, word) for word in shlex.split(line)
    ]
    assert (program, name, scene) == ("prompter", "segment", "scene.png")
    assert main([name, scene, "other.png", question, "--also", "every car", *words, "--chunk", "2"]) == 0
    return folder / "answers"


def test_the_command_writes_every_form_of_the_same_masks(answers: Path) -> None:
    results = list(read_lines(answers / "results.jsonl"))
    names = ["scene.q1", "scene.q2", "other.q1", "other.q2"]
    assert [(one["image"], one["query"]) for one in results] == [
        (image, query)
        for image in ("scene.png", "other.png")
        for query in ("the two largest buildings", "every car")
    ]
    assert sum(len(one["objects"]) for one in results) >= 4
    index = COCO()
    index.dataset = json.loads((answers / "coco.json").read_text())
    index.createIndex()
    rollouts = list(read_rollouts(answers / "rollouts" / "box.jsonl"))
    assert [rollout.sample_id for rollout in rollouts] == names
    objects = 0
    for name, one in zip(names, results, strict=True):
        mask = np.asarray(Image.open(answers / "masks" / f"{name}.png"))
        assert mask.dtype == np.uint8 and (mask == decode_rle(one["mask"]) * 255).all()
        assert Image.open(answers / "overlays" / f"{name}.jpg").size == (768, 768)
        features = json.loads((answers / "geojson" / f"{name}.geojson").read_text())["features"]
        assert len(features) == len(one["objects"])
        for feature, found in zip(features, one["objects"], strict=True):
            objects += 1
            expected = decode_rle(found["segmentation"])
            assert (geometry_to_mask(feature["geometry"], expected.shape) == expected).all()
            assert (index.annToMask(index.anns[objects]) == expected).all()
    assert len(index.anns) == objects


def again(answers: Path, *more: str) -> int:
    """Run the command of `answers` again."""
    images = ["scene.png", "other.png", "the two largest buildings", "--also", "every car"]
    return main(["segment", *images, "-o", str(answers), *POLICY, "--executor", "box", "--chunk", "2", *more])


def test_a_run_that_was_cut_off_comes_out_as_if_it_had_not(
    answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = contents(answers), tmp_path / "cut"
    shutil.copytree(answers, cut)
    for name in ("completions.jsonl", "rollouts/box.jsonl"):  # killed in the second chunk
        lines = (cut / name).read_bytes().splitlines(keepends=True)
        (cut / name).write_bytes(b"".join(lines[:3]) + lines[3][:20])
    for name in ("results.jsonl", "coco.json", "masks/other.q1.png", "overlays/scene.q2.jpg"):
        (cut / name).unlink()

    def stopped(path: Path, mask: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # and once more while files are written
        patch.setattr(batch, "write_mask", stopped)
        assert again(cut) == 130
    assert not (cut / "results.jsonl").exists() and not list(cut.rglob("*.tmp"))
    capsys.readouterr()
    assert again(cut, "--json") == 0
    assert contents(cut) == whole
    done = json.loads(capsys.readouterr().out)["result"]
    assert done["out"] == str(cut) and done["answers"] == 4 and done["failed"] == 0 and done["left_out"] == []


def test_several_looks_make_one_answer_with_its_confidence(
    answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "looked"
    words = ["segment", "scene.png", "every car", "-o", str(out), *POLICY, "--executor", "box"]
    looks = ["--samples", "3", "--shift", "0.06"]
    assert main([*words, *looks]) == 0
    [one] = read_lines(out / "results.jsonl")
    assert 0 <= one["confidence"]["agreement"] <= 1 and one["confidence"]["stability"] is None
    [answer] = read_rollouts(out / "rollouts" / "box.jsonl")
    assert answer.confidence == one["confidence"] and answer.prediction == one["mask"]
    flat = {f"confidence_{name}": value for name, value in one["confidence"].items()}
    outlines = json.loads(next((out / "geojson").glob("*.geojson")).read_text())["features"]
    kept = [
        *(outline["properties"] for outline in outlines),
        *json.loads((out / "coco.json").read_text())["annotations"],
    ]
    assert len(kept) == 2 * len(one["objects"]) and all(flat.items() <= own.items() for own in kept)
    assert len(next(iter(read_lines(out / "looks" / "box.jsonl")))["looks"]) == 4
    whole = {name: data for name, data in contents(out).items() if name != "seconds.jsonl"}
    assert main([*words, *looks]) == 0
    assert {name: data for name, data in contents(out).items() if name != "seconds.jsonl"} == whole
    said = refusal(["scene.png", "every car", "-o", str(out), *looks, "--combine", "mbr"], capsys)
    assert "holds a run with combination" in said
    new = ["scene.png", "every car", "-o", str(tmp_path / "new")]
    assert "looks at the target" in refusal([*new, "--samples", "3", "--combine", "best"], capsys)
    assert "--shift is about several looks" in refusal([*new, "--shift", "0.1"], capsys)
    assert "windows of a map" in refusal([*new, "--samples", "3", "--overlap", "8"], capsys)
    made = {"rule": "consensus", "samples": 3, "source": "agreement"}
    CalibrationFile(made, {"sam": fit_calibration([0.2], [0.1])}).write(tmp_path / "sam.json")
    others = [*new, "--samples", "3", "--calibration", str(tmp_path / "sam.json")]
    assert "is for sam, not for box" in refusal(others, capsys)
    assert not (tmp_path / "new").exists()


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `prompter segment` says to words that it refuses before any model is loaded, in one line."""
    capsys.readouterr()
    assert main(["segment", *words, *POLICY, "--executor", "box"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_what_cannot_be_asked_is_refused_in_a_sentence(
    answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", str(tmp_path / "out")]
    Image.open("scene.png").save(tmp_path / "map.tif", tiffinfo={33550: (1.0, 1.0, 0.0)})
    mixed = refusal([str(tmp_path), "scene.png", "roofs", *out], capsys)
    assert "GeoTIFF tags (ModelPixelScale)" in mixed and "scene.png has none" in mixed
    assert "not both" in refusal(["scene.png", "roofs", *out, "--prompts", "boxes.gpkg"], capsys)
    assert "the question, but 'other.png' is a file" in refusal(["scene.png", "other.png", *out], capsys)
    assert "no file or folder gone.png" in refusal(["gone.png", "roofs", *out], capsys)
    assert "more than the limit of 100" in refusal(
        ["scene.png", "roofs", *out, "--max-pixels", "100"], capsys
    )
    assert "Did you mean 'masks'" in refusal(["scene.png", "roofs", *out, "--write", "mask"], capsys)
    assert "holds a run with" in refusal(["scene.png", "roofs", "-o", str(answers)], capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_walked_bad_images_are_listed_and_answers_left_alone(
    answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "deep/b.png", ".hidden.png"):
        Image.open("scene.png").save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "in" / "notes.txt").write_text("no image either")
    out = tmp_path / "in" / "out"
    words = ["segment", str(tmp_path / "in"), "every car", "-o", str(out), *POLICY, "--executor", "box"]
    for _ in range(2):  # the second time, the answers lie in the folder that is walked
        assert main([*words, "--skip-bad", "--write", "masks", "--json"]) == 0
        done = json.loads(capsys.readouterr().out)["result"]
        assert done["answers"] == 3 and len(done["left_out"]) == 1 and "bad.png" in done["left_out"][0]
    assert sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.suffix != ".yaml"
    ) == [
        *("completions.jsonl", "masks/a.jpg.png", "masks/a.png.png", "masks/deep/b.png", "policy.json"),
        *("results.jsonl", "rollouts/box.jsonl"),
    ]
