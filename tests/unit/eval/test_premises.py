"""How refusals are read and counted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from envs.masks import encode_rle
from envs.premise import FalsePremise
from envs.rollout import Rollout
from eval.bootstrap import Bootstrap
from eval.metrics import breakdown, table_for
from eval.premises import PremiseTally, is_there, premise_lines, stated
from eval.protocols import get_protocols
from prompter.action import ActionSpace
from prompter.coords import Frame
from prompter.errors import UserError
from prompter.parse import parse_completion
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet, Reading

TANK = FalsePremise(
    "attribute",
    "purple storage tank",
    ("white storage tank", "storage tank", "building", "car"),
    "white storage tank",
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (TANK.refusal(), ["white storage tank"]),
        (
            "No purple school bus is in this view, but there is a yellow school bus.",
            ["yellow school bus"],
        ),
        ("There are no ships here. I can see two cars and a truck near the road.", ["cars", "truck"]),
        ("there is no ship here.", []),
        ("there is nothing like that in the image", []),
        ("<think>The image only shows some buildings.</think><answer>[]</answer>", ["buildings"]),
        ("there's a car but there is no truck", ["car"]),
        ("[]", []),
    ],
)
def test_what_a_text_says_is_there(text: str, names: list[str]) -> None:
    assert stated(text) == names


def test_a_thing_is_there_by_its_name_unless_its_colour_is_known_to_be_another() -> None:
    for phrase in ("white storage tanks", "large storage-tank", "red car", "Building"):
        assert is_there(phrase, TANK.there), phrase
    for phrase in ("purple storage tank", "red storage tank", "truck", "tank", ""):
        assert not is_there(phrase, TANK.there), phrase


def test_a_refusal_with_its_reason_reads_as_an_empty_answer() -> None:
    space, frame = ActionSpace(kind="any", positive_points=1), Frame("thousandths", (64, 64), (64, 64))
    for text in (f"<think>{TANK.refusal()}</think><answer>[]</answer>", f"{TANK.refusal()} []"):
        assert parse_completion(text, action_space=space, frame=frame) == PromptSet()


def rollout(number: int, text: str, reading: Reading, premise: FalsePremise | None, target: bool) -> Rollout:
    mask = np.zeros((8, 8), np.bool_)
    mask[:4] = target
    return Rollout(
        sample_id=str(number),
        dataset="d",
        split="s",
        image_id=str(number // 2),
        image_wh=(8, 8),
        query="q",
        target=encode_rle(mask),
        completion=text,
        reading=reading,
        prediction=None if isinstance(reading, ParseFailure) else encode_rle(mask),
        tags={} if premise is None else premise.to_tags(),
    )


BOX = PromptSet((Instance((0.0, 0.0, 8.0, 4.0)),))
FAILED = ParseFailure(FailureKind.NO_ANSWER, "none")
SHIP = FalsePremise("absent", "ship", ("car",), "car")
NOTHING = FalsePremise("absent", "ship")


def tallied(rollouts: Iterable[Rollout]) -> PremiseTally:
    tally = PremiseTally()
    assert all(tally.watch(rollouts))
    return tally


def test_refusals_and_corrections_are_counted() -> None:
    summary = tallied(
        [
            rollout(0, TANK.refusal(), PromptSet(), TANK, False),  # expected
            rollout(1, "there is a car. []", PromptSet(), TANK, False),  # true, not expected
            rollout(2, "there is a red storage tank. []", PromptSet(), TANK, False),  # false
            rollout(3, "[]", PromptSet(), SHIP, False),  # refused without a word
            rollout(4, "there is a car", FAILED, SHIP, False),
            rollout(5, "it", BOX, SHIP, False),
            rollout(6, NOTHING.refusal(), PromptSet(), NOTHING, False),  # nothing to name
            rollout(7, "it", BOX, None, True),
            rollout(8, "there is a car. []", PromptSet(), None, True),
            rollout(9, "[]", PromptSet(), None, False),  # no target, and no premise said to be false
        ]
    ).summary(Bootstrap(rounds=20))
    assert summary is not None and summary["queries"] == {"absent": 4, "attribute": 3}
    values = {name: metric["value"] for name, metric in summary["metrics"].items()}
    assert values == pytest.approx(
        {
            "N-acc": 5 / 7,
            "N-acc, absent": 2 / 4,
            "N-acc, attribute": 1.0,
            "T-acc": 1 / 2,
            "corrections": 3 / 4,
            "true corrections": 2 / 3,
            "expected corrections": 1 / 3,
        }
    )
    assert "4 absent, 3 attribute" in premise_lines(summary)[0]


def test_nothing_is_reported_where_no_premise_is_false() -> None:
    assert tallied([rollout(0, "[]", PromptSet(), None, False)]).summary() is None


def test_no_breakdown_is_made_by_what_is_true_of_one_image() -> None:
    table = table_for([rollout(0, "[]", PromptSet(), TANK, False)], get_protocols(["strict"]))
    assert set(breakdown(table)) == {"premise", "target-size"}


def test_tags_that_contradict_each_other_are_refused() -> None:
    bad = rollout(3, "[]", PromptSet(), None, False)
    bad = Rollout(
        **{**bad.__dict__, "tags": {"premise": "absent", "premise-asked": "car", "premise-there": "car"}}
    )
    with pytest.raises(UserError, match="sample '3'"):
        tallied([bad])
