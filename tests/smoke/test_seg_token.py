"""`prompter seg-token`: trained, saved, resumed, and evaluated by `prompter eval` with its own masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from envs.masks import decode_rle
from envs.seg_token.settings import SETTINGS_FILE, WEIGHTS_FILE
from eval.answerers import build_answerer
from prompter.checkpoint import load_policy, load_weights
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from prompter.types import PromptSet
from recipes.cli import main
from rewards.replay import read_rollouts
from tests.fixtures.seg_token import seg_token_fields


def write(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(seg_token_fields(folder, output_dir=str(folder / name), **changes)))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of forty steps on one image, in the folder `run`."""
    folder = tmp_path_factory.mktemp("seg-token")
    options = {"scenes": 1, "queries_per_scene": 4, "size": 96}
    config = write(folder, "run", steps=40, options=options, schedule="constant_with_warmup")
    assert main(["seg-token", str(config)]) == 0
    return folder


def test_the_losses_fall_and_are_logged(world: Path) -> None:
    lines = list(read_lines(world / "run" / "metrics.jsonl"))
    assert [line["step"] for line in lines] == list(range(1, 41))
    for name, share in (("text", 0.1), ("bce", 0.3), ("dice", 0.85)):
        assert lines[-1][name] < share * lines[0][name]
    assert lines[-1]["encodes"] == 1


def test_it_answers_in_an_evaluation_with_its_own_masks(world: Path) -> None:
    out = world / "eval"
    command = ["eval", "--benchmark", "synthetic-aerial:train", "--executor", "own-masks", "--out", str(out)]
    for option in ("scenes=1", "queries_per_scene=4", "size=96"):
        command += ["--dataset-option", option]
    command += ["--policy", f"seg-token:{world / 'run' / 'policy'}", "--keep-instances"]
    # After forty steps on random weights few pixels are likelier than not.
    assert main([*command, "--policy-option", "mask_threshold=-2"]) == 0
    rollouts = list(read_rollouts(out / "rollouts" / "own-masks.jsonl"))
    assert len(rollouts) == 4
    for one in rollouts:
        assert isinstance(one.reading, PromptSet) and one.prediction is not None
        assert one.completion.count("[SEG]") == len(one.instances) >= len(one.reading)
        assert ("[REJ]" in one.completion) == (not one.instances)
        assert len(one.predicted_instances) == len(one.predicted_ious) == len(one.reading)
        assert decode_rle(one.prediction, (96, 96)).any() == bool(len(one.reading))
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["own-masks"]["protocols"]["strict"]["metrics"]["gIoU"]["value"] > 0.05
    assert json.loads((out / "policy.json").read_text(encoding="utf-8"))["seg_token"]["queries"] == 1


def test_of_several_queries_one_mask_is_chosen_in_an_evaluation(world: Path) -> None:
    # Each of the three starts as the one that was learned.
    start = {"init": str(world / "run" / "policy"), "start_from": {"[SEG]": "[SEG]"}}
    assert main(["seg-token", str(write(world, "several", steps=10, queries=3, **start))]) == 0
    command = ["eval", "--benchmark", "synthetic-aerial:train", "--executor", "own-masks"]
    for option in ("scenes=1", "queries_per_scene=4", "size=96"):
        command += ["--dataset-option", option]
    command += ["--policy", f"seg-token:{world / 'several' / 'policy'}", "--keep-instances"]
    out = world / "several-eval"
    assert main([*command, "--out", str(out), "--policy-option", "mask_threshold=-2"]) == 0
    rollouts = list(read_rollouts(out / "rollouts" / "own-masks.jsonl"))
    marked = [one.completion.count("[SEG1]") for one in rollouts]
    assert sum(marked) > 0
    for one, count in zip(rollouts, marked, strict=True):
        assert one.completion.count("[SEG1][SEG2][SEG3]") == count
        if isinstance(one.reading, PromptSet):
            assert len(one.instances) == count
    # vLLM cannot be told which token comes after which.
    other = ["--out", str(world / "several-vllm"), "--policy-option", "sampler.backend=vllm"]
    assert main([*command, *other]) == 2


def test_its_folder_is_a_checkpoint_of_transformers_too(world: Path) -> None:
    policy = load_policy(world / "run" / "policy")
    model = load_weights(policy)
    assert model.get_input_embeddings().weight.shape[0] >= len(policy.processor.tokenizer)
    assert "Mark what is asked for." in policy.system


def test_a_resumed_run_is_the_unbroken_one(world: Path) -> None:
    settings: dict[str, Any] = {"schedule": "constant_with_warmup", "save_every": 1}
    assert main(["seg-token", str(write(world, "unbroken", steps=2, **settings))]) == 0
    assert main(["seg-token", str(write(world, "broken", steps=1, **settings))]) == 0
    assert main(["seg-token", str(write(world, "broken", steps=2, **settings)), "--resume"]) == 0
    for name in (WEIGHTS_FILE, "model.safetensors"):
        first, second = (load_file(world / run / "policy" / name) for run in ("unbroken", "broken"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_adapters_are_merged_into_what_is_saved(world: Path) -> None:
    config = write(world, "lora", steps=2, lora={"r": 2, "alpha": 4}, queries=2, bfloat16=True, mask_every=2)
    assert main(["seg-token", str(config)]) == 0
    assert ["bce" in line for line in read_lines(world / "lora" / "metrics.jsonl")] == [True, False]
    saved = load_file(world / "lora" / "policy" / "model.safetensors")
    assert not [name for name in saved if "lora" in name or "base_layer" in name]
    load_weights(load_policy(world / "lora" / "policy"))
    again = write(world, "again", steps=0, init=str(world / "lora" / "policy"), queries=2)
    assert main(["seg-token", str(again)]) == 0
    first, second = (load_file(world / run / "policy" / WEIGHTS_FILE) for run in ("lora", "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_does_not_fit_is_one_sentence(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"wieghts": {}}, "unknown key 'wieghts'. Did you mean 'weights'?"),
        ({"executor": {"family": "box"}}, "does not have: take mobile-sam"),
        ({"options": {"scenes": 1, "queries_per_scene": 2}}, "fewer than queries_per_image 4"),
    ]
    for changes, message in cases:
        capsys.readouterr()
        assert main(["seg-token", str(write(world, "bad", **changes))]) == 2
        assert message in capsys.readouterr().err
        assert not (world / "bad").exists()
    with pytest.raises(UserError, match="no folder"):
        build_answerer(f"seg-token:{world / 'absent'}")
    with pytest.raises(UserError, match=r"holds no seg-token policy.*seg_token\.json"):
        build_answerer(f"seg-token:{world / 'base'}")


def test_a_checkpoint_is_data(world: Path) -> None:
    copy = world / "copy"
    shutil.copytree(world / "run" / "policy", copy)
    settings = json.loads((copy / SETTINGS_FILE).read_text(encoding="utf-8"))
    for change, message in (
        ({"executor": {**settings["executor"], "family": "os:system"}}, "may not have code imported"),
        ({"encoder": "another"}, "another image encoder"),
        ({"queries": 0}, "queries"),
    ):
        (copy / SETTINGS_FILE).write_text(json.dumps({**settings, **change}))
        with pytest.raises(UserError, match=message):
            build_answerer(f"seg-token:{copy}")
    (copy / SETTINGS_FILE).write_text(json.dumps(settings))
    weights = (copy / WEIGHTS_FILE).read_bytes()
    (copy / WEIGHTS_FILE).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="does not hold the projection and head"):
        build_answerer(f"seg-token:{copy}")


def test_a_study_trains_and_compares_its_arms_once(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def here(*words: str) -> None:
        asked.append(words[0])
        assert main(list(words)) == 0

    monkeypatch.setattr("recipes.seg_token.study.run_apart", here)
    monkeypatch.setattr("recipes.study.apart.run_apart", here)
    options = {"scenes": 1, "queries_per_scene": 2, "size": 96}
    path, out = world / "study.yaml", world / "study"
    study: dict[str, Any] = {
        "trains": "seg-token",
        "base": str(write(world, "base", steps=1, max_new_tokens=8)),
        "questions": {"benchmark": "synthetic-aerial:test", "options": options},
        "seeds": [0],
        "arms": {"plain": {}, "attention": {"weights.attention": 0.01}},
    }
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    broken_off = out / "plain" / "seed-0"
    broken_off.mkdir(parents=True)
    (broken_off / "command.txt").write_text("begun, and nothing saved\n")
    assert main(["study", str(path), "-o", str(out), "--list"]) == 0
    assert "attention  seed 0  4 questions  to do" in capsys.readouterr().out
    assert main(["study", str(path), "-o", str(out)]) == 0
    assert asked == ["seg-token", "eval"] * 3  # before any step, and each arm
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert [arm["name"] for arm in record["arms"]] == ["plain", "attention"]
    assert main(["study", str(path), "-o", str(out)]) == 0
    assert len(asked) == 6
    assert main(["study", str(path), "-o", str(out), "--only", "plain", "--seeds", "1"]) == 0
    assert len(asked) == 8, "another seed later: before any step is not asked again"
    study["arms"]["attention"] = {"weights.attention": 0.1}
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    assert main(["study", str(path), "-o", str(out)]) == 2
    assert "weights.attention 0.01, but arm 'attention' has 0.1" in capsys.readouterr().err
    study["arms"]["longer"] = {"steps": 2}
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    assert main(["study", str(path), "-o", str(out)]) == 2
    assert "plain 4, but longer 8" in capsys.readouterr().err
