"""The data engine on drawn scenes, end to end: the set opens both ways; a killed engine gives the same."""

from __future__ import annotations

import json
import random
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from envs.datasets import open_dataset
from envs.datasets.synthetic import draw_scene
from envs.masks import mask_to_box
from envs.oracle import target_masks
from recipes import cli
from recipes.engine import run as engine_run
from recipes.engine.assemble import worked_on
from recipes.engine.review import RUBRIC, Review, make_server, read_verdicts
from recipes.engine.store import EngineFolder
from tests.fixtures.endpoint import Reply, said, sent_image, serving

SCENES, SIZE = 10, 96


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes in a folder and one below it, with their objects' boxes beside it in COCO's form."""
    root = tmp_path_factory.mktemp("scenes")
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    names: dict[str, int] = {}
    for index in range(SCENES):
        scene = draw_scene("train", index, size=SIZE)
        name = f"{'b/' if index % 2 else ''}{index}.png"
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(root / "images" / name)
        coco["images"].append({"id": index, "file_name": name})
        for one in scene.instances:
            box = mask_to_box(one.mask)
            assert box is not None
            x1, y1, x2, y2 = box
            number = names.setdefault(one.category, len(names))
            coco["annotations"].append(
                {"image_id": index, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": number}
            )
    coco["categories"] = [{"id": number, "name": name} for name, number in names.items()]
    (root / "boxes.json").write_text(json.dumps(coco))
    return root


def words(images: Path, out: Path, *more: str) -> list[str]:
    boxes = str(images / "boxes.json")
    common = ["engine", str(images / "images"), "-o", str(out), "--boxes", boxes, "--executor", "box"]
    return [*common, "--inside", "--test-share", "0.3", *more]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "review.jsonl"
    }


@pytest.fixture(scope="module")
def made(images: Path) -> Path:
    assert cli.main(words(images, images / "set")) == 0
    return images / "set"


def test_the_set_is_clean_and_opens_as_a_manifest_and_as_lasers(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"path={made / 'manifest.jsonl'}"
    assert cli.main(["data", "check", "manifest:train", "--dataset-option", path]) == 0
    assert cli.main(["data", "check", "lasers:train", "--root", str(made)]) == 0
    axes = [one.stem for one in (made / "test/annotations").glob("*.json")]
    assert {"test_short_query", "test_explicit", "test_instance_level"} <= set(axes)
    assert cli.main(["data", "check", "lasers:short_query", "--root", str(made)]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    by_manifest = list(open_dataset("manifest", "train", path=made / "manifest.jsonl"))
    by_lasers = list(open_dataset("lasers", "train", root=made))
    assert [(one.query, one.target, one.instances) for one in by_manifest] == [
        (one.query, one.target, one.instances) for one in by_lasers
    ]
    for sample in by_manifest[::7]:
        boxes = [mask_to_box(mask) for mask in target_masks(sample)]
        assert list(sample.boxes) == boxes
    for axis, values in {
        "reasoning": {"explicit", "implicit"},
        "length": {"short", "long"},
        "multiplicity": {"one", "several"},
        "phrasing": {"1", "2", "3"},
    }.items():
        assert {one.tags[axis] for one in by_manifest} == values
    train = {one.image_id for one in by_manifest}
    held_out = {one.image_id for one in open_dataset("lasers", "short_query", root=made)}
    assert (
        train
        and held_out
        and not {Path(one).with_suffix("").name for one in train} & {Path(one).name for one in held_out}
    )


def test_masks_are_counted_and_every_sample_tells_where_it_comes_from(made: Path) -> None:
    summary = json.loads((made / "summary.json").read_text())
    masks = summary["masks"]
    assert sum(masks["proposed"].values()) == sum(masks["removed"].values()) + masks["kept"]
    assert (
        all(masks["proposed"][source] for source in ("box", "grid", "inside"))
        and masks["removed"]["duplicate"]
    )
    lines = [json.loads(line) for line in (made / "provenance.jsonl").read_text().splitlines()]
    assert len(lines) == summary["questions"]["samples"] == len({line["id"] for line in lines})
    for line in lines:
        assert re.fullmatch(r"[0-9a-f]{64}", line["image_sha256"]) and line["segmenter"]["family"] == "box"
        assert line["question"]["by"] == "offline" and line["review"] is None
        assert all(mask["source"] == "box" and mask["shape"]["extent"] == 1 for mask in line["masks"])


class _Stopped(BaseException):
    """As if the process had been killed."""


def test_a_killed_engine_goes_on_and_gives_the_same_set(
    images: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = images / "again"
    write = EngineFolder.write
    for last in (3, 7):
        count = [0]

        def killing(
            self: EngineFolder, name: str, data: Any, last: int = last, count: list[int] = count
        ) -> None:
            count[0] += 1
            if count[0] > last:
                raise _Stopped
            write(self, name, data)

        with monkeypatch.context() as patched, pytest.raises(_Stopped):
            patched.setattr(EngineFolder, "write", killing)
            cli.main(words(images, out))
    done = len(worked_on(EngineFolder(out)))
    assert 0 < done < SCENES
    proposed: list[str] = []
    propose = engine_run.Engine._propose

    def counting(self: Any, name: str, executor: Any) -> None:
        proposed.append(name)
        propose(self, name, executor)

    monkeypatch.setattr(engine_run.Engine, "_propose", counting)
    assert cli.main(words(images, out)) == 0
    assert 0 < len(proposed) <= SCENES - done
    assert files(out) == files(made)


def test_other_settings_and_bad_words_are_refused_in_a_sentence(
    images: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = ["engine", str(images / "images"), "-o", str(images / "x"), "--executor", "box"]
    for given, told in (
        (words(images, made, "--seed", "5"), "seed = 0, not 5"),
        (words(images, images / "x", "--rule", "stabilty=1"), "stability"),
        (bare, "Nothing would be asked"),
        (["engine", "-o", str(images / "x")], "engine.json"),
        (["engine", str(images / "nowhere"), "-o", str(images / "x")], "no folder"),
        ([*words(images, images / "x"), "--ask", "http://127.0.0.1:9/v1"], "names no model"),
    ):
        assert cli.main(given) == 2
        assert told in capsys.readouterr().err
    other = images / "other.jsonl"
    other.write_text('{"image": "else.png", "boxes": [[0, 0, 9, 9]], "labels": ["car"]}\n')
    assert cli.main([*bare, "--boxes", str(other)]) == 2
    assert "names none of the images" in capsys.readouterr().err


@pytest.fixture
def page(made: Path) -> Iterator[tuple[str, Review]]:
    folder = EngineFolder(made)
    review = Review(folder, worked_on(folder))
    with make_server(review, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", review
        server.shutdown()


def post(url: str, data: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/verdict", json.dumps(data).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)


def test_a_review_is_kept_gone_on_with_and_decides_what_stays(
    made: Path, images: Path, page: tuple[str, Review]
) -> None:
    url, review = page
    state = get(f"{url}/state")
    assert list(state["rubric"]) == list(RUBRIC) and len(state["items"]) == len(review.items)
    assert get(f"{url}/picture/0")["url"].startswith("data:image/jpeg;base64,")
    ids = [one["id"] for one in state["items"]]
    good = {**dict.fromkeys(RUBRIC, True), "who": " Ada ", "token": state["token"]}
    generator = random.Random(0)
    failed = set(generator.sample(ids[:20], 6))
    for identity in ids[:20]:
        status, line = post(url, {**good, "id": identity, "mask": identity not in failed})
        assert status == 200 and line["who"] == "Ada" and line["when"].endswith("+00:00")
    for bad, code in (
        ({**good, "id": "nobody"}, 400),
        ({**good, "id": ids[0], "who": " "}, 400),
        ({**good, "id": ids[0], "mask": "yes"}, 400),
        ({**good, "id": ids[0], "token": "another"}, 403),
        ([], 400),
    ):
        assert post(url, bad)[0] == code
    assert post(url, {**good, "id": ids[0]}, Host="elsewhere.example")[0] == 421
    again = min(failed)
    assert post(url, {**good, "id": again})[0] == 200  # the last verdict counts
    verdicts = read_verdicts(EngineFolder(made))
    assert {one for one, said in verdicts.items() if not said["passed"]} == failed - {again}
    assert sum(bool(one["verdict"]) for one in get(f"{url}/state")["items"]) == 20
    whole = json.loads((made / "summary.json").read_text())["questions"]["samples"]
    assert cli.main(["engine", "-o", str(made)]) == 0
    summary = json.loads((made / "summary.json").read_text())
    assert summary["questions"]["samples"] == whole - len(failed - {again})
    assert summary["review"] == {"samples": whole, "reviewed": 20, "passed": 20 - len(failed - {again})}
    assert cli.main(["engine", "-o", str(made), "--reviewed"]) == 0
    stayed = [json.loads(line) for line in (made / "provenance.jsonl").read_text().splitlines()]
    assert {line["id"] for line in stayed} == set(ids[:20]) - failed | {again}
    assert all(line["review"]["who"] == "Ada" and line["review"]["when"] for line in stayed)


def test_a_model_names_masks_and_asks_and_what_it_says_badly_is_counted(images: Path) -> None:
    def answer(number: int, body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"][-1]["text"]
        assert sent_image(body).size == (SIZE, SIZE)
        if "Which of these categories" in text:
            return said('{"category": "tree"}')
        if "in red" not in text or "2 " in text:
            return said("I cannot see that.")
        long = (
            "a person who walks through this quiet area wants to know at once where"
            if "40 words" in text
            else ""
        )
        asked = [f"{long} it is {which}".strip() for which in ("seen", "shown", "found")]
        return said(json.dumps({"questions": asked, "answer": "It is there. [SEG]"}))

    out = images / "asked"
    with serving(answer) as server:
        given = words(images, out, "--ask", f"{server.url}#m", "--categories", "tree,road", "--limit", "3")
        assert cli.main(given) == 0
        asked = len(server.seen)
        assert cli.main(given) == 0
        assert len(server.seen) == asked  # nothing is asked twice
    summary = json.loads((out / "summary.json").read_text())
    assert summary["questions"]["replies not used"]["no questions in JSON"]
    assert summary["masks"]["with a category"] == summary["masks"]["kept"]
    lines = [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]
    assert lines and all(line["question"]["by"] == "m" for line in lines)
    manifests = [
        json.loads(line) for name in ("manifest.jsonl",) for line in (out / name).read_text().splitlines()
    ]
    assert {"part", "instance"} & {line["tags"]["granularity"] for line in manifests}
