"""Questions about something and questions about nothing are weighed apart in the loss.

A group's advantages are relative to the mean of its own rewards, so the baseline is one of each question
already. What differs between the two kinds is the spread: where nothing is there an answer is worth 0 or 1,
while the IoUs of answers to one question mostly differ by tenths. Undivided (`scale_rewards: none`) a refusal
then counts several times a better box. Dividing each group by its own spread (`group`) mends that and makes
differences that are noise as large as any; a window's spread (`batch`) is the same for both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from envs.sample import Sample
from recipes.config import GroupConfig


def is_targeted(sample: Sample) -> bool:
    """Whether something in the image answers a question: its target holds a pixel, or there is a box."""
    return bool(sample.boxes) if sample.target is None else bool(sample.target_mask().any())


def weighed_by_kind(
    advantages: Tensor,
    targeted: Sequence[bool],
    group: GroupConfig,
    collect: Callable[[list[tuple[float, int]]], list[list[tuple[float, int]]]] = lambda own: [own],
) -> Tensor:
    """Advantages of a window with `group.balance` and `group.no_target_weight` applied.

    Args:
        advantages: of this rank's rows, float [rows].
        targeted: whether each row's question has a target.
        group: says how.
        collect: gathers a value of each rank (`Ranks.collect`); all call this.

    Returns:
        float [rows]. With `balance: kind` the root mean square over all ranks' rows of a kind is 1, rows
        whose advantage is 0 left out; a kind whose advantages are all 0 stays as it is.
    """
    if group.balance == "none" and group.no_target_weight == 1.0:
        return advantages
    kinds = torch.tensor(targeted, dtype=torch.bool, device=advantages.device)
    result = advantages.clone()
    if group.balance == "kind":
        own = []
        for rows in (kinds, ~kinds):
            values = advantages[rows & (advantages != 0)].double()
            own.append((float(values.square().sum()), values.numel()))
        ranks = collect(own)
        for number, rows in enumerate((kinds, ~kinds)):
            squares = sum(rank[number][0] for rank in ranks)
            count = sum(rank[number][1] for rank in ranks)
            if count:
                result[rows] /= (squares / count) ** 0.5
    result[~kinds] *= group.no_target_weight
    return result
