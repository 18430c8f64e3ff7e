"""What was written before names changed still opens, resumes and scores alike (`tests/golden/before_move`).

Everything is opened by the command line and with the keys, flags and commands of that day. A key that
is renamed keeps its old spelling as an alias, and gets a line in `RENAMED`; nothing else here changes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from prompter.runs.config import load_config_model
from prompter.runs.jsonl import keep_first_lines, read_lines
from prompter.runs.run_folder import RunFolder
from recipes.cli import main
from recipes.cold_start.train import ColdStartConfig
from rewards.replay import read_rollouts

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("small_heap")]

HERE = Path(__file__).resolve().parents[1] / "golden" / "before_move"

RENAMED: dict[str, str] = {
    "sampler.kind": "sampler.backend",
    "sampler.engines": "sampler.actors",
    "sampler.timeout_s": "sampler.timeout_seconds",
    "executor.pool": "executor.backend",
    "executor.*.pool": "executor.*.backend",
}
"""Dotted config key as it was -> as it is now; a list's elements stand under `*` (`executor.*.pool`)."""

RENAMED_METRICS: dict[str, str] = {"giou": "gIoU"}
"""Key of a training step's line in `metrics.jsonl` as it was -> as it is now."""

RUN_CONFIGS = [
    "train.yaml",
    "interrupted/config.yaml",
    "finished/config.yaml",
    "configs/every-key.yaml",
    "configs/aerial-buildings.yaml",
    "configs/qwen2.5-vl-3b.yaml",
    "configs/synthetic-aerial.yaml",
]
COLD_STARTS = ["configs/cold-start.yaml", "configs/cold-start-prose.yaml"]

EVALUATE = [
    *("eval", "--benchmark", "manifest:val", "--dataset-option", "path=data/val.jsonl", "--policy", "policy"),
    *("--policy-option", "sampler.kind=hf", "--policy-option", "sampler.batch_size=8"),
    *("--policy-option", "sampler.dtype=float32", "--policy-option", "sampler.timeout_s=45"),
    *("--executor", "box", "--executor", "box,mask_threshold=0.5,pool=local,timeout_seconds=30"),
    *("--keep-instances", "--label", "tiny", "--training", "zero-shot", "--limit", "9", "--chunk", "4"),
]
PROTOCOLS = ["--protocol", "strict,lisa,rela,rmsin,geo-r1,segearth-r1,think2seg,visionreasoner"]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of what was kept, as the folder commands are started in; paths in it are relative to that."""
    import torch

    shutil.copytree(HERE, tmp_path / "kept")
    final = tmp_path / "kept" / "finished" / "checkpoints" / "final"
    shutil.copy(tmp_path / "kept" / "policy" / "tokenizer.json", final)  # kept once, see README.md there
    monkeypatch.chdir(tmp_path / "kept")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # floats are added up in the order they were
    yield tmp_path / "kept"
    torch.set_num_threads(threads)


def expected(name: str) -> Any:
    return json.loads((HERE / "expected.json").read_text(encoding="utf-8"))[name]


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """Dotted key -> value, down to what is neither a mapping nor a list."""
    if isinstance(value, Mapping):
        parts = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list):
        parts = [(str(number), item) for number, item in enumerate(value)]
    else:
        return {key: value}
    return {
        name: leaf
        for part, item in parts
        for name, leaf in leaves(item, f"{key}.{part}" if key else part).items()
    }


def today(key: str) -> str:
    """A dotted key by its present name; numbers in it stay."""
    parts = key.split(".")
    wild = ".".join("*" if part.isdigit() else part for part in parts)
    numbers = [part for part in parts if part.isdigit()]
    named = RENAMED.get(wild, wild)
    for number in numbers:
        named = named.replace("*", number, 1)
    section, _, setting = named.partition(".")
    if section == "policy" and setting.partition(".")[0] not in ("model", "dtype", "lora", "settings"):
        return f"policy.settings.{setting}"
    return named


def resolved_config(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert main(["train", *words, "--print-config"]) == 0
    return capfd.readouterr().out


def test_the_kept_configs_are_all_tried() -> None:
    assert sorted(path.name for path in (HERE / "configs").iterdir()) == sorted(
        Path(name).name for name in [*RUN_CONFIGS[3:], *COLD_STARTS]
    )


@pytest.mark.parametrize("name", RUN_CONFIGS)
def test_each_config_says_what_it_said(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = leaves(yaml.safe_load((HERE / name).read_text(encoding="utf-8")))
    resolved = resolved_config(capfd, str(HERE / name))
    found = leaves(yaml.safe_load(resolved))
    left_out = {"policy.settings": None}  # a setting that was null was not given, and is not written now
    missing = {key: left_out.get(".".join(today(key).split(".")[:2]), "nothing") for key in given}
    assert {key: found.get(today(key), missing[key]) for key in given} == given
    (tmp_path / "resolved.yaml").write_text(resolved, encoding="utf-8")
    assert resolved_config(capfd, str(tmp_path / "resolved.yaml")) == resolved


@pytest.mark.parametrize("name", COLD_STARTS)
def test_each_cold_start_says_what_it_said(name: str) -> None:
    given = leaves(yaml.safe_load((HERE / name).read_text(encoding="utf-8")))
    found = leaves(load_config_model(ColdStartConfig, HERE / name).model_dump(mode="json"))
    assert {key: found.get(today(key), "nothing") for key in given} == given


FLAGS = {
    "train.yaml": {
        **{"executor.pool": "ray", "executor.actors": 6, "executor.timeout_seconds": 8.5},
        **{"executor.encode_batch": 9, "executor.cache_memory_mb": 10.5, "executor.cache_disk_mb": 11.5},
        **{"executor.cache_dir": "there", "executor.cache_dtype": "int8", "executor.queue_depth": 12},
        **{
            "sampler.kind": "vllm",
            "sampler.engines": 13,
            "sampler.timeout_s": 14.5,
            "sampler.batch_size": 15,
        },
        **{"sampler.kv_cache_gib": 16.5, "sampler.max_restarts": 17, "executor.max_restarts": 18},
        **{"policy.think": True, "policy.image.side": 64, "policy.action_space.kind": "any"},
        **{"policy.question": "after", "policy.instructions": "full", "policy.max_new_tokens": 19},
        **{"dataset.samples": 20, "eval.samples": 21, "eval.every_steps": 22, "group.max_resamples": 23},
    },
    "configs/every-key.yaml": {"executor.0.actors": 6, "executor.1.pool": "local", "executor.1.retries": 7},
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_by_their_old_names_win_over_files_with_old_keys(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"--{key}={json.dumps(value)}" for key, value in FLAGS[name].items()]
    found = leaves(yaml.safe_load(resolved_config(capfd, str(HERE / name), *words)))
    assert {key: found.get(today(key), "nothing") for key in FLAGS[name]} == FLAGS[name]
    by_new_names = [f"--{today(key)}={json.dumps(value)}" for key, value in FLAGS[name].items()]
    assert leaves(yaml.safe_load(resolved_config(capfd, str(HERE / name), *by_new_names))) == found


def agrees(found: Any, stored: Any, where: str = "", *, within: float = 1e-4) -> None:
    """Assert that a JSON value holds all that was stored; floats to 1e-4, for other processors."""
    if isinstance(stored, Mapping):
        assert set(found) >= set(stored), where
        for key in stored:
            agrees(found[key], stored[key], f"{where}.{key}", within=within)
    elif isinstance(stored, list):
        assert len(found) == len(stored), where
        for number, (one, other) in enumerate(zip(found, stored, strict=True)):
            agrees(one, other, f"{where}.{number}", within=within)
    elif isinstance(stored, float):
        assert found == pytest.approx(stored, rel=within, abs=within), where
    else:
        assert found == stored, where


def comparable(folder: RunFolder) -> list[dict[str, Any]]:
    """The metrics by their present names, without wall times and without where an embedding came from."""
    records = []
    for line in folder.read_metrics():
        record = {RENAMED_METRICS.get(key, key): value for key, value in line.items()}
        kept = {key: value for key, value in record.items() if key not in ("seconds", "step_time")}
        kept = {key: value for key, value in kept.items() if not key.startswith("train_")}
        # The trainer's log-probabilities less the sampler's are nothing but rounding.
        kept.update({key: round(value, 1) for key, value in kept.items() if key.startswith("sampling/")})
        if "executor" in kept:
            counts = kept["executor"]
            kept["executor"] = {
                "images": counts["encodes"] + counts["cache_hits_memory"] + counts["cache_hits_disk"],
                **{key: counts[key] for key in ("cache_dropped", "decodes", "instances", "failures")},
            }
        records.append(kept)
    return records


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    kept: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "interrupted/config.yaml", "--resume"]) == 0
    capfd.readouterr()
    resumed, whole = RunFolder("interrupted"), RunFolder("finished")
    # The trainer has since learned to rule out tokens that no sampler draws: entropies are a little smaller.
    agrees(comparable(resumed), comparable(whole), within=1e-3)
    assert [step for step, _ in resumed.step_rollouts()] == [1, 2, 3, 4]
    for (_, ours), (_, theirs) in zip(resumed.step_rollouts(), whole.step_rollouts(), strict=True):
        assert list(read_rollouts(ours)) == list(read_rollouts(theirs))
    for name in ("before", "step-000002", "after", "oracle-box"):
        ours, theirs = (run.path / "eval" / name / "rollouts" / "box.jsonl" for run in (resumed, whole))
        assert list(read_rollouts(ours)) == list(read_rollouts(theirs))
    weights = [load_file(run.checkpoints_dir / "final" / "model.safetensors") for run in (resumed, whole)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[1].items():
        np.testing.assert_allclose(weights[0][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    # Embeddings that were kept on disk are found under their old keys.
    served = [line["executor"] for line in resumed.read_metrics("train")[2:]]
    assert sum(one["encodes"] for one in served) == 0 < sum(one["cache_hits_disk"] for one in served)
    assert "held-out gIoU" in resumed.report_path.read_text(encoding="utf-8")


def test_a_finished_evaluation_is_scored_again_and_put_on_the_board(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads(Path("evaluation/results.json").read_text(encoding="utf-8"))
    assert main([*EVALUATE, *PROTOCOLS, "--out", "evaluation"]) == 0  # finished: nothing is left to do
    agrees(json.loads(Path("evaluation/results.json").read_text(encoding="utf-8")), stored)
    Path("evaluation/results.json").unlink()
    assert main(["eval", "--rescore", *PROTOCOLS, "--out", "evaluation"]) == 0
    agrees(json.loads(Path("evaluation/results.json").read_text(encoding="utf-8")), stored)
    assert main(["report", "evaluation", "--out", "board"]) == 0
    rows = [
        [line for line in path.read_text(encoding="utf-8").splitlines() if "**evaluation**" in line]
        for path in (Path("board/leaderboard.md"), Path("leaderboard.md"))
    ]
    assert rows[0] == rows[1] and len(rows[1]) == 16
    capsys.readouterr()


def test_an_unfinished_evaluation_goes_on(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("box", "box-mask_threshold-0.5")
    before = {name: list(read_rollouts(f"evaluation/rollouts/{name}.jsonl")) for name in names}
    answers = list(read_lines("evaluation/completions.jsonl"))
    # As if it had been killed after the second chunk's answers, and before its last segmenter was done.
    Path("evaluation/results.json").unlink()
    for path, lines in (
        ("evaluation/completions.jsonl", 8),
        ("evaluation/rollouts/box.jsonl", 8),
        ("evaluation/rollouts/box-mask_threshold-0.5.jsonl", 4),
    ):
        keep_first_lines(path, lines)
    assert main([*EVALUATE, *PROTOCOLS, "--out", "evaluation"]) == 0
    capsys.readouterr()
    assert list(read_lines("evaluation/completions.jsonl")) == answers
    assert {name: list(read_rollouts(f"evaluation/rollouts/{name}.jsonl")) for name in names} == before


def test_rollouts_are_replayed_to_the_same_figures(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {
        "mask_iou": 1,
        "instance_mask_iou": 0.5,
        "box_iou": 0.25,
        "valid_answer": 0.125,
        "tag_format": 0.0625,
    }
    words = [word for name, weight in weights.items() for word in ("--reward", f"{name}={weight}")]
    assert main(["replay", "rollouts.jsonl", *words, "--output", "scored.jsonl"]) == 0
    assert capsys.readouterr().out.splitlines() == expected("replay rollouts.jsonl")
    assert list(read_rollouts("scored.jsonl")) == list(read_rollouts("rollouts.jsonl"))
    assert main(["replay", "finished", "--reward", "mask_iou=1", "--reward", "valid_answer=0.125"]) == 0
    assert capsys.readouterr().out.splitlines() == expected("replay finished")


@pytest.mark.parametrize(
    "opened, words",
    [
        ("finished/checkpoints/final", ["--policy", "finished/checkpoints/final"]),
        (
            "interrupted/checkpoints/checkpoint-2",
            [
                *("--policy", "policy", "--policy-option", "sampler.dtype=float32"),
                *("--policy-option", "adapter=interrupted/checkpoints/checkpoint-2"),
            ],
        ),
    ],
)
def test_a_trained_policy_answers_as_it_did(
    opened: str, words: list[str], kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = ["--benchmark", "manifest:val", "--dataset-option", "path=data/val.jsonl"]
    options = ["--policy-option", "sampler.kind=hf", "--executor", "box", "--out", "answers"]
    assert main(["eval", *benchmark, *words, *options]) == 0
    capsys.readouterr()
    answers = [line["completion"] for line in read_lines("answers/completions.jsonl")]
    assert answers == expected(opened)["completions"]
    results = json.loads(Path("answers/results.json").read_text(encoding="utf-8"))
    agrees(results["box"]["protocols"]["strict"]["metrics"], expected(opened)["results"])


def test_a_grid_is_taken_up_again(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = json.loads(Path("grid/grid.json").read_text(encoding="utf-8"))
    lost = next(Path("grid").rglob("baseline-no-target/**/box.jsonl"))
    rollouts = list(read_rollouts(lost))
    lost.unlink()
    words = ["--benchmark", "manifest:val", "--dataset-option", "path=data/val.jsonl", "--executor", "box"]
    policies = ["--policy", "baseline:oracle-box", "--policy", "baseline:no-target"]
    assert main(["ablate", *words, *policies, "--limit", "6", "--out", "grid"]) == 0
    capsys.readouterr()
    agrees(json.loads(Path("grid/grid.json").read_text(encoding="utf-8")), stored)
    assert list(read_rollouts(lost)) == rollouts
