"""A window that was saved is the window that was collected: ids, log-probabilities, rewards, order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.executors.families.box import BoxSegmenter
from envs.executors.serving.local import LocalExecutor
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines, write_lines
from prompter.runs.run_folder import RunFolder
from prompter.sampling.base import SamplingSettings
from recipes.config import GroupConfig
from recipes.training.log import TrainingLog
from recipes.training.phases import PhaseTimes
from recipes.training.saved_windows import SavedWindows, short_floats
from recipes.training.scoring import RolloutScorer
from recipes.training.window import Window, WindowCollector, fill_window
from rewards.registry import build_reward
from tests.fixtures.toy_task import ScriptedSampler, Squares, answer_with_iou, toy_policy

ASKED = [6, 1, 4, 8]


def answers(query: str, number: int, seed: int | None) -> str:
    """Questions 6 and 8 have spread, 1 and 4 have none, and every third completion cannot be read."""
    index = int(query.split()[1])
    if index == 4:
        return "[]"
    return "no answer" if number == 2 else answer_with_iou(index, (1 + number if index % 2 == 0 else 8) / 16)


def collect(**group: object) -> Window:
    executors = {name: LocalExecutor(BoxSegmenter(), name=name) for name in ("one", "two")}
    policy = toy_policy()
    scorer = RolloutScorer(policy, executors, build_reward({"mask_iou": 1.0}))
    settings = SamplingSettings(n=4)
    collector = WindowCollector(
        *(policy, ScriptedSampler(answers), scorer, Squares(40)),
        *(GroupConfig.model_validate(group), settings, 0, PhaseTimes()),
    )
    return collector.collect(ASKED, step=3)


def save(folder: Path, window: Window) -> RunFolder:
    run = RunFolder.create(folder)
    log = TrainingLog(run, 9)
    log.collected(3, window, sampler_version=2)
    log.close()
    return run


def saved(run: RunFolder) -> SavedWindows:
    return SavedWindows(run, toy_policy(), Squares(40), PhaseTimes())


@pytest.mark.parametrize("zero_spread", ["drop", "resample", "keep"])
def test_what_was_collected_is_given_again(zero_spread: str, tmp_path: Path) -> None:
    window = collect(zero_spread=zero_spread)
    rewards = [reward for group in window.all_groups for reward in group.rewards]
    assert len(set(rewards)) > 3
    again = saved(save(tmp_path / "run", window)).collect(ASKED, step=3)
    for ours, theirs in ((again.groups, window.groups), (again.all_groups, window.all_groups)):
        assert [group.index for group in ours] == [group.index for group in theirs]
        assert [group.rewards for group in ours] == [group.rewards for group in theirs]
        assert [one.token_ids for group in ours for one in group.completions] == [
            one.token_ids for group in theirs for one in group.completions
        ]
        for mine, other in zip(ours, theirs, strict=True):
            for one, two in zip(mine.completions, other.completions, strict=True):
                assert (one.text, one.finish_reason) == (two.text, two.finish_reason)
                assert np.array_equal(np.float32(one.logprobs), np.float32(two.logprobs))
    filled = [fill_window(one, len(ASKED), 4, 8) for one in (again, window)]
    assert [group.index for group in filled[0]] == [group.index for group in filled[1]]
    assert again.metrics == window.metrics and again.sampler_version == window.sampler_version
    assert len(again.rollouts) == len(window.rollouts)


def test_a_failure_of_the_segmenter_stays_one(tmp_path: Path) -> None:
    window = collect()
    window.groups[0].rewards[1] = None
    again = saved(save(tmp_path / "run", window)).collect(ASKED, step=3)
    assert again.groups[0].rewards[1] is None and again.groups[0].rewards[0] is not None


def test_log_probabilities_keep_every_bit_of_float32_in_few_digits() -> None:
    drawn = np.random.default_rng(0).normal(size=2000).astype(np.float32) * np.float32(10) ** np.arange(
        -10, 10
    ).repeat(100).astype(np.float32)
    values = [float(one) for one in drawn]
    short = short_floats(values)
    assert np.array_equal(np.float32(short), drawn)
    assert sum(len(repr(one)) for one in short) < 0.75 * sum(len(repr(one)) for one in values)
    assert short_floats([0.1, 0.25]) == [0.1, 0.25], "0.1 is no float32, and stays as it is"


def test_a_run_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    run = save(tmp_path / "run", collect())
    for path in run.windows_dir.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="keeps no token ids and log-probabilities") as caught:
        saved(run)
    assert "--rollout-only" in str(caught.value) and "\n" not in str(caught.value)


def test_steps_and_samples_that_were_not_saved_are_named(tmp_path: Path) -> None:
    windows = saved(save(tmp_path / "run", collect()))
    windows.check_steps([3])
    with pytest.raises(UserError, match=r"no window of rollouts for step 5 \(its last is for step 3\)"):
        windows.check_steps([3, 5])
    with pytest.raises(UserError, match="holds other samples than this config asks at step 3"):
        windows.collect([6, 1, 8, 4], step=3)


@pytest.mark.parametrize("damage", ["no ids", "no reward", "a group less", "another step", "no line"])
def test_files_that_are_no_window_are_refused(damage: str, tmp_path: Path) -> None:
    run = save(tmp_path / "run", collect())
    ((_, path),) = run.step_windows()
    lines = list(read_lines(path))
    if damage == "no ids":
        del lines[1]["completions"][0]["token_ids"]
    elif damage == "no reward":
        lines[1]["rewards"].pop()
    elif damage == "a group less":
        lines.pop()
    elif damage == "another step":
        lines[0]["step"] = 5
    else:
        lines.clear()
    write_lines(path, lines)
    with pytest.raises(UserError, match=r"step-00000003\.jsonl is no window of rollouts") as caught:
        saved(run).collect(ASKED, step=3)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_forgets_windows_of_later_steps(tmp_path: Path) -> None:
    run = save(tmp_path / "run", collect())
    run.truncate_to_step(3)
    assert [step for step, _ in run.step_windows()] == [3]
    run.truncate_to_step(2)
    assert run.step_windows() == run.step_rollouts() == []


def test_nothing_is_sampled(tmp_path: Path) -> None:
    windows = saved(save(tmp_path / "run", collect()))
    with pytest.raises(RuntimeError, match="samples nothing"):
        windows.sampler.sample([], SamplingSettings())
    windows.sampler.sync_adapter(tmp_path, 4)
    assert windows.sampler.version == 4
    windows.sampler.sync_weights([], 5)
    assert windows.sampler.version == 5
