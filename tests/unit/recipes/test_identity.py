"""A run is resumed as the one that was begun, or refused; what only changes its speed may differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prompter.coords import FrameKind
from prompter.errors import UserError
from prompter.policy import Policy, PolicySettings
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training import identity
from recipes.training.checks import grpo_arguments
from recipes.training.identity import check_same_rollouts, check_same_run, run_identity
from tests.fixtures.toy_task import Squares, toy_policy


class Checkpoint(Policy):
    """A policy as `load_policy` gives it, of a family that spoke otherwise in earlier versions."""

    source = "Qwen/Qwen2-VL-2B-Instruct"
    family = "qwen2_vl"


def policy_of(config: TrainConfig) -> Any:
    toy = toy_policy()
    settings = PolicySettings.model_validate(
        {**toy.settings.model_dump(mode="json"), **config.policy.setting_overrides()}
    )
    frame: FrameKind = settings.frame or "thousandths"
    return Checkpoint(settings, frame, toy.factor)


def config_of(folder: Path, **changes: Any) -> TrainConfig:
    """A run's config; a change is `section__key=value`."""
    sections: dict[str, Any] = {
        "run_dir": str(folder),
        "policy": {"model": Checkpoint.source},
        "dataset": {"name": "squares", "options": {"root": "here"}},
        "sampler": {"backend": "hf"},
        "trainer": {
            "use_cpu": True,
            "bf16": False,
            "max_steps": 4,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-3,
        },
    }
    for key, value in changes.items():
        *outer, last = key.split("__")
        section = sections
        for name in outer:
            section = section.setdefault(name, {})
        section[last] = value
    return TrainConfig.model_validate(sections)


def identity_of(config: TrainConfig, source: Any = None) -> dict[str, Any]:
    return run_identity(config, policy_of(config), grpo_arguments(config, 32), source or Squares(100))


def begin(folder: Path, **changes: Any) -> RunFolder:
    config = config_of(folder, **changes)
    run = RunFolder.create(folder)
    run.write_config(config.model_dump(mode="json"))
    run.write_identity(identity_of(config))
    return run


def resume(run: RunFolder, source: Any = None, **changes: Any) -> list[str]:
    config = config_of(run.path, **changes)
    return check_same_run(run, config, identity_of(config, source), source or Squares(100))


def test_the_same_run_is_resumed_without_a_word(tmp_path: Path) -> None:
    assert resume(begin(tmp_path / "run")) == []
    assert resume(RunFolder(tmp_path / "nothing")) == [], "a run that was killed before it wrote anything"


class OtherTarget(Squares):
    """The same questions, one of them with another answer."""

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        sample = super().__getitem__(index)
        if index == 0:
            object.__setattr__(sample, "target", Squares.__getitem__(self, 1).target)
        return sample


REFUSED: dict[str, tuple[dict[str, Any], Callable[[], Any], list[str]]] = {
    "seed": ({"seed": 1}, lambda: None, ["seed was 0 and is now 1", "another run_dir"]),
    "fewer samples": ({}, lambda: Squares(99), ["the number of training samples was 100 and is now 99"]),
    "another label": ({}, lambda: OtherTarget(100), ["the content of the training set"]),
    "another set": ({"dataset__name": "circles"}, lambda: None, ["dataset.name was 'squares'"]),
    "global batch": (
        {"trainer__per_device_train_batch_size": 32},
        lambda: None,
        ["the number of completions in a window", "was 16 and is now 32", "ranks"],
    ),
    "group": ({"trainer__num_generations": 4}, lambda: None, ["trainer.num_generations was 8 and is now 4"]),
    "kept": ({"group__keep": 4}, lambda: None, ["completions kept of a group (group.keep) was 8 and is"]),
    "window": (
        {"trainer__num_iterations": 2},
        lambda: None,
        ["the number of optimiser steps in a window", "was 1 and is now 2"],
    ),
    "frame": (
        {"policy__settings": {"frame": "absolute"}},
        lambda: None,
        ["policy.settings.frame was 'thousandths' and is now 'absolute'"],
    ),
    "prompt": ({"policy__settings": {"think": True}}, lambda: None, ["policy.settings.think was False"]),
    "adapters": ({"policy__lora": {"r": 4}}, lambda: None, ["policy.lora.r was 16 and is now 4"]),
    "all weights": ({"policy__lora": None}, lambda: None, ["policy.lora.r was 16 and is now None"]),
    "learning rate": (
        {"trainer__learning_rate": 1e-4},
        lambda: None,
        ["trainer.learning_rate was 0.001 and is now 0.0001", "restored with the optimiser"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_run_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    changes, source, expected = REFUSED[case]
    run = begin(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        resume(run, source(), **changes)
    sentence = str(caught.value)
    assert "\n" not in sentence and str(run.path) in sentence
    for part in expected:
        assert part in sentence


def test_adapters_cannot_be_put_on_a_run_of_all_weights(tmp_path: Path) -> None:
    run = begin(tmp_path / "run", policy__lora=None)
    with pytest.raises(UserError, match=r"policy\.lora was 'none' and is now None"):
        resume(run)


def test_what_only_changes_the_speed_is_said(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    said = resume(
        run, sampler__actors=2, executor={"family": "box"}, trainer__save_steps=2, dataset__options={}
    )
    assert "resumed with another sampler.actors: 1 -> 2" in said
    assert any(line.startswith("resumed with another executor.family") for line in said)
    assert any("trainer.save_steps" in line for line in said)


def test_ranks_may_change_while_the_global_batch_stays(tmp_path: Path) -> None:
    """Half the rows at once, twice as often, is the same window and the same optimiser step."""
    run = begin(tmp_path / "run")
    changes = {"trainer__per_device_train_batch_size": 8, "trainer__gradient_accumulation_steps": 2}
    assert all(line.startswith("resumed with another trainer.") for line in resume(run, **changes))


def test_other_versions_are_said(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    recorded = run.read_identity()
    assert recorded is not None
    ran = recorded["versions"]["torch"]
    recorded["versions"]["torch"] = "1.0"
    run.write_identity(recorded)
    (line,) = resume(run)
    assert "other versions" in line and f"torch 1.0 -> {ran}" in line


def test_a_setting_that_a_later_version_added_says_nothing(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    recorded = run.read_identity()
    assert recorded is not None
    del recorded["policy"]["asked"]["think"]
    run.write_identity(recorded)
    assert resume(run) == []


def test_a_run_that_did_not_record_its_frame_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen2-VL was asked for pixels before its family's frame was mended; a hub checkpoint names none."""
    run = begin(tmp_path / "run")
    run.identity_path.unlink()
    monkeypatch.setattr(
        identity,
        "load_policy",
        lambda source, overrides: policy_of(config_of(run.path, policy__settings=overrides)),
    )
    with pytest.raises(UserError, match=r"policy\.settings\.frame was 'absolute' and is now 'thousandths'"):
        resume(run)
    (line,) = resume(run, policy__settings={"frame": "absolute"})
    assert line == "resumed with another policy.settings.frame: None -> 'absolute'"
    with pytest.raises(UserError, match="seed was 0 and is now 3"):
        resume(run, seed=3, policy__settings={"frame": "absolute"})
    with pytest.raises(UserError, match="section dataset"):
        resume(run, dataset__split="val", policy__settings={"frame": "absolute"})


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    for text in ("{", "[1]"):
        run.identity_path.write_text(text)
        with pytest.raises(UserError, match=r"identity\.json"):
            resume(run)


def test_rollouts_are_trained_on_with_another_optimiser_but_not_other_questions(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    other = {"trainer__learning_rate": 1e-5, "policy__lora": {"r": 2}}
    check_same_rollouts(run, identity_of(config_of(tmp_path / "new", **other)))
    with pytest.raises(UserError, match="there seed was 0, and here it is 2"):
        check_same_rollouts(run, identity_of(config_of(tmp_path / "new", seed=2)))


def test_a_moved_model_folder_is_the_same_model(tmp_path: Path) -> None:
    def model(name: str, weights: bytes) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
        (folder / "model.safetensors").write_bytes(weights)
        return identity._model(str(folder))

    assert model("here", b"1234") == model("there", b"5678") != model("larger", b"12345")
    assert identity._model("Qwen/Qwen2-VL-2B-Instruct") == "Qwen/Qwen2-VL-2B-Instruct"
