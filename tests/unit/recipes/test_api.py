"""`from prompter import load`: what goes in, what comes out, and what each call costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.executors import ExecutorConfig, open_executor
from envs.executors.base import ExecutorFailure, Segmentation
from envs.sample import Sample
from prompter import Comparison, Prompter, Result, load
from prompter.errors import UserError
from prompter.types import Answer, FailureKind, Instance, ParseFailure, PromptSet

BOXES = PromptSet((Instance((2, 3, 10, 12)), Instance((20, 5, 30, 25), positive_points=((25, 15),))))
SAID = {
    "roofs": Answer("<think>two of them</think><answer>[…]</answer>", BOXES, 7),
    "nothing": Answer("<answer>[]</answer>", PromptSet()),
    "mumble": Answer("hm", ParseFailure(FailureKind.NO_ANSWER, "the completion holds no answer", "hm")),
}


class Scripted:
    """Answers by the question alone, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = 0

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        self.asked += [sample.query for sample in samples]
        return [SAID[sample.query] for sample in samples]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def answerer() -> Scripted:
    return Scripted()


@pytest.fixture
def p(answerer: Scripted) -> Iterator[Prompter]:
    with Prompter(answerer, open_executor(ExecutorConfig(family="box")), "box", policy="scripted") as opened:
        yield opened


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def test_a_result_holds_masks_boxes_scores_and_how_they_came_about(p: Prompter, image: np.ndarray) -> None:
    r = p.segment(image, "roofs")
    assert isinstance(r, Result)
    assert r.masks.shape == (2, 30, 40) and r.masks.dtype == np.bool_
    assert r.masks[0, 3:12, 2:10].all() and r.masks[0].sum() == 72
    assert r.boxes.tolist() == [[2, 3, 10, 12], [20, 5, 30, 25]]
    assert r.scores.tolist() == [1, 1] and r.scores.dtype == np.float32
    assert (r.union == r.masks.any(axis=0)).all()
    assert (r.prompts, r.reasoning, r.refused, r.failure, r.error) == (
        BOXES,
        "two of them",
        False,
        None,
        None,
    )
    assert (np.asarray(r.image) == image).all()
    assert repr(r) == '<Result "roofs": 2 objects>'


@pytest.mark.parametrize(("query", "refused"), [("nothing", True), ("mumble", False)])
def test_no_answer_is_a_result_too(p: Prompter, image: np.ndarray, query: str, refused: bool) -> None:
    r = p.segment(image, query)
    assert r.masks.shape == (0, 30, 40) and r.boxes.shape == (0, 4) and r.scores.shape == (0,)
    assert not r.union.any() and r.union.shape == (30, 40)
    assert r.refused is refused
    assert (r.prompts is None, r.failure is None) == (not refused, refused)
    assert r.failure is None or r.failure.kind is FailureKind.NO_ANSWER
    assert r.to_geojson()["features"] == r.to_coco()["annotations"] == r.to_json()["objects"] == []
    assert r.plot(100).size == (100, 75)
    assert ("says the policy" if refused else "could not be read") in r._repr_html_()


def test_a_segmenter_that_fails_is_told_and_no_exception(
    p: Prompter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = p._executors["box"]
    monkeypatch.setattr(executor, "segment", lambda requests, **_: [ExecutorFailure("it broke")])
    r = p.segment(image, "roofs")
    assert r.error == "it broke" and r.prompts == BOXES and len(r.masks) == 0
    assert "it broke" in r.summary()


def test_questions_on_one_image_cost_one_encode_and_refining_none(
    p: Prompter, answerer: Scripted, image: np.ndarray
) -> None:
    first, second = p.segment(image, ["roofs", "roofs"])
    assert p.counters["encodes"] == 1 and p.counters["decodes"] == 2
    third = p.segment(Image.fromarray(image), "roofs")  # another object, the same pixels
    assert p.counters["encodes"] == 1
    assert (first.union == second.union).all() and (first.union == third.union).all()
    assert len(answerer.asked) == 3
    refined = third.refine(boxes=[0, 0, 4, 4])
    assert len(answerer.asked) == 3 and p.counters["encodes"] == 1 and p.counters["decodes"] == 4
    assert refined.edited and not third.edited
    assert refined.boxes.tolist() == [*third.boxes.tolist(), [0, 0, 4, 4]]
    p.segment(255 - image, "roofs")
    assert p.counters["encodes"] == 2


def test_refining_changes_what_was_meant(p: Prompter, image: np.ndarray) -> None:
    r = p.segment(image, "roofs")
    moved = r.refine(object=1, boxes=np.array([[21, 6, 29, 24]]), points=[[1, 2], [3, 4]], labels=[0, 1])
    assert moved.prompts == PromptSet(
        (BOXES.instances[0], Instance((21, 6, 29, 24), ((25, 15), (3, 4)), ((1, 2),)))
    )
    assert r.prompts == BOXES
    drawn = p.segment(image, "mumble").refine(points=(5, 6))
    assert drawn.prompts == PromptSet((Instance(positive_points=((5, 6),)),)) and drawn.masks.any()
    assert drawn.failure is None and drawn.refine(points=[7, 8]).prompts.instances[0].positive_points == (
        (5, 6),
        (7, 8),
    )
    assert r.refine(prompts=PromptSet()).refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs boxes, points or prompts"),
        ({"points": [1, 2]}, "say whose points"),
        ({"object": 2, "boxes": [0, 0, 1, 1]}, "no object 2: the result has 2"),
        ({"object": 0, "boxes": [[0, 0, 1, 1], [0, 0, 2, 2]]}, "takes one box, but 2"),
        ({"boxes": [5, 5, 1, 1]}, "x2 > x1"),
        ({"boxes": [[1, 2, 3]]}, r"numbers \[k, 4\]"),
        ({"boxes": "here"}, r"numbers \[k, 4\]"),
        ({"object": 0, "points": [1, 2], "labels": [1, 0]}, "for each of the 1 points"),
        ({"object": 0, "points": [[1, 2]], "labels": [2]}, r"1 \(on the object\) or 0"),
        ({"object": 0, "points": [400, 2]}, r"point \(400.0, 2.0\) of object 0 is outside"),
        ({"boxes": [50, 0, 60, 10]}, "outside the image, which is 40 x 30"),
        ({"prompts": BOXES, "points": [1, 2]}, "not both"),
    ],
)
def test_edits_that_cannot_be_meant_are_refused(
    p: Prompter, image: np.ndarray, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        p.segment(image, "roofs").refine(**given)


def test_a_negative_point_alone_makes_no_object(p: Prompter, image: np.ndarray) -> None:
    with pytest.raises(UserError, match="a box or at least one positive point"):
        p.segment(image, "nothing").refine(points=[1, 2], labels=[0])


def test_lists_of_images_and_questions_pair(p: Prompter, answerer: Scripted, image: np.ndarray) -> None:
    found = p.segment([image, 255 - image], "roofs")
    assert [r.query for r in found] == ["roofs"] * 2 and found[0].image != found[1].image
    found = p.segment([image, 255 - image], ["nothing", "roofs"])
    assert [r.refused for r in found] == [True, False]
    assert len(p.segment([image] * 20, ["roofs"] * 20)) == 20
    assert p.segment([image], ["roofs"])[0].query == "roofs"
    assert p.segment([], "roofs") == p.segment(image, []) == []
    asked = len(answerer.asked)
    with pytest.raises(UserError, match="2 images and 3 questions do not pair"):
        p.segment([image, image], ["roofs"] * 3)
    for odd in ("", "  ", 3):
        with pytest.raises(UserError, match="text that is not empty"):
            p.segment(image, odd)  # type: ignore[call-overload]
    with pytest.raises(UserError, match="no file"):
        p.segment([image, "gone.png"], "roofs")
    assert len(answerer.asked) == asked  # nothing is asked before all is in order


def test_segmenters_are_compared_on_one_answer(p: Prompter, answerer: Scripted, image: np.ndarray) -> None:
    both = p.compare(image, "roofs", ["box", "tests.fixtures.tight_segmenter:build"])
    assert isinstance(both, Comparison) and len(answerer.asked) == 1
    names = list(both)
    assert names[0] == "box" and len(both) == 2
    assert both.ious.shape == (2, 2) and both.ious[0, 0] == 1 and both.ious[0, 1] == both.ious[1, 0]
    assert both.plot(100).size == (212, 101)
    assert both._repr_html_().count("<img") == 2
    again = both[names[1]].refine(boxes=[0, 0, 4, 4])  # by the segmenter that it came from
    assert again.executor == names[1]
    for executors in ([], ["box", "box"]):
        with pytest.raises(UserError, match="each once"):
            p.compare(image, "roofs", executors)


def test_a_closed_prompter_says_so_and_leaves_results(answerer: Scripted, image: np.ndarray) -> None:
    p = Prompter(answerer, open_executor(ExecutorConfig(family="box")), "box")
    r = p.segment(image, "roofs")
    p.close()
    p.close()
    assert answerer.closed == 1 and repr(p).endswith("closed>")
    for call in (lambda: p.segment(image, "roofs"), lambda: r.refine(boxes=[0, 0, 4, 4])):
        with pytest.raises(UserError, match="closed"):
            call()
    assert r.masks.any() and r.plot(64).size == (64, 48)


def test_masks_that_a_policy_brings_need_no_segmenter(image: np.ndarray) -> None:
    from envs.masks import encode_rle

    mask = np.zeros((30, 40), np.bool_)
    mask[4:9, 5:20] = True

    class Brings(Scripted):
        def answer(self, samples: Sequence[Sample]) -> list[Answer]:
            prompts = PromptSet((Instance((5, 4, 20, 9)),))
            return [Answer("", prompts, masks=(encode_rle(mask),), scores=(0.5,)) for _ in samples]

    r = Prompter(Brings(), None, "own-masks").segment(image, "roofs")
    assert (r.masks[0] == mask).all() and r.scores.tolist() == [0.5]
    with pytest.raises(UserError, match="no segmenter"):
        r.refine(boxes=[0, 0, 4, 4])


@pytest.mark.parametrize(
    ("policy", "options", "said"),
    [
        ("shipped:smal-policy", {}, "Did you mean 'small-policy'"),
        ("baseline:centre-point", {"executor": "boxx"}, "there is no executor family 'boxx'"),
        ("baseline:centre-point", {"executor": "box,treshold=1"}, "treshold"),
        ("baseline:centre-point", {"stretch": "squeeze"}, "option 'stretch' must be"),
        ("baseline:centre", {}, "there is no baseline 'centre'"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_a_sentence(policy: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(policy, **{"executor": "box", **options})


def test_any_answerer_of_an_evaluation_can_be_asked(image: np.ndarray) -> None:
    with load("baseline:centre-point", executor="box") as p:
        r = p.segment(image, "whatever")
    assert r.prompts == PromptSet((Instance(positive_points=((20, 15),)),))
    assert r.policy == "baseline:centre-point" and r.union[15, 20]


def test_a_result_is_saved_as_its_ending_says(p: Prompter, image: np.ndarray, tmp_path: Path) -> None:
    r = p.segment(image, "roofs")
    assert r.save(tmp_path / "all") == tmp_path / "all"
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        *("coco.json", "mask.png", "objects.geojson", "overlay.jpg", "result.json")
    ]
    assert (np.asarray(Image.open(tmp_path / "all" / "mask.png")) == r.union * 255).all()
    assert json.loads((tmp_path / "all" / "result.json").read_text()) == json.loads(json.dumps(r.to_json()))
    for name, kind in (("a.png", "PNG"), ("a.JPG", "JPEG")):
        assert Image.open(r.save(tmp_path / name)).format == kind
    assert json.loads(r.save(tmp_path / "a.geojson").read_text()) == r.to_geojson()
    with pytest.raises(UserError, match="exists already"):
        r.save(tmp_path / "all")


def test_the_page_fragment_escapes_what_was_asked_and_fetches_nothing(
    p: Prompter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "<script>alert(1)</script>"
    monkeypatch.setitem(SAID, query, Answer("<think><b>x</b></think>", BOXES))
    html = p.segment(image, query)._repr_html_()
    assert "<script" not in html and "<b>x" not in html and "&lt;script&gt;" in html
    assert "http" not in html and html.count("data:image/jpeg;base64,") == 1


def test_objects_are_drawn_in_colours_of_their_own(p: Prompter, image: np.ndarray) -> None:
    r = p.segment(np.full_like(image, 128), "roofs")
    plot = np.asarray(r.plot(400)).astype(int)
    first, second, ground = plot[85, 40], plot[200, 220], plot[280, 40]
    assert first[0] > first[2] + 40 and second[2] > second[1] + 20  # orange, pink
    assert np.ptp(ground) < 6


def test_the_segmentation_of_a_failing_instance_keeps_its_place(
    p: Prompter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask may be empty: the object stays, with a box of zeros and no geometry."""
    empty = np.zeros((30, 40), np.bool_)
    one = empty.copy()
    one[1, 2] = True
    done = Segmentation(one, np.array([0.2, 0.9], np.float32), instance_masks=(empty, one))
    monkeypatch.setattr(p._executors["box"], "segment", lambda requests, **_: [done])
    r = p.segment(image, "roofs")
    assert r.boxes.tolist() == [[0, 0, 0, 0], [2, 1, 3, 2]]
    assert [f["geometry"] is None for f in r.to_geojson()["features"]] == [True, False]
    assert [a["area"] for a in r.to_coco()["annotations"]] == [0, 1]
