"""Which completions of a group are kept: properties of the rules, whatever the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompter.errors import UserError
from recipes.training.scoring import ScoredGroup
from recipes.training.selection import SELECTIONS, selected
from tests.fixtures.toy_task import completion

REWARDS = st.floats(-2, 2, allow_nan=False, width=32)
GROUPS = st.lists(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), REWARDS), min_size=2, max_size=9)


@given(GROUPS, st.integers(1, 9))
def test_spread_is_the_subset_of_largest_variance(rewards: list[float], keep: int) -> None:
    chosen = selected("spread", rewards, keep)
    wanted = min(keep, len(rewards))
    best = max(float(np.var(one)) for one in combinations(rewards, wanted))
    assert float(np.var([rewards[one] for one in chosen])) == pytest.approx(best, abs=1e-9)


@given(GROUPS, st.integers(2, 9))
def test_spread_keeps_both_tails_and_so_the_spread_of_the_group(rewards: list[float], keep: int) -> None:
    chosen = [rewards[one] for one in selected("spread", rewards, keep)]
    if max(rewards) - min(rewards) > 1e-3:
        assert min(chosen) == min(rewards) and max(chosen) == max(rewards)
    left = sorted(rewards)
    for one in chosen:
        left.remove(one)
    low = [one for one in chosen if left and one < min(left)]
    high = [one for one in chosen if left and one > max(left)]
    between = [one for one in chosen if left and min(left) < one < max(left)]
    assert not between, "no reward from the middle while a more extreme one was left out"
    assert len(low) + len(high) <= len(chosen)


@given(
    st.lists(st.one_of(st.none(), REWARDS), min_size=1, max_size=300),
    st.integers(1, 256),
    st.sampled_from(list(SELECTIONS)),
)
def test_every_rule_keeps_as_many_as_it_should_and_failures_last(
    rewards: list[float | None], keep: int, rule: str
) -> None:
    chosen = selected(rule, rewards, keep)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(keep, len(rewards))
    assert all(0 <= one < len(rewards) for one in chosen)
    known = sum(reward is not None for reward in rewards)
    kept_unknown = sum(rewards[one] is None for one in chosen)
    assert kept_unknown == max(0, len(chosen) - known), "a failure only where nothing else is left"


@given(GROUPS, st.integers(2, 8), st.randoms())
def test_the_rewards_kept_do_not_depend_on_the_order_of_the_group(
    rewards: list[float], keep: int, random: object
) -> None:
    shuffled = list(rewards)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for rule in ("spread", "extremes", "best"):
        ours = [rewards[one] for one in selected(rule, rewards, keep)]
        theirs = [shuffled[one] for one in selected(rule, shuffled, keep)]
        assert float(np.var(ours)) == pytest.approx(float(np.var(theirs)), abs=1e-9)
        if rule != "spread":  # whose largest variance two different subsets can share
            assert sorted(ours) == sorted(theirs)


def test_binary_rewards_are_balanced() -> None:
    rewards = [1.0] * 3 + [0.0] * 29
    kept = [rewards[one] for one in selected("spread", rewards, 8)]
    assert kept.count(1.0) == 3, "all that there are"
    kept = [rewards[one] for one in selected("spread", [1.0] * 20 + [0.0] * 12, 8)]
    assert len(kept) == 8 and sorted(selected("spread", [1.0] * 20 + [0.0] * 12, 8)) == [
        *range(16, 20),
        *range(20, 24),
    ]


def test_rules_by_hand() -> None:
    rewards = [0.2, 0.9, 0.1, 0.5, 0.8, 0.3]
    assert selected("extremes", rewards, 4) == [0, 1, 2, 4]
    assert selected("best", rewards, 2) == [1, 4]
    assert selected("first", rewards, 3) == [0, 1, 2]
    assert selected("spread", rewards, 2) == [1, 2]
    assert selected("spread", [1e9, 1e9 + 1, 1e9 + 2, 1e9 + 1], 2) == [0, 2], (
        "large numbers keep their difference"
    )


def two_of_itself(rewards: Sequence[float], keep: int) -> list[int]:
    return [0] * keep


def worst(rewards: Sequence[float], keep: int) -> list[int]:
    return [int(one) for one in np.argsort(rewards)[:keep]]


def test_a_rule_of_ones_own_and_one_that_is_wrong() -> None:
    here = "tests.unit.recipes.test_selection"
    assert selected(f"{here}:worst", [0.3, 0.1, 0.2], 2) == [1, 2]
    with pytest.raises(UserError, match=r"must give 2 distinct positions of 3 rewards, but gave \[0, 0\]"):
        selected(f"{here}:two_of_itself", [0.3, 0.1, 0.2], 2)
    with pytest.raises(UserError, match="no selection 'spred'"):
        selected("spred", [0.3, 0.1, 0.2], 2)


def test_a_group_of_some_of_its_completions() -> None:
    texts = ["a", "b", "c", "d"]
    records: list = [f"{text}/{executor}" for text in texts for executor in ("one", "two")]
    group = ScoredGroup(7, [completion(text) for text in texts], [0.1, None, 0.3, 0.4], records)
    some = group.only([1, 3])
    assert (some.index, [one.text for one in some.completions]) == (7, ["b", "d"])
    assert some.rewards == [None, 0.4]
    assert some.rollouts == ["b/one", "b/two", "d/one", "d/two"]
