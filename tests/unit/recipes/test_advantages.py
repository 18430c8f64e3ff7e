"""Shaping a window's rewards: order is kept, nothing is invented, and the record holds what was earned."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompter.errors import UserError
from recipes.training.advantages import SHAPES, quantile, rank, shape_rewards
from recipes.training.scoring import ScoredGroup
from tests.fixtures.toy_task import completion

REWARD = st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-2, 2, width=32)
WINDOWS = st.lists(st.lists(REWARD, min_size=1, max_size=8), min_size=1, max_size=5)
Rewards = Sequence[float | None]


def groups_of(rewards: Sequence[Rewards]) -> list[ScoredGroup]:
    return [
        ScoredGroup(number, [completion("x")] * len(group), list(group), [])
        for number, group in enumerate(rewards)
    ]


@given(WINDOWS, st.sampled_from(list(SHAPES)))
def test_a_shape_keeps_the_order_within_a_group_and_what_has_no_reward(
    rewards: list[list[float | None]], shape: str
) -> None:
    before = groups_of(rewards)
    after = shape_rewards(before, shape)
    assert [group.index for group in after] == [group.index for group in before]
    for group, shaped in zip(rewards, after, strict=True):
        assert [one is None for one in shaped.rewards] == [one is None for one in group]
        known = [(old, new) for old, new in zip(group, shaped.rewards, strict=True) if old is not None]
        assert all(new is not None and 0.0 <= new <= 1.0 for _, new in known)
        for old, new in known:
            for other, another in known:
                assert old > other or new <= another  # type: ignore[operator]
    assert [group.rewards for group in before] == rewards, "what was earned stays as it was"


@given(WINDOWS)
def test_no_shape_is_no_change(rewards: list[list[float | None]]) -> None:
    assert shape_rewards(before := groups_of(rewards), None) == before


@given(WINDOWS)
def test_a_quantile_is_the_share_of_the_window_that_is_no_larger(rewards: list[list[float | None]]) -> None:
    known = [one for group in rewards for one in group if one is not None]
    for group, shaped in zip(rewards, quantile(rewards), strict=True):
        for reward, value in zip(group, shaped, strict=True):
            if reward is not None:
                assert value == round(sum(one <= reward for one in known) / len(known), 1)


def test_ranks_count_small_differences_like_large_ones() -> None:
    assert rank([[0.1, None, 0.9], [0.50, 0.51], [0.5, 0.5, 1.0], [0.3], [None]]) == [
        [0.0, None, 1.0],
        [0.0, 1.0],
        [0.25, 0.25, 1.0],
        [0.5],
        [None],
    ]


def dropped(groups: Sequence[Rewards]) -> Sequence[Rewards]:
    return groups[1:]


def filled(groups: Sequence[Rewards]) -> Sequence[Rewards]:
    return [[one or 0.0 for one in group] for group in groups]


def infinite(groups: Sequence[Rewards]) -> Sequence[Rewards]:
    return [[None if one is None else float("inf") for one in group] for group in groups]


@pytest.mark.parametrize("name", ["dropped", "filled", "infinite"])
def test_a_shape_of_ones_own_has_to_keep_the_groups(name: str) -> None:
    with pytest.raises(UserError, match=r"a finite number for every reward that is one"):
        shape_rewards(groups_of([[0.5, None], [1.0]]), f"{__name__}:{name}")
    with pytest.raises(UserError, match="Did you mean 'quantile'"):
        shape_rewards([], "quantil")
