"""What systems share reaches each command in its own keys; costs are read from what runs leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from prompter.errors import UserError
from prompter.runs.jsonl import write_lines
from prompter.runs.values import dump_yaml
from recipes.cold_start.train import HISTORY
from recipes.seg_token.train import METRICS, POLICY
from recipes.study.table import logged_minutes
from recipes.systems.adapters import ADAPTERS, TrainAdapter
from recipes.systems.config import SystemsConfig, is_of_systems, load_systems
from recipes.systems.cost import run_cost, trained_weights
from recipes.systems.run import SystemRun, executor_text, finished, planned_systems, run_systems

ARMS: dict[str, Any] = {
    "grpo": {"command": "train", "base": "adapt-area", "set": {"trainer.max_steps": 80}},
    "seg": {"command": "seg-token", "base": "recipes/configs/seg-token.yaml"},
    "elisa": {"command": "elisa", "base": "recipes/configs/elisa.yaml"},
}
ROUNDS: dict[str, Any] = {
    "grpo": ARMS["grpo"],
    "told": {"command": "cold-start", "base": "recipes/configs/cold-start-answers.yaml", "answers": "grpo"},
    "again": {**ARMS["grpo"], "after": "told"},
    "labels": {"command": "cold-start", "base": "recipes/configs/cold-start-further.yaml", "after": "grpo"},
}
FIELDS: dict[str, Any] = {
    "trains": "systems",
    "policy": "somewhere/policy",
    "taught": "Boxes.",
    "dataset": {"name": "synthetic-aerial", "split": "val", "options": {"scenes": 3}},
    "questions": {"benchmark": "synthetic-aerial:test", "options": {"scenes": 2}, "limit": 9},
    "executor": {"family": "mobile-sam", "threads": 1, "cache_dtype": "float16"},
    "arms": ARMS,
    "seeds": [0, 4],
}


def study(**changes: Any) -> SystemsConfig:
    return SystemsConfig.model_validate({**FIELDS, **changes})


def planned(out: Path, **changes: Any) -> list[SystemRun]:
    return planned_systems(study(**changes), out)


def test_what_is_shared_is_the_same_in_every_commands_own_keys(tmp_path: Path) -> None:
    runs = planned(tmp_path)
    assert [(run.arm, run.seed) for run in runs] == [(arm, seed) for seed in (0, 4) for arm in ARMS]
    grpo, seg, elisa = (run.config for run in runs[3:])
    assert (grpo.seed, seg.seed, elisa.seed) == (4, 4, 4)
    assert grpo.policy.model == seg.init == elisa.policy == "somewhere/policy"
    for dataset in (grpo.dataset.name, seg.dataset, elisa.dataset):
        assert dataset == "synthetic-aerial"
    assert grpo.dataset.split == seg.split == elisa.split == "val"
    assert grpo.dataset.options == seg.options == elisa.options == {"scenes": 3}
    for executor in (grpo.executor, seg.executor, elisa.proposer.executor):
        assert (executor.family, executor.threads, executor.cache_dtype) == ("mobile-sam", 1, "float16")
    assert grpo.executor.backend == "ray", "what the base says otherwise stays"
    folders = [grpo.run_dir, seg.output_dir, elisa.output_dir]
    assert folders == [str(tmp_path / arm / "seed-4") for arm in ARMS]
    # A run's own evaluations ask what all are asked.
    assert (grpo.eval.dataset, grpo.eval.split, grpo.eval.samples) == ("synthetic-aerial", "test", 9)
    assert grpo.held_out.options == {"scenes": 2} and not grpo.eval.others


def test_an_arm_has_its_own_keys_and_not_those_that_all_share(tmp_path: Path) -> None:
    own = {**ARMS, "grpo": {**ARMS["grpo"], "set": {"rewards": {"box_iou": 1.0}, "eval.samples": 3}}}
    config = planned(tmp_path, arms=own)[0].config
    assert config.rewards == {"box_iou": 1.0} and config.eval.samples == 3
    for arm, key in (
        ("seg", "init"),
        ("grpo", "dataset"),
        ("elisa", "proposer.executor.threads"),
        ("seg", "seed"),
    ):
        with pytest.raises(UserError, match=f"arm '{arm}' sets '{key}', but .* same for all"):
            planned(tmp_path, arms={**ARMS, arm: {**ARMS[arm], "set": {key: 1}}})


def test_equal_questions_are_counted_with_repeats(tmp_path: Path) -> None:
    grpo, seg, elisa = planned(tmp_path)[:3]
    assert (grpo.questions, grpo.adapter.completions(grpo.config)) == (320, 5120)
    assert seg.questions == seg.config.steps * seg.config.batch_size > 0
    assert elisa.questions == elisa.config.steps * elisa.config.batch_size > 0
    fitting = {**ARMS["seg"], "equal": "questions", "set": {"steps": 20}}
    assert planned(tmp_path, arms={**ARMS, "seg": fitting})[1].questions == 320
    unequal = study(arms={**ARMS, "seg": {**fitting, "set": {"steps": 21}}})
    with pytest.raises(
        UserError, match="'seg' is to be asked as many questions as 'grpo', 320, but is asked 336"
    ):
        planned_systems(unequal, tmp_path)
    assert planned_systems(unequal, tmp_path, only=["grpo"])


def test_the_segmenter_is_told_to_evaluations_too() -> None:
    assert executor_text(study()) == "mobile-sam,threads=1,cache_dtype=float16"
    own = study(executor={"family": "segment-anything", "model": "sam.pth", "device": "cpu"})
    assert executor_text(own) == "segment-anything:sam.pth,device=cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"base": ARMS["grpo"]}}, "what the untrained checkpoint is called"),
        ({"arms": {"a/b": ARMS["grpo"]}}, "no name of an arm"),
        ({"reference": "grop"}, "Did you mean 'grpo'"),
        ({"questions": {"benchmark": "synthetic-aerial"}}, "names no split"),
        ({"executor": {"famly": "box"}}, "unknown key 'famly'"),
        (
            {"arms": {"again": ROUNDS["again"], "told": ARMS["grpo"]}},
            "no such arm stands above it: move it up",
        ),
        ({"arms": {"grpo": ARMS["grpo"], "x": {**ARMS["grpo"], "after": "grop"}}}, "Did you mean 'grpo'"),
        ({"arms": {"x": {**ARMS["grpo"], "after": "x"}}}, "no such arm stands above it: name another"),
        (
            {"arms": {**ARMS, "x": {**ARMS["grpo"], "after": "seg"}}},
            "an arm of seg-token: only train and cold",
        ),
        ({"arms": {**ROUNDS, "x": {**ROUNDS["told"], "answers": "told"}}}, "only train will do"),
        ({"arms": {**ARMS, "x": {**ARMS["seg"], "answers": "grpo"}}}, "only command: cold-start imitates"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(**changes)


def test_a_file_says_that_its_arms_are_systems_and_flags_change_its_own_keys(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(FIELDS))
    assert is_of_systems(path) and not is_of_systems("recipes/configs/studies/area.yaml")
    assert load_systems(path, ["questions.limit=3"]).questions.limit == 3


def test_a_seg_token_run_is_finished_with_its_last_step_and_not_with_a_policy(tmp_path: Path) -> None:
    run = planned(tmp_path)[1]
    (run.folder / POLICY).mkdir(parents=True)
    write_lines(run.folder / METRICS, [{"step": run.config.steps - 1, "minutes": 1.0}])
    assert not finished(run)
    write_lines(run.folder / METRICS, [{"step": run.config.steps, "minutes": 1.0}])
    assert finished(run)


def test_an_arm_goes_on_from_another_with_the_same_seed(tmp_path: Path) -> None:
    grpo, told, again, labels = planned(tmp_path, arms=ROUNDS)[4:]
    assert {run.seed for run in (grpo, told, again, labels)} == {4}
    assert told.config.init == "somewhere/policy", "answers are imitated by what the run began with"
    assert told.config.dataset == "recipes.cold_start.answers:open_answers"
    assert told.config.options == {"runs": [str(tmp_path / "grpo" / "seed-4")]}
    assert again.config.policy.model == str(told.policy)
    assert told.policy == tmp_path / "told" / "seed-4" / "exports" / "step-000100"
    assert labels.config.init == str(grpo.policy)
    assert (labels.config.dataset, labels.config.options) == ("synthetic-aerial", {"scenes": 3})
    assert [one.arm for one in again.line] == ["grpo", "told", "again"]
    assert (told.questions, again.questions) == (100 * 32, 320)
    assert again.questions_in_line == 320 + 100 * 32 + 320


def test_what_an_arm_needs_is_trained_first_and_what_it_cost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, told, again = planned(tmp_path, arms=ROUNDS)[:3]
    asked = study(arms=ROUNDS)
    with pytest.raises(UserError, match="'told' goes on from 'grpo', which is not finished with seed 0: add"):
        run_systems(asked, [told, again], tmp_path)
    assert not list(tmp_path.iterdir()), "refused before any work"
    monkeypatch.setattr(TrainAdapter, "minutes", lambda self, folder: 2.0)
    history = told.folder / "trainer" / "checkpoint-100" / HISTORY
    history.parent.mkdir(parents=True)
    history.write_text('[{"step": 50, "minutes": 1.0}, {"step": 100, "minutes": 3.0}]')
    save_file({"lora": torch.ones(4)}, _folder(again.policy) / "adapter_model.safetensors")
    again.evaluation.mkdir()
    cost = run_cost(again, str(tmp_path))
    assert (cost.minutes, cost.questions, cost.completions) == (7.0, again.questions_in_line, 2 * 5120)
    history.unlink()
    assert run_cost(again, str(tmp_path)).minutes is None, "a part that is not known is not left out"


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_minutes_of_a_resumed_run_are_those_of_all_its_parts() -> None:
    lines = [{"minutes": value} for value in (0.5, 1.5, 0.25, 2.0)]
    assert logged_minutes(lines) == 3.5
    assert logged_minutes([]) is None
    assert set(ADAPTERS) == {"train", "cold-start", "seg-token", "elisa"}


def test_trained_weights_are_adapters_or_what_is_not_as_in_the_base(tmp_path: Path) -> None:
    base, policy, folder = tmp_path / "base", tmp_path / "run" / "policy", tmp_path / "run"
    base.mkdir()
    policy.mkdir(parents=True)
    still, moved = torch.ones(3), torch.ones(5)
    save_file({"still": still, "moved": moved, "cut": moved.clone()}, base / "model.safetensors")
    changed = {"still": still.half(), "moved": moved * 2, "cut": torch.ones(6), "new": torch.ones(2)}
    save_file(changed, policy / "model.safetensors")
    save_file({"head": torch.ones(7)}, policy / "head.safetensors")
    assert trained_weights(folder, policy, base) == 5 + 6 + 2 + 7
    assert trained_weights(folder, policy, tmp_path / "hub") is None
    adapters = folder / "checkpoints" / "checkpoint-2"
    adapters.mkdir(parents=True)
    save_file({"lora": torch.ones(4)}, adapters / "adapter_model.safetensors")
    assert trained_weights(folder, policy, base) == 4
