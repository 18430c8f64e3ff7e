"""A run made to collapse rings, ends early and has its best policy as result; a sound one does neither."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from envs.rollout import Rollout
from prompter.runs.run_folder import RunFolder
from prompter.types import PromptSet
from recipes.cli import main
from recipes.training.alarms import END, KIND
from recipes.training.checkpoints import newest_checkpoint, step_of
from recipes.training.early_stop import kept_steps
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import save_manifest
from tests.fixtures.training import write_config

pytestmark = pytest.mark.smoke

PLANNED = 40
EVERY = 4


def refusal(rollout: Rollout) -> float:
    """The mistake: an answer of nothing pays as much as a perfect mask, whatever was asked."""
    return float(isinstance(rollout.reading, PromptSet) and rollout.reading.is_empty)


def config_of(folder: Path, policy: Path, rewards: dict[str, float], steps: int) -> Path:
    """Four questions that all have a target, so that by the mask alone declining pays nothing."""
    folder.mkdir()
    return write_config(
        folder / "train.yaml",
        policy,
        rewards=rewards,
        dataset={"name": "manifest", "options": {"path": str(save_manifest(folder / "squares", 4))}},
        eval={"every_steps": EVERY},
        alarms={"stop": "worse", "windows": 2},
        trainer={
            "max_steps": steps,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 32,
            "save_steps": EVERY,
            "save_total_limit": None,
        },
    )


class Run:
    """A run in this process, and what it printed."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> None:
        capsys.readouterr()
        assert main(["train", str(config), *flags]) == 0
        self.printed = capsys.readouterr().out
        self.folder = RunFolder(config.parent / "run")
        self.config = config

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.folder.read_metrics() if line["kind"].startswith(kind)]


def final(folder: RunFolder) -> bytes:
    return (folder.checkpoints_dir / "final" / "model.safetensors").read_bytes()


def answers(folder: RunFolder, name: str) -> str:
    return (folder.path / "eval" / name / "completions.jsonl").read_text(encoding="utf-8")


def test_a_run_made_to_collapse_rings_and_ends_with_its_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy"
    save_formatted_policy(policy, empty=0.3)
    paid = {"mask_iou": 1.0, f"{__name__}:refusal": 1.0}
    collapsed = Run(config_of(tmp_path / "paid", policy, paid, PLANNED), capsys)
    folder = collapsed.folder
    refusals = [line["refusals"] for line in collapsed.lines("train")]
    assert refusals[0] < 0.6 and refusals[-1] > 0.8, "the policy was made to decline"
    rung = {line["kind"].removeprefix(KIND): line for line in collapsed.lines(KIND)}
    alarm = rung["refusals"]["says"]
    assert "declining pays more than looking" in alarm and "(rewards)" in alarm
    assert collapsed.printed.count("questions with a target that are answered with nothing rose") == 2, (
        "said once when it starts, and once more at the end"
    )
    (end,) = collapsed.lines(END)
    assert end["by"] == "refusals" and end["step"] < PLANNED
    assert step_of(newest_checkpoint(folder.checkpoints_dir)) == end["step"]
    # The result is the policy of the best evaluation, the very weights that were evaluated then.
    scores = {line["step"]: line["gIoU"] for line in collapsed.lines("eval")}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert (end["result"], end["step"] in scores) == (best, True)
    assert answers(folder, "after") == answers(folder, f"step-{best:06d}" if best else "before")
    assert f"ended early at step {end['step']} of {PLANNED}" in collapsed.printed
    page = folder.report_path.read_text(encoding="utf-8")
    assert "declining pays more than looking" in page and "ended early at step" in page

    # Killed in the middle, the run ends where it did, with the same lines, copies and weights.
    lines, weights, copies = folder.read_metrics(), final(folder), kept_steps(folder)
    for checkpoint in folder.checkpoints_dir.glob("checkpoint-*"):
        if step_of(checkpoint) > EVERY:
            shutil.rmtree(checkpoint)
    resumed = Run(collapsed.config, capsys, "--resume")
    told = ("step", "kind", "reward", "gIoU", "refusals", "says", "by", "result", "against_best")
    assert [[one.get(key) for key in told] for one in folder.read_metrics()] == [
        [one.get(key) for key in told] for one in lines
    ]
    assert final(folder) == weights and kept_steps(folder) == copies
    # Resumed once more there is nothing to train, and nothing changes.
    again = Run(collapsed.config, capsys, "--resume")
    assert again.folder.read_metrics() == resumed.folder.read_metrics() and final(folder) == weights
    assert answers(folder, "after") == answers(folder, f"step-{best:06d}" if best else "before")

    # The same run with the mask as its only reward goes on to its end, and nothing rings.
    sound = Run(config_of(tmp_path / "sound", policy, {"mask_iou": 1.0}, end["step"]), capsys)
    assert sound.lines(KIND) == [] and sound.lines(END) == [] and "alarm" not in sound.printed
