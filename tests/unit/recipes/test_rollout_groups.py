"""A training run's rollouts as the viewer shows them: with the advantages that were trained with."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompter.runs.run_folder import RunFolder
from prompter.types import Completion
from recipes.training.rollout_groups import training_groups
from recipes.training.saved_windows import window_records
from recipes.training.scoring import ScoredGroup
from recipes.training.window import Window
from tests.fixtures.made_rollouts import made_rollout

REWARDS = [0.2, 0.4, None, 0.9]


def run_of(folder: Path, steps: int = 1, *, windows: bool = True, kept: int = 4) -> RunFolder:
    """A run whose groups earned `REWARDS`; a window keeps the first `kept` completions of each."""
    run = RunFolder.create(folder)
    for step in range(1, steps + 1):
        rollouts = [
            made_rollout(sample_id=f"s{step}", completion=f"c{one}", step=step, rewards={"total": reward})
            for one, reward in enumerate(REWARDS)
        ]
        run.write_step_rollouts(step, [one.to_json() for one in rollouts])
        completions = [Completion(one.completion, (1,), None, "stop") for one in rollouts]
        group = ScoredGroup(step, completions, list(REWARDS), rollouts).only(range(kept))
        if windows:
            run.write_step_window(step, window_records(step, Window([group], [group], {}, {}, [])))
    return run


def advantages(run: RunFolder, **trainer: object) -> list[float | None]:
    (group,) = training_groups(run, None, {"trainer": trainer}).groups
    return [member.advantage for member in group.members]


def test_an_advantage_is_what_was_earned_beyond_the_group(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    assert advantages(run, scale_rewards="none") == [
        pytest.approx(-0.3),
        pytest.approx(-0.1),
        None,  # the segmenter failed: not trained on
        pytest.approx(0.4),
    ]
    deviation = 0.36056  # of 0.2, 0.4 and 0.9, with n - 1
    assert advantages(run, scale_rewards="group")[0] == pytest.approx(-0.3 / deviation, rel=1e-3)


def test_what_was_not_trained_on_has_none(tmp_path: Path) -> None:
    assert advantages(run_of(tmp_path / "run", kept=2), scale_rewards="none") == [
        pytest.approx(-0.1),
        pytest.approx(0.1),
        None,
        None,
    ]


def test_runs_of_before_have_advantages_and_no_images(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", windows=False)
    (group,) = training_groups(run, None, {}).groups
    assert group.load_image is None and group.members[3].advantage == pytest.approx(0.4)


def test_of_many_steps_some_are_shown_evenly_spaced(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", steps=9)
    shown = training_groups(run, None, {}, most=12)
    assert [group.members[0].rollout.step for group in shown.groups] == [1, 5, 9]
    assert shown.note == "12 of 36 rollouts of training are here: 3 of 9 steps, evenly spaced."
    assert training_groups(run, None, {}, most=36).note == ""
