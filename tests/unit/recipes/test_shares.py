"""A window's rows divided among ranks: nothing lost, nothing doubled, and padding that counts nowhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prompter.types import Completion
from recipes.training.ranks.shares import Share, shares_of, take_out_padding
from recipes.training.ranks.world import Ranks
from recipes.training.scoring import ScoredGroup

END = 2


def groups_of(count: int, size: int) -> list[ScoredGroup]:
    return [
        ScoredGroup(
            10 + number,
            [
                Completion("x", tuple([9] * (1 + (number + j) % 3) + [END]), tuple([-0.5] * 4), "stop")
                for j in range(size)
            ],
            [number + j / 10 for j in range(size)],
            [],
        )
        for number in range(count)
    ]


def rows_of(groups: Sequence[ScoredGroup]) -> list[tuple[int, Completion, float | None]]:
    return [
        (group.index, completion, reward)
        for group in groups
        for completion, reward in zip(group.completions, group.rewards, strict=True)
    ]


@settings(max_examples=200)
@given(count=st.integers(1, 9), size=st.integers(1, 6), ranks=st.integers(1, 5), parts=st.integers(1, 3))
def test_shares_are_equal_and_together_the_window(count: int, size: int, ranks: int, parts: int) -> None:
    groups = groups_of(count, size)
    if ranks == 1:
        parts = math.gcd(parts, count * size)  # `fill_window` has seen to it
    shares = shares_of(groups, ranks, parts, END)
    assert len(shares) == ranks
    rows = [rows_of(share.groups) for share in shares]
    each = len(rows[0])
    assert all(len(one) == each and each % parts == 0 for one in rows)
    assert each * ranks % size == 0, "TRL puts whole groups together again"
    real = [row for one, share in zip(rows, shares, strict=True) for row in one[: each - share.padding]]
    assert real == rows_of(groups)
    padding = [row for one, share in zip(rows, shares, strict=True) for row in one[each - share.padding :]]
    assert all(row[1].token_ids == (END,) and row[2] is None for row in padding)
    assert len(padding) < math.lcm(size, ranks * parts)
    assert all(share.all_rows == count * size for share in shares)


def test_groups_that_divide_need_no_padding_however_they_are_cut() -> None:
    for count in range(1, 8):
        assert [share.padding for share in shares_of(groups_of(count, 8), 4, 2, END)] == [0] * 4


class TwoRanks(Ranks):
    """A rank that hears the other's messages from a script."""

    def __init__(self, others: list[object]) -> None:
        super().__init__(0, 2)
        self.others = others

    def collect(self, value: object) -> list[object]:  # type: ignore[override]
        """See `Ranks.collect`."""
        return [value, self.others.pop(0)]


def test_padding_is_masked_and_taken_out_of_what_is_logged() -> None:
    group = groups_of(1, 3)[0]
    blank = ScoredGroup(10, [Completion("", (END,), (0.0,), "stop")], [None], [])
    share = Share((group, blank), 1, 6)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    difference = torch.tensor([[0.1] * 4, [0.2] * 4, [0.3] * 4, [7.0] * 4])
    batch = {
        "completion_mask": mask,
        "prompt_mask": torch.ones(4, 5, dtype=torch.long),
        "num_items_in_batch": torch.tensor(20),
        "advantages": torch.tensor([0.1, -0.1, 0.3, 0.0]),
        "old_per_token_logps": difference,
        "sampling_per_token_logps": torch.zeros(4, 4),
        "importance_sampling_ratio": 1 + difference,
    }
    names = ("mean_length", "min_length", "max_length", "clipped_ratio")
    names += ("mean_terminated_length", "min_terminated_length", "max_terminated_length")
    metrics = {f"completions/{name}": [99.0, 99.0] for name in names}
    metrics |= {f"sampling/sampling_logp_difference/{name}": [99.0] for name in ("mean", "max")}
    metrics |= {f"sampling/importance_sampling_ratio/{name}": [99.0] for name in ("mean", "min", "max")}
    other = {"sum": 1.1, "count": 11, "min": 0.0, "max": 0.5}
    used = {"sum": 11.0, "count": 11, "min": 0.5, "max": 1.5}
    plain_ratios = {"sum": 3.0, "count": 2, "min": 1.0, "max": 2.0}
    ranks = TwoRanks([(12, 2), (other, used, plain_ratios), [(5, True), (6, False)]])
    seen, ratios = take_out_padding(batch, share, ranks, loss_type="dr_grpo", ends={END}, metrics=metrics)
    assert seen == 5 + 1 + 12
    assert batch["completion_mask"].sum(1).tolist() == [2, 3, 4, 0]
    assert int(batch["num_items_in_batch"]) == 20 - 3
    torch.testing.assert_close(batch["advantages"], torch.tensor([0.15, -0.15, 0.45, 0.0]))
    lengths = [2, 3, 4, 5, 6]
    assert metrics["completions/mean_length"] == [99.0, sum(lengths) / 5]
    assert metrics["completions/min_length"][-1] == 2 and metrics["completions/max_length"][-1] == 6
    assert metrics["completions/clipped_ratio"][-1] == 0.2
    assert metrics["completions/mean_terminated_length"][-1] == 3.5
    mean = (2 * 0.1 + 3 * 0.2 + 4 * 0.3 + 1.1) / (9 + 11)
    assert math.isclose(metrics["sampling/sampling_logp_difference/mean"][-1], mean, rel_tol=1e-6)
    assert metrics["sampling/sampling_logp_difference/max"] == [0.5], "7.0 belonged to a row of padding"
    assert metrics["sampling/importance_sampling_ratio/min"] == [0.5]
    plain = [math.exp(gap) for gap, count in ((0.1, 2), (0.2, 3), (0.3, 4)) for _ in range(count)]
    assert ratios["importance_ratio_mean"] is not None
    assert math.isclose(ratios["importance_ratio_mean"], (sum(plain) + 3) / (9 + 2), rel_tol=1e-6)
    assert ratios["importance_ratio_max"] == 2.0
