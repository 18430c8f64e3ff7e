"""A window's rows divided among ranks: equal shares, and figures that do not depend on how many there are.

TRL gathers rewards and lengths over all ranks, which needs as many rows of each, and puts the rows of a
group together again, wherever it was cut. Where rows do not divide, groups of one end token are added. They
count nowhere: their tokens are masked before the loss, and what TRL logs of them is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Container, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompter.types import Completion
from recipes.training.ranks.world import Ranks
from recipes.training.scoring import ScoredGroup

MEAN_OVER_ROWS = ("grpo", "dr_grpo", "sapo", "luspo")
"""Losses of TRL that divide by the rows of a window; the others divide by its tokens."""


@dataclass(frozen=True)
class Share:
    """One rank's rows of a window.

    Args:
        groups: whole groups or parts of them, without rollouts, in the order of the rows.
        padding: how many of the last rows only fill up.
        all_rows: rows of the window over all ranks, padding left out.
    """

    groups: tuple[ScoredGroup, ...]
    padding: int
    all_rows: int


def shares_of(groups: Sequence[ScoredGroup], ranks: int, parts: int, end_id: int) -> list[Share]:
    """Divide a window's groups, of equal size and at least one, into one share per rank.

    Args:
        groups: what is trained on.
        ranks: how many.
        parts: into how many parts of equal size TRL divides a share (`steps_per_generation`).
        end_id: token that ends a completion, for rows that only fill up.
    """
    size = len(groups[0].completions)
    rows = len(groups) * size
    step = math.lcm(size, ranks * parts)
    padding = -rows % step if ranks > 1 else 0
    blank = Completion("", (end_id,), (0.0,), "stop")
    weights = None if groups[0].weights is None else [0.0] * size
    filling = ScoredGroup(groups[0].index, [blank] * size, [None] * size, [], weights)
    filled = [
        *(replace(group, rollouts=[]) for group in groups),
        *[filling] * (padding // size),
    ]
    each = (rows + padding) // ranks
    return [
        Share(
            tuple(_cut(filled, rank * each, (rank + 1) * each)),
            min(each, max(0, (rank + 1) * each - rows)),
            rows,
        )
        for rank in range(ranks)
    ]


def _cut(groups: Sequence[ScoredGroup], start: int, stop: int) -> list[ScoredGroup]:
    """Rows `start` to `stop` of groups of equal size, as groups or parts of them."""
    size = len(groups[0].completions)
    cut = []
    for number, group in enumerate(groups):
        first, last = max(start - number * size, 0), min(stop - number * size, size)
        if first < last:
            cut.append(group.only(range(first, last)))
    return cut


def take_out_padding(
    batch: MutableMapping[str, Any],
    share: Share,
    ranks: Ranks,
    *,
    loss_type: str,
    ends: Container[int],
    metrics: MutableMapping[str, list[float]],
) -> tuple[int, dict[str, float | None]]:
    """Make a window's batch, and what TRL logged of it, that of the window without padding.

    Args:
        batch: what TRL's `_generate_and_score_completions` returns; changed.
        share: this rank's.
        ranks: all call this.
        loss_type: TRL's.
        ends: tokens that end a completion.
        metrics: TRL's, name -> values; the last value of some is replaced.

    Returns:
        Tokens of the padding over all ranks, which TRL counted as seen; and `importance_ratios` of all.
    """
    mask = batch["completion_mask"]
    real = len(mask) - share.padding
    ids = [completion.token_ids for group in share.groups for completion in group.completions]
    lengths = [(len(one), one[-1] in ends) for one in ids[:real]]
    seen = int(batch["prompt_mask"][real:].sum() + mask[real:].sum())
    if share.padding:
        mask[real:] = 0
    counts = ranks.collect((seen, share.padding))
    figures = ranks.collect(_sampling(batch, mask))
    padding = sum(filling for _, filling in counts)
    if padding:
        batch["num_items_in_batch"] = batch["num_items_in_batch"] - padding
        if loss_type in MEAN_OVER_ROWS:
            batch["advantages"] = batch["advantages"] * ((share.all_rows + padding) / share.all_rows)
        _replace_lengths(metrics, [length for part in ranks.collect(lengths) for length in part])
    for place, name in enumerate(("sampling_logp_difference", "importance_sampling_ratio")):
        found = [one for rank in figures if (one := rank[place]) is not None]
        if not found:
            continue
        pooled = {
            "mean": math.fsum(one["sum"] for one in found) / sum(one["count"] for one in found),
            "min": min(one["min"] for one in found),
            "max": max(one["max"] for one in found),
        }
        for kind, value in pooled.items():
            if metrics.get(f"sampling/{name}/{kind}"):
                metrics[f"sampling/{name}/{kind}"][-1] = value
    return sum(tokens for tokens, _ in counts), _ratios([rank[2] for rank in figures])


def _ratios(figures: Sequence[dict[str, float] | None]) -> dict[str, float | None]:
    """What `importance_ratios` tells of one rank's tokens, of those of all."""
    found = [one for one in figures if one is not None]
    if not found:
        return {}
    count = sum(one["count"] for one in found)
    if not count:
        return {"importance_ratio_mean": None, "importance_ratio_max": None}
    mean = math.fsum(one["sum"] for one in found) / count
    return {"importance_ratio_mean": mean, "importance_ratio_max": max(one["max"] for one in found)}


def _sampling(batch: MutableMapping[str, Any], mask: Any) -> tuple[dict[str, float] | None, ...]:
    """Sum, count, least and largest of this rank's: differences of log-probabilities, the ratios that TRL
    uses (truncated), and those before."""
    ratio, sampled = batch.get("importance_sampling_ratio"), batch.get("sampling_per_token_logps")
    if ratio is None or sampled is None:
        return None, None, None
    told = mask.bool()
    gap = batch["old_per_token_logps"] - sampled
    used = ratio[told] if ratio.shape[1] == told.shape[1] else ratio[told.any(1)]
    plain = gap.double().exp()[told]
    return (
        _figures(gap.abs()[told & ~gap.isnan()]),
        _figures(used.flatten()),
        _figures(plain[plain.isfinite()]) or {"sum": 0.0, "count": 0, "min": math.inf, "max": -math.inf},
    )


def _figures(values: Any) -> dict[str, float] | None:
    if not values.numel():
        return None
    return {
        "sum": float(values.double().sum()),
        "count": values.numel(),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _replace_lengths(metrics: MutableMapping[str, list[float]], lengths: Sequence[tuple[int, bool]]) -> None:
    """TRL's figures of lengths anew, from every row's length and whether it ended."""
    ended = [length for length, end in lengths if end] or [0]
    everything = [length for length, _ in lengths]
    for name, value in (
        ("mean_length", sum(everything) / len(everything)),
        ("min_length", min(everything)),
        ("max_length", max(everything)),
        ("clipped_ratio", sum(not end for _, end in lengths) / len(lengths)),
        ("mean_terminated_length", sum(ended) / len(ended)),
        ("min_terminated_length", min(ended)),
        ("max_terminated_length", max(ended)),
    ):
        metrics[f"completions/{name}"][-1] = value
