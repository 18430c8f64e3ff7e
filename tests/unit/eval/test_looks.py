"""Combining looks: what every rule keeps to, who votes, and what the confidence is."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from envs.masks import iou
from envs.rollout import Rollout
from eval.looks.ballot import Ballot
from eval.looks.combining import answer_of
from eval.looks.confidence import measure
from eval.looks.curve import curve_of, numbers_of_looks, score_looks
from eval.looks.records import looks_from_line, looks_line, read_looks
from eval.looks.rules import RULES, Choice
from prompter.errors import UserError
from prompter.runs.jsonl import write_lines
from prompter.types import ParseFailure
from rewards.mask import mask_iou
from tests.fixtures.looks import FAILED, HW, NONE, UNREAD, Said, box_mask, look

SAMPLED_RULES = [name for name in RULES if name != "greedy"]
ANSWERING = [name for name in SAMPLED_RULES if name != "best"]


def ballot(*said: Said, greedy: Said = UNREAD, scores: Sequence[float | None] | None = None) -> Ballot:
    given = scores or [None] * len(said)
    return Ballot([look(greedy), *(look(one, score=score) for one, score in zip(said, given, strict=True))])


def answered(name: str, one: Ballot) -> Rollout:
    return answer_of(one, RULES[name](one))


def noisy(seed: int, count: int) -> list[Said]:
    """Masks that scatter round two places, with some "none" and some prose."""
    random = np.random.default_rng(seed)
    said: list[Said] = []
    for _ in range(count):
        kind = random.random()
        if kind < 0.15:
            said.append(UNREAD)
        elif kind < 0.3:
            said.append(NONE)
        else:
            x, y = (2, 2) if random.random() < 0.6 else (9, 4)
            mask = box_mask(x, y, x + 5, y + 6)
            said.append(mask ^ (random.random(HW) < 0.08))
    return said


@pytest.mark.parametrize("name", [name for name in SAMPLED_RULES if name != "mbr"])
@pytest.mark.parametrize("said", [box_mask(2, 2, 8, 8), NONE, UNREAD, FAILED])
def test_one_sample_is_its_own_answer(name: str, said: Said) -> None:
    one = ballot(said, greedy=box_mask(0, 0, 3, 3))
    found = answered(name, one)
    assert (found.prediction, found.reading) == (one.looks[1].prediction, one.looks[1].reading)
    if name != "vote":  # whose mask is nobody's own, and is compared with every sample
        assert found.confidence["agreement"] is None


@pytest.mark.parametrize("name", ANSWERING)
def test_the_order_of_the_samples_does_not_matter(name: str) -> None:
    for seed in range(12):
        said = noisy(seed, 9)
        scores = list(
            np.random.default_rng(seed).random(9).round(6)
        )  # all different: no tie is left to order
        expected = None
        for turn in range(3):
            order = np.random.default_rng(100 + turn).permutation(9)
            one = ballot(*(said[i] for i in order), scores=[scores[i] for i in order])
            found = answered(name, one)
            key = (found.prediction, type(found.reading), len(getattr(found.reading, "instances", ())))
            expected = expected or key
            assert key == expected


@pytest.mark.parametrize("name", RULES)
def test_samples_that_all_say_the_same_are_the_answer(name: str) -> None:
    mask = box_mask(3, 2, 9, 9)
    found = answered(name, ballot(*[mask] * 5, greedy=mask))
    assert np.array_equal(found.prediction_mask, mask)
    assert found.confidence["agreement"] == found.confidence["share"] == 1.0


@pytest.mark.parametrize("name", RULES)
def test_only_the_bound_sees_the_target(name: str) -> None:
    """Every rule but `best` gives the same answer whatever the target is."""
    for seed in range(6):
        said = noisy(seed, 7)
        found = [
            RULES[name](Ballot([look(one, target=target) for one in [NONE, *said]])).look
            for target in (box_mask(2, 2, 7, 8), box_mask(9, 4, 14, 10))
        ]
        assert name == "best" or found[0] == found[1]
    scores = [
        mask_iou(look(one, target=box_mask(9, 4, 14, 10)))
        for one in (box_mask(2, 2, 7, 8), box_mask(9, 4, 14, 9))
    ]
    assert max(scores) == scores[1]


def test_the_bound_is_no_lower_than_any_rule_that_picks_a_sample() -> None:
    for seed in range(20):
        one = ballot(*noisy(seed, 8))
        top = mask_iou(answered("best", one))
        for name in ("consensus", "medoid", "score"):
            assert mask_iou(answered(name, one)) <= top  # type: ignore[operator]


def test_who_does_not_answer_has_no_vote() -> None:
    mask = box_mask(2, 2, 8, 8)
    for name in ANSWERING:
        found = answered(name, ballot(UNREAD, UNREAD, FAILED, UNREAD, mask))
        assert np.array_equal(found.prediction_mask, mask)
    unread = answered("consensus", ballot(UNREAD, UNREAD))
    assert isinstance(unread.reading, ParseFailure) and unread.confidence["share"] == 0.0


@pytest.mark.parametrize("name", ["consensus", "vote", "score"])
def test_none_needs_more_than_half_of_the_votes(name: str) -> None:
    mask = box_mask(2, 2, 8, 8)
    assert answered(name, ballot(NONE, NONE, mask, UNREAD)).reading.is_empty  # type: ignore[union-attr]
    even = answered(name, ballot(NONE, mask, NONE, mask))
    assert not even.reading.is_empty  # type: ignore[union-attr]


def test_a_mask_without_a_pixel_is_not_an_answer_of_none() -> None:
    """The segmenter drew nothing for a prompt: that names something, and does not agree with "none"."""
    blank = np.zeros(HW, dtype=np.bool_)
    one = ballot(blank, blank, NONE)
    assert one.agreement[1, 2] == 1.0 and one.agreement[1, 3] == 0.0
    assert not answered("consensus", one).reading.is_empty  # type: ignore[union-attr]


def test_consensus_takes_the_largest_cluster_where_the_medoid_of_all_lies_between() -> None:
    small = [box_mask(0, 0, 4, 12), box_mask(0, 0, 4, 11)]
    large = [box_mask(10, 0, 15, 12), box_mask(10, 0, 15, 11), box_mask(10, 0, 14, 12)]
    found = answered("consensus", ballot(*small, *large))
    assert iou(found.prediction_mask, large[0]) == 1.0
    assert found.confidence["share"] == pytest.approx(3 / 5)


def test_the_greedy_look_is_one_of_those_that_mbr_chooses_from_and_wins_ties() -> None:
    near, other = box_mask(2, 2, 8, 8), box_mask(9, 2, 15, 8)
    assert RULES["mbr"](ballot(other, greedy=near)).look == 0, "one sample cannot outvote it"
    assert RULES["mbr"](ballot(other, other, greedy=near)).look == 1
    assert RULES["mbr"](ballot(other, other, near, near, greedy=near)).look == 0
    assert RULES["mbr"](ballot(NONE, NONE, near, greedy=near)).look == 0
    assert RULES["mbr"](ballot(other, UNREAD, greedy=UNREAD)).look == 1
    assert RULES["mbr"](ballot(UNREAD, FAILED, greedy=UNREAD)).look == 0


def test_the_vote_holds_what_most_hold_and_speaks_with_the_nearest_voice() -> None:
    masks = [box_mask(2, 2, 6, 8), box_mask(2, 2, 7, 8), box_mask(2, 2, 12, 8)]
    one = ballot(*masks, NONE)
    choice = RULES["vote"](one)
    assert np.array_equal(choice.mask, masks[1]) and choice.look == 2
    found = answer_of(one, choice)
    assert found.predicted_instances == () and found.reading == one.looks[2].reading
    assert found.confidence["agreement"] == pytest.approx(np.mean([24 / 30, 1.0, 30 / 60, 0.0]))


def test_score_takes_the_segmenters_best_and_then_agreement() -> None:
    masks = [box_mask(2, 2, 8, 8), box_mask(2, 2, 9, 8), box_mask(9, 2, 15, 8)]
    assert RULES["score"](ballot(*masks, scores=[0.5, 0.6, 0.9])).look == 3
    assert RULES["score"](ballot(*masks, scores=[0.9, 0.9, 0.9])).look in (1, 2)


def test_confidence_counts_what_was_not_read_against_the_answer() -> None:
    mask = box_mask(2, 2, 8, 8)
    one = ballot(mask, mask, UNREAD, NONE, scores=[0.8, 0.8, None, None])
    found = measure(one, Choice(1))
    assert found == {"agreement": pytest.approx(1 / 3), "share": 0.5, "predicted_iou": 0.8, "stability": None}
    assert measure(one, Choice(4))["predicted_iou"] is None  # "none" has no score


def test_looks_are_kept_whole(tmp_path: Path) -> None:
    said: list[Said] = [box_mask(2, 2, 8, 8), NONE, UNREAD, FAILED]
    looks = tuple(look(one, score=0.5) for one in said)
    assert looks_from_line(looks_line(looks)) == looks
    write_lines(tmp_path / "box.jsonl", [looks_line(looks), looks_line(looks[:3])])
    with pytest.raises(UserError, match="line 2 holds 3 looks where 4 were expected"):
        list(read_looks(tmp_path / "box.jsonl"))


def test_a_rollout_of_before_opens_and_a_plain_one_is_written_as_before() -> None:
    plain = look(box_mask(2, 2, 8, 8), score=0.5)
    line = plain.to_json()
    assert "confidence" not in line and "stability" not in line and Rollout.from_json(line) == plain
    rich = answered("medoid", ballot(box_mask(2, 2, 8, 8), NONE))
    assert Rollout.from_json(rich.to_json()) == rich and rich.confidence


def test_the_first_looks_are_what_they_would_be_alone() -> None:
    whole = ballot(*noisy(3, 8))
    whole.first(3)  # what is known of the whole is taken over
    for number, name in itertools.product((1, 2, 5), SAMPLED_RULES):
        alone, part = Ballot(whole.looks[: number + 1]), whole.first(number)
        assert np.array_equal(alone.agreement, part.agreement)
        assert RULES[name](alone).look == RULES[name](part).look


def test_the_curve_is_the_mean_score_of_the_first_looks(tmp_path: Path) -> None:
    assert numbers_of_looks(16) == [1, 2, 4, 8, 16] and numbers_of_looks(6) == [1, 2, 4, 6]
    questions = [[look(one) for one in [NONE, *noisy(seed, 4)]] for seed in range(10)]
    write_lines(tmp_path / "box.jsonl", map(looks_line, questions))
    scores = score_looks(tmp_path / "box.jsonl")
    assert scores is not None
    curve = curve_of(scores)
    assert curve["samples"] == [1, 2, 4] and curve["greedy"]["value"] == 0.0
    expected = [mask_iou(answered("medoid", Ballot(looks[:3]))) for looks in questions]
    found = curve["rules"]["medoid"]
    assert found["gIoU"][1]["value"] == pytest.approx(np.mean(expected))
    assert found["difference"][1]["value"] == pytest.approx(np.mean(expected))
    assert [name for name, one in curve["rules"].items() if one["uses_truth"]] == ["best"]


def test_a_rule_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text(
        "from eval.looks.rules import Choice\n\ndef last(ballot):\n    return Choice(ballot.sampled[-1])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rule = RULES.resolve("my_rules:last")
    assert rule(ballot(NONE, UNREAD, NONE)).look == 3
    sys.modules.pop("my_rules")
