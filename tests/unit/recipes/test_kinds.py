"""Questions with a target and without are weighed apart, over all ranks."""

from __future__ import annotations

import pytest
import torch

from recipes.config import GroupConfig
from recipes.training.kinds import is_targeted, weighed_by_kind
from tests.fixtures.toy_task import Squares

ADVANTAGES = torch.tensor([0.1, -0.1, 0.2, -0.2, 0.5, -0.5, 0.0, 0.0])
TARGETED = [True, True, True, True, False, False, False, True]


def test_a_question_without_a_target_is_known_by_its_mask() -> None:
    assert [is_targeted(sample) for sample in Squares(5)] == [True, True, True, True, False]


def test_nothing_asked_for_changes_nothing() -> None:
    assert weighed_by_kind(ADVANTAGES, TARGETED, GroupConfig()) is ADVANTAGES


def test_each_kind_has_the_same_root_mean_square_and_keeps_its_own_proportions() -> None:
    found = weighed_by_kind(ADVANTAGES, TARGETED, GroupConfig(balance="kind"))
    where, refusals = found[:4], found[4:6]
    assert float(where.square().mean()) == pytest.approx(1.0) == float(refusals.square().mean())
    assert float(where[2] / where[0]) == pytest.approx(2.0)
    assert found[6:].tolist() == [0.0, 0.0]  # rows without an advantage are in no mean


def test_the_weight_is_of_questions_without_a_target_alone() -> None:
    found = weighed_by_kind(ADVANTAGES, TARGETED, GroupConfig(no_target_weight=0.5))
    assert found.tolist() == pytest.approx([0.1, -0.1, 0.2, -0.2, 0.25, -0.25, 0.0, 0.0])
    both = weighed_by_kind(ADVANTAGES, TARGETED, GroupConfig(balance="kind", no_target_weight=0.0))
    assert both[4:6].tolist() == [0.0, 0.0] and float(both[0]) != 0.0


def test_two_ranks_divide_by_what_they_have_together() -> None:
    group = GroupConfig(balance="kind")
    told: list[list[tuple[float, int]]] = []
    for rows in (slice(0, 4), slice(4, 8)):
        weighed_by_kind(ADVANTAGES[rows], TARGETED[rows], group, lambda own: told.append(own) or [own])  # type: ignore[func-returns-value]
    whole = weighed_by_kind(ADVANTAGES, TARGETED, group)
    parts = [
        weighed_by_kind(ADVANTAGES[rows], TARGETED[rows], group, lambda own: told)
        for rows in (slice(0, 4), slice(4, 8))
    ]
    assert torch.allclose(torch.cat(parts), whole)


def test_a_window_of_one_kind_and_one_without_any_advantage_are_left_whole() -> None:
    zero = torch.zeros(4)
    assert (
        weighed_by_kind(zero, [True, True, False, False], GroupConfig(balance="kind")).tolist() == [0.0] * 4
    )
