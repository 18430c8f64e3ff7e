"""What must not change unnoticed: the prompts checkpoints were trained with, and what answers are worth.

Where a change is meant, `PROMPTER_REWRITE_GOLDEN=1 pytest tests/golden` writes the files anew; the
difference belongs into the commit message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.executors import open_executor
from envs.executors.config import ExecutorConfig
from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from eval.metrics import score_file
from eval.protocols import PROTOCOLS, apply
from prompter.action import ActionSpace
from prompter.chat import build_messages, system_prompt
from prompter.runs.jsonl import write_lines
from prompter.types import Answer
from rewards.registry import build_reward
from tests.fixtures.toy_task import SIDE, Squares, toy_policy

HERE = Path(__file__).parent
SPACES = {
    "box": ActionSpace(kind="box"),
    "points": ActionSpace(kind="points", positive_points=2, negative_points=1),
    "box+points": ActionSpace(kind="box+points", positive_points=2, max_instances=3),
    "any": ActionSpace(kind="any", positive_points=1, max_instances=8),
}


def agrees(name: str, value: Any) -> None:
    """Compare with the stored file, or write it when asked to."""
    path = HERE / name
    if os.environ.get("PROMPTER_REWRITE_GOLDEN"):
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    # Through text, so that tuples and lists, and floats of 17 digits, compare as they are stored.
    assert json.loads(json.dumps(value)) == json.loads(path.read_text(encoding="utf-8"))


def test_prompts_are_those_that_checkpoints_were_trained_with() -> None:
    prompts: dict[str, str] = {}
    for name, space in SPACES.items():
        prompts[f"{name}, short"] = system_prompt(space, "thousandths", instructions="short")
        prompts[f"{name}, thousandths, thinking"] = system_prompt(space, "thousandths")
        prompts[f"{name}, absolute"] = system_prompt(space, "absolute", think=False)
    agrees("system_prompts.json", prompts)
    layouts = {
        "after": build_messages("all ships", "Give boxes."),
        "before": build_messages("all ships", "Give boxes.", question="before"),
    }
    agrees("messages.json", layouts)


@pytest.fixture(scope="module")
def rollouts() -> Iterator[list[Rollout]]:
    policy, source = toy_policy(), Squares(11)
    asked = json.loads((HERE / "completions.json").read_text(encoding="utf-8"))
    samples = [source[one["question"]] for one in asked]
    texts = [one["text"] for one in asked]
    reward = build_reward({"mask_iou": 1.0, "valid_answer": 0.5})
    executor = open_executor(ExecutorConfig(family="box"))
    answers = [Answer(text, policy.parse(text, (SIDE, SIDE))) for text in texts]
    made = make_rollouts(samples, answers, executor, name="box")
    yield [reward.score(rollout) for rollout in made]
    executor.close()


def test_answers_are_read_segmented_and_rewarded_as_before(rollouts: list[Rollout]) -> None:
    agrees(
        "rewards.json",
        [
            {
                "completion": rollout.completion,
                "prompts": rollout.to_json()["prompts"],
                "failure": None if (failure := rollout.to_json()["failure"]) is None else failure["kind"],
                "prediction": rollout.prediction,
                "rewards": {name: round_or_none(value) for name, value in rollout.rewards.items()},
            }
            for rollout in rollouts
        ],
    )


def test_every_protocol_gives_the_same_figures_as_before(rollouts: list[Rollout], tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write_lines(path, (rollout.to_json() for rollout in rollouts))
    figures = {}
    for name, protocol in PROTOCOLS.items():
        ratios = apply(protocol, score_file(path, [protocol]))
        figures[name] = {metric: round_or_none(ratio.value()) for metric, ratio in ratios.items()}
    agrees("figures.json", figures)


def round_or_none(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
