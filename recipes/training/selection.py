"""Which completions of a large group are trained on: n are sampled and scored, m are kept.

A completion costs less to sample and to segment than to train on, so a group may be larger than what is
trained on. This is PODS (arXiv:2504.13818), whose rule is `spread`. As in its authors' code, the kept
completions are then a group like any other: their advantages are relative to the mean of the m, not of the n.
The record and the reward that is logged are those of all n.

A rule is a function of rewards and m; `group.select` of a config names it, or one of your own as
"module:function":

    rewards: float64 [n], none NaN, n > m;  m: at least 1  ->  m distinct positions in `rewards`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from prompter.errors import UserError
from prompter.registry import Entry, Registry

Selection = Callable[[NDArray[np.float64], int], Sequence[int]]

SELECTIONS: Registry[Selection] = Registry(
    "selection",
    {
        "spread": Entry(f"{__name__}:spread", "the m of the largest variance: so many of the worst and best"),
        "extremes": Entry(f"{__name__}:extremes", "the m/2 worst and the m/2 best"),
        "best": Entry(f"{__name__}:best", "the m best"),
        "first": Entry(f"{__name__}:first", "the first m: a random choice, since a group has no order"),
    },
)
"""Rules by name."""


def spread(rewards: NDArray[np.float64], keep: int) -> list[int]:
    """The positions whose rewards have the largest variance.

    They are the k smallest and the keep - k largest for some k (lemma 3.1 of the paper).
    """
    order, variances = _variances(rewards, keep)
    # Of splits that are equal but for rounding the most even one, whatever the rewards' order was.
    near = np.flatnonzero(variances >= variances.max() - 1e-12)
    low = int(near[np.abs(2 * near - keep).argmin()])
    return [int(position) for position in np.concatenate([order[:low], order[len(order) - keep + low :]])]


def _variances(rewards: NDArray[np.float64], keep: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Positions by rising reward, and for k = 0 … keep the variance of the k first and keep - k last."""
    order = np.argsort(rewards, kind="stable")
    # Centred, since squares of large numbers would swallow their differences.
    values = rewards[order] - rewards.mean()
    first = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])
    low = np.arange(keep + 1)
    high = len(rewards) - keep + low
    total = first[low] + first[-1] - first[high]
    return order, (squares[low] + squares[-1] - squares[high]) / keep - (total / keep) ** 2


def extremes(rewards: NDArray[np.float64], keep: int) -> list[int]:
    """The keep // 2 smallest rewards and the rest from the largest."""
    order = np.argsort(rewards, kind="stable")
    low = keep // 2
    return [int(position) for position in np.concatenate([order[:low], order[len(order) - keep + low :]])]


def best(rewards: NDArray[np.float64], keep: int) -> list[int]:
    """The largest rewards."""
    return [int(position) for position in np.argsort(-rewards, kind="stable")[:keep]]


def first(rewards: NDArray[np.float64], keep: int) -> list[int]:
    """The first completions, whatever their rewards."""
    return list(range(keep))


def selected(rule: str, rewards: Sequence[float | None], keep: int) -> list[int]:
    """Positions of the completions of a group that are trained on, in rising order.

    Args:
        rule: a name of `SELECTIONS`, or "module:function".
        rewards: of the group, None where the segmenter failed: such completions are kept only when there
            are too few others, and have no advantage then.
        keep: how many; all, if the group has no more.

    Raises:
        UserError: if there is no such rule, or it gives something else than `keep` distinct positions.
    """
    if len(rewards) <= keep:
        return list(range(len(rewards)))
    known = [position for position, reward in enumerate(rewards) if reward is not None]
    if len(known) <= keep:
        unknown = [position for position, reward in enumerate(rewards) if reward is None]
        return sorted(known + unknown[: keep - len(known)])
    values = np.array([rewards[position] for position in known], dtype=np.float64)
    chosen = [int(place) for place in SELECTIONS.resolve(rule)(values, keep)]
    if len(set(chosen)) != keep or len(chosen) != keep or not all(0 <= one < len(known) for one in chosen):
        raise UserError(
            f"the selection {rule!r} (group.select) must give {keep} distinct positions of {len(known)} "
            f"rewards, but gave {chosen}"
        )
    return sorted(known[place] for place in chosen)
