"""Score files of rollouts again, without a model.

prompter replay runs/demo/rollouts/step-00000010.jsonl
prompter replay runs/demo/rollouts/*.jsonl --reward instance_mask_iou=1 --reward valid_answer=0.1
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from prompter.errors import UserError
from prompter.jsonl import write_lines
from prompter.types import ParseFailure
from rewards.registry import REWARDS, WeightedReward, build_reward
from rewards.replay import replay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", type=Path, help="files of rollouts (JSON Lines)")
    parser.add_argument(
        "--reward",
        action="append",
        default=[],
        metavar="NAME[=WEIGHT]",
        help=f"of {', '.join(REWARDS)}; repeatable (default: mask_iou=1)",
    )
    parser.add_argument("--out", type=Path, help="folder for the files with their new rewards")


def run(arguments: argparse.Namespace) -> int:
    """Print a line per file: rollouts, mean rewards, failures; return 0."""
    reward = build_reward(parse_weights(arguments.reward or ["mask_iou=1"]))
    for path in arguments.files:
        _replay_file(path, reward, arguments.out)
    return 0


def parse_weights(texts: list[str]) -> dict[str, float]:
    """Read `NAME=WEIGHT` texts; the weight is 1 where it is not given.

    Raises:
        UserError: if a weight is not a number or a name is given twice.
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name in weights:
            raise UserError(f"The reward {name!r} is given twice.")
        try:
            weights[name] = float(value) if equals else 1.0
        except ValueError:
            raise UserError(f"The weight of reward {name!r} is not a number: {value!r}.") from None
    return weights


def _replay_file(path: Path, reward: WeightedReward, out: Path | None) -> None:
    sums: dict[str, float] = {}
    counts: Counter[str] = Counter()
    unparsed = unserved = total = 0
    records = []
    for number, rollout in enumerate(replay(path, reward), start=1):
        total = number
        unparsed += isinstance(rollout.answer, ParseFailure)
        unserved += rollout.executor_error is not None
        for name, value in rollout.rewards.items():
            if value is not None:
                sums[name] = sums.get(name, 0.0) + value
                counts[name] += 1
        if out is not None:
            records.append(rollout.to_json())
    means = ", ".join(f"{name} {sums[name] / counts[name]:.4f}" for name in counts)
    print(
        f"{path}: {total} rollouts, {unparsed} did not parse, {unserved} unsegmented; mean {means or '-'}"
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / path.name, records)
