"""From a window's rewards to what its groups are trained on: shaping before a group is selected from.

TRL subtracts the mean of a group's rewards. What a reward is worth beside the others of the window, or of its
group, is shaped before that: `group.shape` of a config names a function below, or one of your own as
"module:function":

    the rewards of each group of the window, None where there is none  ->  as many values, None where None was

Rollouts keep the rewards as they were earned, and the log shows those; the windows of a run folder hold the
values that were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata

from prompter.errors import UserError
from prompter.registry import Entry, Registry
from recipes.training.scoring import ScoredGroup

Rewards = Sequence[float | None]
Shape = Callable[[Sequence[Rewards]], Sequence[Rewards]]

SHAPES: Registry[Shape] = Registry(
    "shape",
    {
        "quantile": Entry(f"{__name__}:quantile", "a reward's quantile in the window (Dr. Seg)"),
        "rank": Entry(f"{__name__}:rank", "a reward's rank in its group"),
    },
)
"""Shapes by name."""

QUANTILE_DIGITS = 1
"""Decimals that a quantile keeps, as in the code of Dr. Seg's authors: nearly equal rewards become equal."""


def quantile(groups: Sequence[Rewards]) -> list[list[float | None]]:
    """The share of the window's rewards that are no larger, to one decimal, in [0, 1].

    This is the distribution-ranked reward of Dr. Seg (arXiv:2603.00152; `drr_module/serve.py` of its code).
    There the distribution is that of the last 2,048 completions, begun with 128 zeros and kept by a process
    of its own; here it is the window's, so that a resumed run needs no state.
    """
    known = np.sort([reward for group in groups for reward in group if reward is not None])
    return [
        [
            None
            if reward is None
            else round(float(np.searchsorted(known, reward, side="right")) / len(known), QUANTILE_DIGITS)
            for reward in group
        ]
        for group in groups
    ]


def rank(groups: Sequence[Rewards]) -> list[list[float | None]]:
    """A reward's place among those of its group, from 0 for the smallest to 1 for the largest.

    Equal rewards share the middle of their places.

    All groups with differing rewards then count alike, however small the differences are.
    """
    shaped = []
    for group in groups:
        known = [reward for reward in group if reward is not None]
        # One reward alone is neither the largest nor the smallest.
        places = iter((rankdata(known) - 1) / (len(known) - 1) if len(known) > 1 else [0.5] * len(known))
        shaped.append([None if reward is None else float(next(places)) for reward in group])
    return shaped


def shape_rewards(groups: Sequence[ScoredGroup], shape: str | None) -> list[ScoredGroup]:
    """Groups with shaped rewards; their rollouts keep the rewards that were earned.

    Args:
        groups: all that were sampled together.
        shape: a name of `SHAPES`, or "module:function"; None leaves the rewards as they are.

    Raises:
        UserError: if there is no such shape, or it gives another number of values, one that is not finite,
            or one where there is no reward.
    """
    if shape is None:
        return list(groups)
    shaped = SHAPES.resolve(shape)([group.rewards for group in groups])
    wanted = [[reward is None for reward in group.rewards] for group in groups]
    if [[value is None or not math.isfinite(value) for value in values] for values in shaped] != wanted:
        raise UserError(
            f"the shape {shape!r} (group.shape) must give a finite number for every reward that is one, and "
            "None for every other, group by group"
        )
    return [replace(group, rewards=list(values)) for group, values in zip(groups, shaped, strict=True)]
