"""`prompter study`: two arms with two seeds on the box executor, resumed, compared, and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from prompter.errors import RunStopped, UserError
from prompter.runs.run_folder import RunFolder
from prompter.runs.values import dump_yaml
from recipes.cli import main
from recipes.grpo import train
from recipes.study.config import PlannedRun, load_study, planned_runs
from recipes.study.run import finished, run_all, share_before, train_apart
from recipes.study.table import busy_seconds, write_table
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.training import write_config

WINDOW = 16


class Studied:
    """A study whose four runs were trained in this process."""

    def __init__(self, folder: Path) -> None:
        save_formatted_policy(folder / "policy")
        base = write_config(
            folder / "base.yaml",
            folder / "policy",
            eval={"samples": 6},
            trainer={"max_steps": 2, "per_device_train_batch_size": WINDOW, "num_generations": 8},
        )
        self.path, self.out = folder / "study.yaml", folder / "out"
        self.text: dict[str, Any] = {
            "base": str(base),
            "set": {"trainer.save_steps": 2},
            "arms": {"plain": {}, "groups-of-4": {"trainer.num_generations": 4}},
            "seeds": [0, 1],
        }
        self.path.write_text(dump_yaml(self.text))
        self.study = load_study(self.path)
        self.runs = planned_runs(self.study, self.out)
        self.launched: list[tuple[str, int]] = []
        run_all(self.runs, self.launch)
        self.page = write_table(self.study, self.runs, self.out)

    def launch(self, run: PlannedRun) -> None:
        self.launched.append((run.arm, run.seed))
        train(run.config, resume=True)

    def record(self) -> Any:
        return json.loads((self.out / "study.json").read_text())


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    return Studied(tmp_path_factory.mktemp("study"))


def test_each_arm_is_trained_with_each_seed_and_its_changes(studied: Studied) -> None:
    expected = [(arm, seed) for seed in (0, 1) for arm in ("plain", "groups-of-4")]
    assert studied.launched == expected and all(finished(run) for run in studied.runs)
    for run in studied.runs:
        config = RunFolder(run.folder).read_config()
        assert config["seed"] == run.seed and config["trainer"]["save_steps"] == 2
        assert config["trainer"]["num_generations"] == (8 if run.arm == "plain" else 4)


def test_the_untrained_policy_answers_once_and_every_run_has_its_answers(studied: Studied) -> None:
    answers = [(run.folder / "eval" / "before" / "completions.jsonl").read_bytes() for run in studied.runs]
    assert len(set(answers)) == 1
    # Its figures are logged in each run, as if it had asked them.
    for run in studied.runs:
        assert RunFolder(run.folder).has_metrics(0, "eval")


def test_before_is_shared_only_where_nothing_differs_that_it_hangs_on(
    studied: Studied, tmp_path: Path
) -> None:
    overrides = ["policy.settings.instructions=full"]
    asked_otherwise = planned_runs(studied.study, tmp_path, overrides)[0]
    assert share_before(asked_otherwise, studied.runs) is None
    alike = planned_runs(studied.study, tmp_path)[0]
    assert share_before(alike, studied.runs) == studied.runs[0].folder


def test_the_table_holds_every_arm_with_completions_and_paired_differences(studied: Studied) -> None:
    arms = {arm["name"]: arm for arm in studied.record()["arms"]}
    assert list(arms) == ["plain", "groups-of-4"]
    assert all(arm["seeds"] == [0, 1] and arm["completions"] == 2 * WINDOW for arm in arms.values())
    assert all(arm["minutes"] > 0 for arm in arms.values())
    assert arms["plain"]["before"] == arms["groups-of-4"]["before"]
    against = arms["groups-of-4"]["against"]
    assert against["difference"] == pytest.approx(
        arms["groups-of-4"]["metrics"]["gIoU"] - arms["plain"]["metrics"]["gIoU"]
    )
    assert against["by_seed_and_image"] is not None and len(against["by_seed"]) == 2
    assert "groups-of-4" in studied.page.read_text()


def test_a_study_goes_on_where_it_was_broken_off_and_a_rescored_table_is_the_same(
    studied: Studied, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last run lost what it wrote last; the command trains that one alone, in a process of its own."""
    out = tmp_path / "out"
    shutil.copytree(studied.out, out)
    last = out / "groups-of-4" / "seed-1"
    before = studied.record()
    shutil.rmtree(last / "checkpoints" / "final")
    shutil.rmtree(last / "checkpoints" / "checkpoint-2")
    shutil.rmtree(last / "eval" / "after")
    assert main(["study", str(studied.path), "-o", str(out)]) == 0
    said = capfd.readouterr().out
    assert said.count("finished before") == 3 and "[4/4] groups-of-4, seed 1" in said
    again = json.loads((out / "study.json").read_text())
    for arm in (*before["arms"], *again["arms"]):
        arm.pop("minutes")
    assert again == before
    assert main(["study", str(studied.path), "-o", str(out), "--rescore", "--only", "plain"]) == 0
    rescored = json.loads((out / "study.json").read_text())
    assert [arm["name"] for arm in rescored["arms"]] == ["plain", "groups-of-4"]
    capfd.readouterr()
    assert main(["study", str(studied.path), "-o", str(out), "--list", "--only", "plain"]) == 0
    assert capfd.readouterr().out.count(" finished") == 4


def test_a_folder_with_other_settings_is_refused_before_anything_is_trained(studied: Studied) -> None:
    other = planned_runs(studied.study, studied.out, ["trainer.learning_rate=0.5"])
    with pytest.raises(
        UserError, match=r"seed-0 holds a run with trainer\.learning_rate 0\.001, but arm 'plain'"
    ):
        run_all(other, studied.launch)
    with pytest.raises(UserError, match=r"seed-0 holds a run with trainer\.learning_rate"):
        write_table(studied.study, other, studied.out)


def test_arms_of_unequal_completions_are_refused_or_told(
    studied: Studied, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = {**studied.text, "arms": {**studied.text["arms"], "longer": {"trainer.max_steps": 6}}}
    path = tmp_path / "unequal.yaml"
    path.write_text(dump_yaml(text))
    assert main(["study", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "plain 32, but longer 96" in capsys.readouterr().err
    alike = planned_runs(load_study(path), tmp_path, only=["plain", "groups-of-4"])
    assert {run.arm for run in alike} == {"plain", "groups-of-4", "longer"}, (
        "what is not trained is not refused"
    )
    path.write_text(dump_yaml({**text, "completions": "any"}))
    assert [run.completions for run in planned_runs(load_study(path), tmp_path)][:3] == [32, 32, 96]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": {"a/b": {}}}, "'a/b' is no name of an arm"),
        ({"arms": {"a": {"seed": 3}}}, "sets 'seed', which the study gives"),
        ({"reference": "plane"}, "there is no arm 'plane'.*'plain'"),
        ({"seeds": [1, 1]}, "a seed is named twice"),
        ({"arms": {"a": {"trainer.learning_rat": 1}, "b": {"group.kepp": 1}}}, "arm 'b': .*group.kepp.*keep"),
    ],
)
def test_mistakes_in_a_study_are_named(
    studied: Studied, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml({**studied.text, **changed}))
    with pytest.raises(UserError, match=message):
        planned_runs(load_study(path), tmp_path)


def test_a_signal_goes_to_the_run_and_ends_the_study(studied: Studied, tmp_path: Path) -> None:
    run = planned_runs(studied.study, tmp_path)[0]
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(RunStopped, match="SIGTERM"):
        train_apart(run)
    timer.join()
    assert not finished(run)


def test_minutes_are_the_union_of_phases_without_evaluations() -> None:
    def event(phase: str, start: float, end: float) -> dict[str, Any]:
        return {"phase": phase, "start_s": start, "end_s": end}

    timeline = [
        event("sample", 0, 4),
        event("optimise", 2, 5),
        event("evaluate", 5, 9),
        event("sample", 20, 21),
    ]
    assert busy_seconds(timeline) == 6
