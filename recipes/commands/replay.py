"""Score stored rollouts again, without a model.

Any reward can be tried on any rollouts, because a rollout holds its masks. One row is printed per
reward; `changed` counts the rollouts whose total differs from the one stored with them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.tables import text_table
from prompter.runs.values import read_option
from recipes.commands import flags
from recipes.commands.output import tell

TOLERANCE = 1e-9
"""Totals nearer than this are alike; sums of floats may differ in their last bits."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `prompter replay`."""
    parser.add_argument("source", type=Path, help="a file of rollouts (JSON Lines), or a run folder")
    parser.add_argument(
        "--reward",
        action="append",
        metavar="NAME=WEIGHT",
        help="a reward, or MODULE:FUNCTION, and its weight; repeatable (default: mask_iou=1)",
    )
    flags.add_out(parser, "new file for the scored rollouts")


def run(arguments: argparse.Namespace) -> int:
    """Score, write the scored rollouts if asked to, and print the table."""
    from prompter.runs.jsonl import write_lines
    from rewards.registry import build_reward
    from rewards.replay import read_rollouts, score_again

    reward = build_reward(dict(_weight(text) for text in arguments.reward or ["mask_iou"]))
    if arguments.out is not None and arguments.out.exists():
        raise UserError(f"{arguments.out} exists already; name a new file with --out.")
    scores: dict[str, list[float | None]] = defaultdict(list)
    changed = 0

    def score_all() -> Iterator[dict[str, Any]]:
        nonlocal changed
        for path in _files(arguments.source):
            for before, after in score_again(read_rollouts(path), reward):
                for name, value in after.rewards.items():
                    scores[name].append(value)
                changed += not _alike(before.rewards.get("total"), after.rewards["total"])
                yield after.to_json()
        if not scores:
            raise UserError(f"{arguments.source} holds no rollouts.")

    if arguments.out is None:
        for _ in score_all():
            pass
    else:
        write_lines(arguments.out, score_all())
    tell(
        out=arguments.out,
        rollouts=len(scores["total"]),
        changed=changed,
        means={name: _mean(values) for name, values in scores.items()},
    )
    print(_table(scores))
    print(f"changed: {changed} of {len(scores['total'])} rollouts")
    return 0


def _weight(text: str) -> tuple[str, float]:
    """Read NAME=WEIGHT, or NAME alone, which weighs 1."""
    form = "NAME=WEIGHT with a number"
    name, weight = read_option(text if "=" in text else f"{text}=1", "--reward", form=form)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UserError(f"--reward is written {form}, but got {text!r}.")
    return name, float(weight)


def _files(source: Path) -> Sequence[Path]:
    from prompter.runs.run_folder import RunFolder

    return sorted(RunFolder.open(source).rollouts_dir.glob("*.jsonl")) if source.is_dir() else [source]


def _alike(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TOLERANCE


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over the scored rollouts; None if there are none."""
    scored = [value for value in values if value is not None]
    return sum(scored) / len(scored) if scored else None


def _table(scores: Mapping[str, Sequence[float | None]]) -> str:
    """Aligned text: per reward the mean over the scored rollouts, how many those are, and the rest."""
    rows = [("reward", "mean", "scored", "left out")]
    for name, values in scores.items():
        scored = sum(value is not None for value in values)
        mean = _mean(values)
        text = "-" if mean is None else f"{mean:.4f}"
        rows.append((name, text, str(scored), str(len(values) - scored)))
    return "\n".join(text_table(rows))
