"""Precision, recall and F1 of choosing among masks on offer, beside chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.bootstrap import Bootstrap
from eval.choices import chance_score, choice_lines, choice_score, read_choices, summarise_choices
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.types import Choice

QUICK = Bootstrap(rounds=50)


def test_a_choice_is_scored_by_what_matches() -> None:
    score = choice_score(Choice(10, (1, 2, 3), (2, 7)))
    assert (score.precision, score.recall, score.f1) == (1 / 3, 1 / 2, 2 / 5)
    nothing = choice_score(Choice(10, (), (2,)))
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)


@pytest.mark.parametrize(("offered", "matching", "probability"), [(3, 1, 0.5), (12, 2, 0.5), (20, 3, 0.15)])
def test_chance_is_what_drawing_gives(offered: int, matching: int, probability: float) -> None:
    rng = np.random.default_rng(0)
    right = tuple(range(matching))
    drawn = []
    for _ in range(20_000):
        chosen = tuple(np.flatnonzero(rng.random(offered) < probability).tolist())
        score = choice_score(Choice(offered, chosen, right))
        drawn.append((score.precision, score.recall, score.f1))
    expected = chance_score(offered, matching, probability)
    found = np.array(drawn)
    error = 5 * found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - (expected.precision, expected.recall, expected.f1)) < error).all()


def test_one_who_takes_all_or_nothing() -> None:
    everything = chance_score(8, 2, 1.0)
    assert (everything.precision, everything.recall) == (0.25, 1.0)
    assert everything.f1 == pytest.approx(4 / 10)
    nothing = chance_score(8, 2, 0.0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)


def test_questions_without_a_right_mask_are_counted_apart() -> None:
    choices = [
        Choice(4, (0,), (0,)),
        Choice(6, (1, 2), (2, 3, 4)),
        Choice(5, (), ()),
        Choice(5, (3,), ()),
    ]
    found = summarise_choices(choices, np.array([0, 1, 1, 2]), QUICK)
    assert found["questions"] == 4 and found["answerable"] == 2
    assert found["none_right"] == {"questions": 2, "left_alone": 0.5}
    assert (found["offered"], found["matching"], found["share"]) == (5.0, 2.0, 0.4)
    assert found["scores"]["chosen"]["precision"]["value"] == 0.75
    assert found["scores"]["RandClass"]["recall"]["value"] == pytest.approx(0.4)
    assert found["scores"]["Rand50"]["precision"]["value"] == pytest.approx(
        (0.25 * (1 - 1 / 16) + 0.5 * (1 - 1 / 64)) / 2
    )
    text = "\n".join(choice_lines(found))
    assert "2 of 4 questions have a right one" in text and "50.00 % were answered by no mask" in text
    assert "Rand50" in text
    none = summarise_choices(choices[2:], np.array([0, 1]), QUICK)
    assert none["scores"] == {} and "0 of 2" in choice_lines(none)[0]


def test_choices_are_read_from_a_runs_answers(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    path = folder.path / "completions.jsonl"
    assert read_choices(folder) is None
    lines = [{"sample_id": "a"}, {"sample_id": "b", "choice": Choice(3, (0,), (0, 2)).to_json()}]
    path.write_text(json.dumps(lines[0]) + "\n")
    assert read_choices(folder) is None
    path.write_text(json.dumps(lines[1]) + "\n")
    assert read_choices(folder) == [Choice(3, (0,), (0, 2))]
    path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    with pytest.raises(UserError, match="1 answers are no choice"):
        read_choices(folder)
