"""Half a run, checkpoints that are kept, and a full disk: what a run folder holds afterwards.

Runs of four steps in this process, two to a window, against one that nothing disturbed.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.cli import main
from recipes.training.checkpoints import newest_checkpoint
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.states import figures, largest_difference, order, state_differences
from tests.fixtures.training import STEPS, write_config


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save_formatted_policy(folder)
    return folder


def config_of(folder: Path, policy: Path, **trainer: Any) -> Path:
    folder.mkdir(exist_ok=True)
    usual = {"num_iterations": 2, "save_steps": 2, "save_total_limit": 1}
    return write_config(folder / "train.yaml", policy, trainer={**usual, **trainer}, eval={"samples": 2})


@pytest.fixture(scope="module")
def finished(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = config_of(tmp_path_factory.mktemp("finished"), policy)
    assert main(["train", str(config)]) == 0
    return RunFolder(config.parent / "run")


def window_of(path: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """A saved window without the seconds of its segmenters, and apart from it its log-probabilities."""
    head, *groups = read_lines(path)
    executor = head["metrics"]["executor"]
    head["metrics"]["executor"] = {name: value for name, value in executor.items() if "seconds" not in name}
    completions = [completion for group in groups for completion in group["completions"]]
    return [head, *groups], [value for completion in completions for value in completion.pop("logprobs")]


def test_the_newest_checkpoint_is_kept_and_nothing_half_written(finished: RunFolder) -> None:
    names = sorted(path.name for path in finished.checkpoints_dir.iterdir() if path.is_dir())
    assert names == [f"checkpoint-{STEPS}", "final"]
    assert [step for step, _ in finished.step_windows()] == [step for step, _ in finished.step_rollouts()]


def test_training_on_its_rollouts_gives_a_runs_losses_to_the_digit(
    finished: RunFolder, policy: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path, policy)
    assert main(["train", str(config), "--train-only", str(finished.path)]) == 0
    folder = RunFolder(tmp_path / "run")
    ours, theirs = figures(folder), figures(finished)
    assert [key for key in ours if key[1] == "train"] == [(step, "train") for step in range(1, STEPS + 1)]
    for step in range(1, STEPS + 1):
        assert ours[step, "train"] == theirs[step, "train"]
    assert any(ours[step, "train"]["loss"] != 0 for step in range(1, STEPS + 1))
    checkpoint = f"checkpoint-{STEPS}"
    apart = state_differences(folder.checkpoints_dir / checkpoint, finished.checkpoints_dir / checkpoint)
    assert apart["weights"] == apart["optimiser"] == 0.0
    assert order(folder) == order(finished), "the rollouts are kept here, too"


def test_rollouts_alone_are_those_that_training_would_begin_with(
    finished: RunFolder, policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, policy)
    assert main(["train", str(config), "--rollout-only"]) == 0
    folder = RunFolder(tmp_path / "run")
    assert capfd.readouterr().out.splitlines()[-1] == str(folder.metrics_path)
    assert list(figures(folder)) == [(1, "rollouts"), (3, "rollouts")]
    assert order(folder) == order(finished), "every window asks what training would"
    for paths in ("step_rollouts", "step_windows"):
        assert len(getattr(folder, paths)()) == len(getattr(finished, paths)()) == 2
    ours, theirs = (one.step_rollouts()[0][1].read_bytes() for one in (folder, finished))
    assert ours == theirs
    (ours, drawn), (theirs, as_drawn) = (window_of(one.step_windows()[0][1]) for one in (folder, finished))
    assert ours == theirs
    # Adapters that add nothing yet still round otherwise than none.
    assert len(drawn) > 100 and drawn == pytest.approx(as_drawn, abs=1e-5)
    assert not folder.checkpoints_dir.exists()
    # They can be trained on, once the log-probabilities are those of the policy that sampled them.
    other = config_of(tmp_path / "trained", policy, max_steps=2)
    assert main(["train", str(other), "--train-only", str(folder.path)]) == 0
    ours, theirs = (figures(one)[1, "train"] for one in (RunFolder(tmp_path / "trained/run"), finished))
    for key in ("loss", "grad_norm"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-6), key


REFUSED = [
    ({"seed": 5}, "there seed was 0, and here it is 5"),
    ({"trainer": {"max_steps": 6}}, "no window of rollouts for step 5"),
    ({"policy": {"settings": {"max_new_tokens": 20}}}, "policy.settings.max_new_tokens was"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_rollouts_of_another_run_are_refused_and_nothing_is_written(
    change: dict[str, Any],
    said: str,
    finished: RunFolder,
    policy: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = config_of(tmp_path, policy)
    config = yaml.safe_load(path.read_text())
    for section, value in change.items():
        config[section] = {**config[section], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(config))
    assert main(["train", str(path), "--train-only", str(finished.path)]) == 2
    (sentence,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert sentence.startswith("prompter: ") and said in sentence
    assert not (tmp_path / "run").exists()


def test_half_a_run_is_not_resumed(policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path, policy)
    assert main(["train", str(config), "--rollout-only", "--resume"]) == 2
    assert "--resume goes on with a whole run" in capfd.readouterr().err


FULL = {
    "checkpoint": ("checkpoint-4", 2),
    "metrics": ("metrics.jsonl", 2),
    "rollouts": ("step-00000003.jsonl", 2),
    "first rollouts": ("step-00000001.jsonl", 0),
}
"""What does not fit -> the file that is named, and the step that is saved then."""


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_ends_a_run_whole_and_it_is_resumed(
    what: str,
    finished: RunFolder,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    named, saved = FULL[what]
    config = config_of(tmp_path, policy)
    folder = RunFolder(tmp_path / "run")
    fsync = os.fsync

    def disk(descriptor: int) -> None:
        """Full for the file in question; for metrics from step 3 on."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        full = named in path and str(tmp_path) in path
        if full and (what != "metrics" or b'"step":3,"kind":"train"' in Path(path).read_bytes()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", disk)
        assert main(["train", str(config)]) == 3
    sentence = capfd.readouterr().err.strip().splitlines()[-1]
    assert f"the disk is full: {named}" in sentence or f"{named} cannot be written" in sentence
    assert str(folder.path) in sentence and "bytes are free" in sentence and "--resume" in sentence
    newest = newest_checkpoint(folder.checkpoints_dir)
    assert (None if newest is None else newest.name) == (f"checkpoint-{saved}" if saved else None)
    left = [path.name for path in folder.path.rglob("*") if path.name.startswith(".") or ".tmp" in path.name]
    assert left == []
    assert main(["train", str(config), "--resume"]) == 0
    assert largest_difference(folder, finished)[0] == 0.0
    final = "checkpoints/final/model.safetensors"
    assert (folder.path / final).read_bytes() == (finished.path / final).read_bytes()
