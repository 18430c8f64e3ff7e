"""The probe tells every frame and dialect apart, says when it cannot, and what contradicts the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from envs.sample import Sample
from eval.probe.pictures import SQUARES, questions
from eval.probe.places import FRAMES, SETTABLE, supposed_frames
from eval.probe.run import WORDINGS, ProbeReport, is_known, probe, report_text, verdict_sentence
from prompter.checkpoint import load_policy
from prompter.dialects import DIALECTS
from prompter.errors import UserError
from prompter.policy import Policy, PolicySettings
from prompter.types import Answer, Box
from tests.fixtures.endpoint import find_square, spoken

DIGITS = {"unit": 3}
Speaker = Callable[[Sample, tuple[int, int]], str]


class Speaking:
    """Answers with what `speak` says of a sample and of the size at which it was shown."""

    def __init__(self, speak: Speaker, **settings: Any) -> None:
        given = PolicySettings.model_validate(settings).resolved()
        self.policy = Policy(given, given.frame or "absolute", 28)
        self.speak = speak
        self.asked = 0

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        self.asked += len(samples)
        texts = [self.speak(one, self.policy.frame(one.image_wh).model_wh) for one in samples]
        return [
            Answer(text, self.policy.parse(text, one.image_wh), 9)
            for text, one in zip(texts, samples, strict=True)
        ]

    def close(self) -> None:
        pass


def speaker(dialect: str, frame: str, noise: float = 0.0, seed: int = 0) -> Speaker:
    """Speaks of the square in a frame and a dialect, beside it by `noise` of the picture's shorter side."""
    rng = np.random.default_rng(seed)

    def speak(sample: Sample, model_wh: tuple[int, int]) -> str:
        extent = supposed_frames(sample.image_wh, model_wh)[frame].extent
        box = find_square(sample.load_image())
        shift = rng.normal(0, noise, 2) * min(sample.image_wh) if noise else (0.0, 0.0)
        x, y = (max(-low, float(by)) for low, by in zip(box[:2], shift, strict=True))
        x, y = min(x, sample.image_wh[0] - box[2]), min(y, sample.image_wh[1] - box[3])
        moved: Box = (box[0] + x, box[1] + y, box[2] + x, box[3] + y)
        return spoken(dialect, moved, extent, sample.image_wh, DIGITS.get(frame, 0))

    return speak


def probed(speak: Speaker, **settings: Any) -> ProbeReport:
    return probe(Speaking(speak, **settings))


def test_the_squares_are_where_they_are_said_to_be() -> None:
    asked = questions(WORDINGS[0])
    assert len(asked) == len(SQUARES) == 6
    for one in asked:
        assert find_square(one.sample.load_image()) == one.box == one.sample.boxes[0]
        assert one.sample.load_image().size == one.sample.image_wh
    assert asked[0].sample.query == "the red square"


@pytest.mark.parametrize("dialect", [*DIALECTS, "box-tokens-stripped"])
@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_and_dialect_is_told(frame: str, dialect: str) -> None:
    report = probed(speaker(dialect, frame))
    verdict = report.verdict
    assert (verdict.frame, verdict.same_frames) == (frame, ())
    assert verdict.dialect == dialect.removesuffix("-stripped")
    assert verdict.told and not verdict.reasons and len(report.asked) == 6
    said = " ".join(report.contradictions)
    assert ("fit the frame" in said) == (frame != "absolute")
    assert (f"frame={frame}" in said) == (frame in SETTABLE and frame != "absolute")
    can_read = dialect in ("prompter", *(name for name in ("qwen", "think2seg") if name == dialect))
    assert ("are in the dialect" in said) == (not can_read)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_policy_set_to_what_it_speaks_contradicts_nothing(dialect: str) -> None:
    settings: dict[str, Any] = {"reads": dialect, "frame": "thousandths"}
    report = probed(speaker(dialect, "thousandths"), **settings)
    assert report.verdict.told and report.contradictions == []
    assert report.verdict.read_as_set == 6 and report.to_json()["set"] == settings


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("frame", SETTABLE)
def test_a_rough_eye_is_no_obstacle_and_never_gives_a_wrong_frame(frame: str, seed: int) -> None:
    assert probed(speaker("prompter", frame, noise=0.08, seed=seed)).verdict.frame == frame
    assert probed(speaker("prompter", frame, noise=0.4, seed=seed)).verdict.frame in (frame, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I see a square.",
        "<answer>[]</answer>",
        '<answer>[{"bbox_2d":[10,10,60,60]}]</answer>',
        '<answer>[{"bbox_2d":[0,0,1000,1000]}]</answer>',
        '<answer>[{"bbox_2d":[400,400,600,600]}]</answer>',
    ],
)
def test_what_never_looks_is_not_told_and_asked_twelve_times_at_most(text: str) -> None:
    answerer = Speaking(lambda sample, wh: text)
    report = probe(answerer)
    assert report.verdict.frame is None and answerer.asked == 12
    assert report.verdict.reasons and "cannot tell" in verdict_sentence(report)
    assert not any("fit the frame" in one for one in report.contradictions)


def test_prose_tells_a_frame_and_no_dialect() -> None:
    verdict = probed(speaker("prose", "thousandths")).verdict
    assert (verdict.frame, verdict.dialect) == ("thousandths", None)
    assert "no dialect reads" in verdict.reasons[0]


def test_frames_that_are_the_same_at_the_sizes_shown_are_said_so() -> None:
    report = probed(speaker("prompter", "thousandths"), image={"side": 1008})
    assert report.verdict.frame == "thousandths" and report.verdict.same_frames == ("absolute",)
    assert report.contradictions == []


def test_two_wordings_that_disagree_tell_nothing() -> None:
    def speak(sample: Sample, wh: tuple[int, int]) -> str:
        if "building" in sample.query:
            return speaker("prompter", "absolute")(sample, wh)
        return speaker("prose", "thousandths")(sample, wh)

    verdict = probed(speak).verdict
    assert verdict.frame is None and "fit thousandths" in verdict.reasons[-1]


def test_an_action_space_that_refuses_readable_answers_is_said() -> None:
    report = probed(speaker("qwen", "absolute"))
    assert report.verdict.read_as_set == 0 and report.verdict.failures == {"wrong_action": 6}
    assert "wrong_action 6" in report.contradictions[0] and "reads=qwen" in report.contradictions[0]


def test_the_report_says_what_was_asked_and_found() -> None:
    report = probed(speaker("visionreasoner", "thousandths"))
    text = report_text(report)
    assert "6 questions about drawn squares" in text and "frame: thousandths (0 to 1000" in text
    assert "reads=visionreasoner" in text and "frame=thousandths" in text
    line = report.to_json()
    assert line["frame"] == "thousandths" and line["told"] and len(line["answers"]) == 6
    assert line["frames"][0]["iou"] > 0.9 and line["dialects"][0]["read"] == 6


def test_only_a_policy_can_be_probed() -> None:
    from eval.answerers import build_answerer

    with pytest.raises(UserError, match="no frame and no dialect to probe"):
        probe(build_answerer("baseline:no-target"))


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({}, False),
        ({"frame": "absolute"}, False),
        ({"reads": "prompter"}, False),
        ({"reads": "prompter", "frame": "absolute"}, True),
        ({"reads": "visionreasoner"}, True),
        ({"reads": "qwen"}, False),
    ],
)
def test_an_endpoint_is_known_when_frame_and_dialect_are_stated(options: dict[str, Any], known: bool) -> None:
    settings = PolicySettings.model_validate(options)
    assert is_known(Policy(settings, settings.frame or "absolute", 28), options) is known


def test_a_checkpoint_of_ours_is_known() -> None:
    assert is_known(load_policy("shipped:small-policy"), {})
