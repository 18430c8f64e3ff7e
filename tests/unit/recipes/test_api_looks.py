"""Several looks at a question of a user's own: one answer, with how far it can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.executors import ExecutorConfig, open_executor
from envs.sample import Sample
from eval.answerers.base import LookedAnswers, LookSettings
from eval.looks.calibration import CalibrationFile, fit_calibration
from prompter import Prompter
from prompter.errors import UserError
from prompter.types import Answer, Instance, PromptSet

WRONG, RIGHT = (2, 3, 10, 12), (20, 5, 30, 25)
NEAR = (20, 5, 30, 24)


def said(*boxes: tuple[int, int, int, int]) -> Answer:
    return Answer("[…]", PromptSet(tuple(Instance(tuple(map(float, box))) for box in boxes)))  # type: ignore[arg-type]


class Scripted:
    """Greedily wrong; of the answers drawn, three of four agree."""

    drawn = (said(RIGHT), said(WRONG), said(NEAR), said(RIGHT))

    def __init__(self) -> None:
        self.settings: list[LookSettings] = []

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        return [said(WRONG) for _ in samples]

    def look(self, samples: Sequence[Sample], settings: LookSettings) -> LookedAnswers:
        self.settings.append(settings)
        return LookedAnswers([[said(WRONG), *self.drawn[: settings.samples]] for _ in samples], 0.0, 0.0)

    def close(self) -> None:
        pass


class Blunt:
    """Has one answer to a question."""

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        return [said(WRONG) for _ in samples]

    def close(self) -> None:
        pass


def opened(answerer: Any) -> Prompter:
    return Prompter(answerer, open_executor(ExecutorConfig(family="box")), "box", policy="scripted")


@pytest.fixture
def answerer() -> Scripted:
    return Scripted()


@pytest.fixture
def p(answerer: Scripted) -> Iterator[Prompter]:
    with opened(answerer) as prompter:
        yield prompter


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def test_what_most_looks_say_is_the_answer_and_their_agreement_its_confidence(
    p: Prompter, image: np.ndarray
) -> None:
    once, looked = p.segment(image, "roofs"), p.segment(image, "roofs", looks=4)
    assert once.boxes.tolist() == [list(WRONG)]
    assert once.confidence == {} and "confidence" not in once.to_json()
    assert looked.boxes.tolist() == [list(RIGHT)] and p.counters["encodes"] == 1
    # RIGHT agrees with itself drawn once more, with NEAR by 190 of 200 pixels, and not with WRONG.
    assert looked.confidence["agreement"] == pytest.approx((1 + 0.95 + 0) / 3)
    assert looked.confidence["share"] == 0.75
    assert looked.to_json()["confidence"] == looked.confidence
    assert looked.refine(boxes=[0, 0, 4, 4]).confidence == {}


def test_each_of_several_questions_is_looked_at(p: Prompter, answerer: Scripted, image: np.ndarray) -> None:
    how = {"samples": 3, "shift": 0.06, "seed": 7, "combine": "greedy"}
    first, second = p.segment(image, ["roofs", "cars"], looks=how)
    assert (first.query, second.query) == ("roofs", "cars")
    assert first.boxes.tolist() == second.boxes.tolist() == [list(WRONG)]
    assert first.confidence["share"] == pytest.approx(1 / 3)  # WRONG was drawn once of three times
    assert answerer.settings == [LookSettings(3, temperature=0.0, seed=7, shift=0.06)]


def test_a_mask_that_no_look_drew_is_one_object(p: Prompter, image: np.ndarray) -> None:
    r = p.segment(image, "roofs", looks={"samples": 4, "combine": "vote"})
    assert r.boxes.tolist() == [list(NEAR)]  # the last row of RIGHT is in two of four, which is not most
    assert len(r.to_coco()["annotations"]) == len(r.to_geojson()["features"]) == 1


def test_a_calibration_turns_agreement_into_an_expected_iou(
    p: Prompter, image: np.ndarray, tmp_path: Path
) -> None:
    path, made = tmp_path / "calibration.json", {"rule": "consensus", "samples": 4, "source": "agreement"}
    CalibrationFile(made, {"box": fit_calibration([0.2, 0.9], [0.1, 0.8])}).write(path)
    r = p.segment(image, "roofs", looks={"samples": 4, "calibration": path})
    assert 0.1 < r.confidence["iou"] < 0.8 and 0 < r.confidence["hit"] < 1  # type: ignore[operator]
    with pytest.raises(UserError, match="fitted with samples = 4, not 3"):
        p.segment(image, "roofs", looks={"samples": 3, "calibration": path})
    CalibrationFile(made, {"other": fit_calibration([0.2], [0.1])}).write(path)
    with pytest.raises(UserError, match="is for other, not for box"):
        p.segment(image, "roofs", looks={"samples": 4, "calibration": path})


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        ({"samples": 4, "shfit": 0.1}, "looks has no 'shfit'. Did you mean 'shift'"),
        ({"shift": 0.1}, "looks needs the number of samples"),
        ("4", "samples should be a whole number, but is '4'"),
        (True, "samples should be a whole number, but is True"),
        ({"samples": 4, "shift": "far"}, "shift should be a number, but is 'far'"),
        (0, "looks: samples must be at least 1"),
        ({"samples": 4, "shift": 0.6}, "looks: shift must be between 0 and 0.5"),
        ({"samples": 4, "temperature": 0}, "looks: temperature must be above 0"),
        ({"samples": 4, "combine": "medoids"}, "Did you mean 'medoid'"),
        ({"samples": 4, "combine": "best"}, "looks at the target, and a question of your own has none"),
        ({"samples": 4, "confidence": "agreements"}, "Did you mean 'agreement'"),
        ({"samples": 4, "calibration": "gone.json"}, "gone.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_before_anything_is_asked(
    p: Prompter, answerer: Scripted, image: np.ndarray, looks: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        p.segment(image, "roofs", looks=looks)
    assert not answerer.settings and not p.counters["encodes"]


def test_who_does_not_sample_is_told_so(image: np.ndarray) -> None:
    with opened(Blunt()) as p, pytest.raises(UserError, match="looks needs a policy that samples"):
        p.segment(image, "roofs", looks=4)
