"""`prompter elisa`: trained, broken off and resumed, evaluated through `prompter eval` in both settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from envs.datasets import open_dataset
from eval.answerers import build_answerer
from prompter.elisa.embedding import GEOMETRY_WIDTH
from prompter.elisa.folder import RECORD, load_elisa
from recipes.cli import main
from rewards.replay import read_rollouts
from tests.fixtures.segmenters import save_sam
from tests.fixtures.tiny_policy import save_tiny_policy

pytestmark = pytest.mark.smoke

SET = {"scenes": 2, "queries_per_scene": 6, "size": 96}


def write_config(folder: Path, base: Path, name: str = "config", **changes: Any) -> Path:
    config = {
        "output_dir": str(folder / "run"),
        "policy": str(base),
        "options": SET,
        # discs where the grid's points are, so that nothing has to be fetched
        "proposer": {
            "executor": {"family": "box"},
            "grid": {"points_per_side": 5, "predicted_iou": 0.0, "stability": 0.0},
            "folder": str(folder / "proposals"),
        },
        "elisa": {"hidden": 32},
        "batch_size": 4,
        "steps": 4,
        "save_every": 2,
        "warmup_steps": 0,
        "learning_rate": 1e-3,
        "threads": 1,
        **changes,
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_tiny_policy(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert main(["elisa", str(write_config(folder, base))]) == 0
    return folder / "run"


def evaluate(policy: Path, out: Path, *options: str) -> dict[str, Any]:
    words = [word for option in options for word in ("--policy-option", option)]
    for key in ("scenes=2", "queries_per_scene=6", "size=96"):
        words += ["--dataset-option", key]
    command = ["eval", "--benchmark", "synthetic-aerial:test", "--policy", f"elisa:{policy}"]
    command += ["--executor", "own-masks", "--limit", "8", "--chunk", "8", "--out", str(out), *words]
    assert main(command) == 0
    results: dict[str, Any] = json.loads((out / "results.json").read_text())["own-masks"]
    return results


def test_only_what_is_to_be_trained_moves(base: Path, trained: Path) -> None:
    before, after = load_file(base / "model.safetensors"), load_file(trained / "policy/model.safetensors")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved and not any("visual" in name for name in moved)
    assert {name for name in before if "visual" not in name and before[name].ndim > 1} <= moved
    record = json.loads((trained / "policy" / RECORD).read_text())
    assert record["trained"]["steps"] == 4 and record["proposer"]["executor"]["family"] == "box"
    assert load_file(trained / "policy/elisa.safetensors")["mean"].abs().sum() > 0


def test_a_resumed_run_is_the_unbroken_one(base: Path, trained: Path, tmp_path: Path) -> None:
    import shutil

    broken = write_config(tmp_path / "broken", base)
    shutil.copytree(
        trained / "trainer/checkpoint-2", tmp_path / "broken/run/trainer/checkpoint-2"
    )  # as a run that was killed after its first checkpoint leaves it
    assert main(["elisa", str(broken)]) == 2  # not empty, and not told to go on
    assert main(["elisa", str(broken), "--resume"]) == 0
    for name in ("model.safetensors", "elisa.safetensors"):
        one, other = (load_file(run / "policy" / name) for run in (trained, tmp_path / "broken/run"))
        assert all(one[key].equal(other[key]) for key in one)
    nothing = write_config(tmp_path / "nothing", base)
    assert main(["elisa", str(nothing), "--resume"]) == 2


def test_it_is_evaluated_like_any_policy_with_masks(trained: Path, tmp_path: Path) -> None:
    offered = evaluate(trained / "policy", tmp_path / "proposals", "truth=true")["choice"]
    assert offered["questions"] == 8 and set(offered["scores"]) == {"chosen", "Rand50", "RandClass"}
    rollouts = list(read_rollouts(next((tmp_path / "proposals/rollouts").glob("*.jsonl"))))
    assert all("<SEG_MASK_" in one.completion or "no such thing" in one.completion for one in rollouts)
    # The right masks are the targets themselves then, and all scores are perfect.
    perfect = evaluate(trained / "policy", tmp_path / "oracle", "truth=true", "chooser=oracle")
    assert perfect["protocols"]["strict"]["metrics"]["gIoU"]["value"] == 1.0
    assert perfect["choice"]["scores"]["chosen"]["F1"]["value"] == 1.0
    # Rand50 as a policy takes about half of what is on offer, the same each time.
    source = open_dataset("synthetic-aerial", "test", **SET)
    drawing = build_answerer(f"elisa:{trained / 'policy'}", {"chooser": "rand50"})
    first, again = (drawing.answer([source[index] for index in range(8)]) for _ in range(2))
    drawing.close()
    assert first == again
    choices = [answer.choice for answer in first if answer.choice is not None]
    share = sum(len(one.chosen) for one in choices) / sum(one.offered for one in choices)
    assert len(choices) == 8 and 0.3 < share < 0.7
    # Free generation may say anything; what is no answer is counted, not raised.
    evaluate(trained / "trainer/checkpoint-4", tmp_path / "free", "generation=free", "batch_size=3")


def test_lora_is_saved_on_its_base_and_the_segmenters_features_serve(base: Path, tmp_path: Path) -> None:
    segmenter = save_sam(tmp_path).model_dump(mode="json", include={"family", "model", "device"})
    grid = {"points_per_side": 3, "predicted_iou": 0.0, "stability": 0.0}
    proposer = {"executor": segmenter, "grid": grid, "folder": str(tmp_path / "proposals")}
    config = write_config(
        tmp_path,
        base,
        lora={"r": 2, "alpha": 4},
        elisa={"hidden": 32, "features": "segmenter"},
        proposer=proposer,
        steps=2,
    )
    assert main(["elisa", str(config)]) == 0
    policy = tmp_path / "run/policy"
    assert not (policy / "model.safetensors").exists()
    again = load_elisa(policy)
    assert again.base == str(base) and again.width == 256 + GEOMETRY_WIDTH
    state = load_file(policy / "lora/adapter_model.safetensors")
    assert any("lora_B" in name and value.abs().sum() > 0 for name, value in state.items())
    assert not any("visual" in name for name in state)
    evaluate(policy, tmp_path / "eval", f"proposals={tmp_path / 'proposals'}")


def test_a_folder_is_data(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    policy = tmp_path / "policy"
    shutil.copytree(trained / "policy", policy)
    record = json.loads((policy / RECORD).read_text())
    record["proposer"]["executor"]["family"] = "os:getcwd"
    (policy / RECORD).write_text(json.dumps(record))
    command = ["eval", "--benchmark", "synthetic-aerial:test", "--executor", "own-masks", "--limit", "1"]
    assert main([*command, "--policy", f"elisa:{policy}", "--out", str(tmp_path / "out")]) == 2
    assert "which is code" in capsys.readouterr().err
    assert main([*command, "--policy", f"elisa:{tmp_path}", "--out", str(tmp_path / "out")]) == 2
    assert "is no ELISA policy" in capsys.readouterr().err
