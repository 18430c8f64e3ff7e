"""Best-of-n: which completion is imitated, what a window keeps of it, and what it is refused with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prompter.errors import UserError
from recipes.config import GroupConfig, TrainConfig
from recipes.training.imitation import check_objective, describe_imitated, forget_ratios, imitate, weighed
from recipes.training.ranks.shares import shares_of
from recipes.training.scoring import ScoredGroup
from recipes.training.selection import selected
from tests.fixtures.toy_task import completion

REWARDS = st.lists(st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1), min_size=2, max_size=9)


def group_of(rewards: list[float | None]) -> ScoredGroup:
    return ScoredGroup(3, [completion(str(one)) for one in range(len(rewards))], rewards, [])


@given(REWARDS, st.floats(0, 1), st.integers(2, 9), st.sampled_from(["best", "spread", "extremes"]))
def test_the_best_is_imitated_whatever_is_kept_beside_it(
    rewards: list[float | None], floor: float, keep: int, rule: str
) -> None:
    sampled = group_of(rewards)
    kept = sampled.only(selected(rule, rewards, keep)) if keep < len(rewards) else sampled
    taught = weighed(kept, sampled, floor)
    assert taught.weights is not None and len(taught.weights) == len(taught.completions)
    known = [one for one in rewards if one is not None]
    if not known or max(known) <= floor or max(known) - min(known) <= 1e-6:
        assert not any(taught.weights) and not taught.teaches
        return
    assert sorted(taught.weights) == [0.0] * (len(taught.weights) - 1) + [1.0] and taught.teaches
    assert taught.rewards[taught.weights.index(1.0)] == max(known)
    assert describe_imitated([taught]) == {"imitated": 1, "imitated_reward": max(known)}


def test_a_part_of_a_group_and_rows_that_fill_up_keep_their_weights() -> None:
    groups = [
        weighed(one := group_of([0.1, 0.9, None]), one, 0.5),
        weighed(two := group_of([0.6, 0.2, 0.7]), two, 0.5),
    ]
    shares = shares_of(groups, ranks=4, parts=1, end_id=2)
    weights = [weight for share in shares for group in share.groups for weight in group.weights or ()]
    assert weights == [0, 1, 0, 0, 0, 1] + [0] * (len(weights) - 6)
    assert len(weights) == sum(len(group.completions) for share in shares for group in share.groups) > 6


def test_a_batch_that_imitates_has_weights_for_advantages_and_no_ratios() -> None:
    batch: dict[str, Any] = {
        "advantages": torch.tensor([-0.4, 0.4, 0.0]),
        "old_per_token_logps": torch.zeros(3, 2),
        "importance_sampling_ratio": torch.full((3, 2), 1.7),
    }
    groups = [weighed(one := group_of([0.1, 0.9, None]), one, 0.5)]
    imitate(batch, groups, GroupConfig())
    assert batch["advantages"].tolist() == pytest.approx([-0.4, 0.4, 0.0])
    best = GroupConfig(objective="best-of-n")
    imitate(batch, groups, best)
    forget_ratios(batch, GroupConfig())
    assert "old_per_token_logps" in batch
    forget_ratios(batch, best)
    assert batch["advantages"].tolist() == [0.0, 1.0, 0.0]
    assert "old_per_token_logps" not in batch and bool((batch["importance_sampling_ratio"] == 1).all())
    with pytest.raises(UserError, match="sampled for another objective"):
        imitate(batch, [group_of([0.1, 0.9, None])], best)


def test_a_loss_that_is_no_likelihood_is_refused() -> None:
    config: dict[str, Any] = {
        "run_dir": "x",
        "policy": {"model": "m"},
        "dataset": {"name": "d"},
        "group": {"objective": "best-of-n"},
        "trainer": {"loss_type": "sapo"},
    }
    with pytest.raises(UserError, match="loss_type sapo is not a likelihood"):
        check_objective(TrainConfig.model_validate(config))
    check_objective(TrainConfig.model_validate({**config, "group": {}}))
    check_objective(TrainConfig.model_validate({**config, "trainer": {}}))
