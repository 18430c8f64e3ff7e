"""`prompter cold-start`: two steps of the cold start, from nothing to a checkpoint with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from prompter.checkpoint import load_policy, load_weights
from prompter.sampling.base import SamplingSettings
from recipes.cli import main
from recipes.cold_start.small_policy import build_small_policy
from tests.fixtures.tiny_policy import SIZE


def write_config(folder: Path, **changes: Any) -> Path:
    config = {
        "output_dir": str(folder / "policy"),
        "options": {"scenes": 3, "queries_per_scene": 6, "size": 128},
        "policy": SIZE.model_dump(),
        "batch_size": 6,
        "steps": 2,
        "probe_every": 2,
        "probe_samples": 1000,
        "threads": 1,
        **changes,
    }
    path = folder / "cold-start.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_cold_start_exports_a_policy_with_its_card(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert main(["cold-start", str(config), "--seed", "5"]) == 0
    output = tmp_path / "policy"
    policy = load_policy(output)
    assert policy.settings.image.side == SIZE.image_side
    card = (output / "README.md").read_text(encoding="utf-8")
    command = f"- command: `prompter cold-start {config} --seed 5`"
    for part in (command, "- commit: ", "synthetic-aerial (train), seed 5", "| 2 | 12 |"):
        assert part in card
    # It answers, whatever it says.
    from PIL import Image

    from prompter.sampling.huggingface import HuggingFaceSampler

    sampler = HuggingFaceSampler(load_weights(policy), policy.processor)
    request = policy.request("all ships", Image.new("RGB", (128, 128)))
    ((completion,),) = sampler.sample([request], SamplingSettings(max_new_tokens=8, seed=1))
    assert 0 < len(completion.token_ids) <= 8


def test_a_cold_start_may_teach_another_frame_than_it_starts_from(tmp_path: Path) -> None:
    first = build_small_policy(tmp_path / "first", ["all ships"], size=SIZE)
    assert first.frame_kind == "thousandths"
    config = write_config(tmp_path, init=str(tmp_path / "first"), frame="absolute", probe_samples=6)
    assert main(["cold-start", str(config)]) == 0
    assert load_policy(tmp_path / "policy").frame_kind == "absolute"


def test_a_resumed_cold_start_is_the_unbroken_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "schedule": "constant_with_warmup",
        "warmup_steps": 0,
        "optimiser": "muon",
        "average": 0.9,
        "augment": 0.5,
        "length_parts": 2,
        "probe_every": 1,
        "probe_samples": 6,
    }
    for name, steps in (("unbroken", 2), ("broken", 1)):
        (tmp_path / name).mkdir()
        assert main(["cold-start", str(write_config(tmp_path / name, steps=steps, **settings))]) == 0
    config = write_config(tmp_path / "broken", steps=2, **settings)
    assert main(["cold-start", str(config), "--resume"]) == 0
    unbroken, resumed = (tmp_path / name / "policy" for name in ("unbroken", "broken"))
    first, second = (load_file(path / "model.safetensors") for path in (unbroken, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    begun = load_file(resumed / "exports" / "step-000001" / "model.safetensors")
    assert any(not torch.equal(begun[name], second[name]) for name in second)
    assert "| 2 | 12 |" in (resumed / "README.md").read_text(encoding="utf-8")
    assert main(["cold-start", str(write_config(tmp_path)), "--resume"]) == 2


def test_bad_input_is_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"step": 2}, "unknown key 'step'. Did you mean 'steps'?"),
        ({"dataset": "synthetic"}, "'synthetic'"),
        ({"init": str(tmp_path / "none")}, "neither a checkpoint folder nor a model the hub"),
        ({"options": {"scenes": 1, "queries_per_scene": 2}}, "fewer than queries_per_image 6"),
    ]
    for changes, message in cases:
        config = write_config(tmp_path, **changes)
        capsys.readouterr()
        assert main(["sft", str(config)]) == 2
        assert message in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cold-start.yaml"]
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine.txt").write_text("mine")
    assert main(["sft", str(write_config(tmp_path))]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "policy").iterdir()] == ["mine.txt"]
