"""Every dataset layout through `prompter eval`: finished, re-scored, resumed, under every protocol."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from envs.datasets import open_dataset
from eval import eval_command
from eval.protocols import PROTOCOLS
from rewards.replay import read_rollouts
from tests.fixtures.layouts import FIXTURES

pytestmark = pytest.mark.smoke


def command(*words: object) -> None:
    parser = argparse.ArgumentParser()
    eval_command.add_arguments(parser)
    assert eval_command.run(parser.parse_args([str(word) for word in words])) == 0


@pytest.mark.parametrize("key", sorted(FIXTURES))
def test_layout(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    fixture = FIXTURES[key]
    options = fixture.build(tmp_path / "data")
    expected = [sample.sample_id for sample in open_dataset(fixture.name, fixture.split, **options)]
    assert len(expected) >= 20
    out = tmp_path / "run"
    words: list[object] = ["--benchmark", f"{fixture.name}:{fixture.split}", "--chunk", 8, "--out", out]
    words += ["--policy", "baseline:oracle-box-point", "--executor", "box", "--protocol", ",".join(PROTOCOLS)]
    for name, value in options.items():
        words += ["--dataset-option", f"{name}={value}"]
    command(*words)
    rollouts = list(read_rollouts(out / "rollouts" / "box.jsonl"))
    assert [rollout.sample_id for rollout in rollouts] == expected

    results = json.loads((out / "results.json").read_text())["box"]
    assert results["queries"] == len(expected) and results["executor_failures"] == 0
    strict = {name: metric["value"] for name, metric in results["protocols"]["strict"]["metrics"].items()}
    assert strict["parse-failures"] == 0.0
    assert strict["T-acc"] == 1.0 and strict["N-acc"] in (None, 1.0)
    has_masks = any(rollout.target is not None for rollout in rollouts)
    if has_masks:
        assert strict["gIoU"] > 0.3  # boxes filled: far from perfect, far from nothing
    else:
        flat = sum(rollout.tags.get("box") == "degenerate" for rollout in rollouts)  # no area, never found
        assert strict["gIoU"] is None and strict["box-acc@0.5"] == pytest.approx(1 - flat / len(rollouts))

    command("--rescore", "--protocol", ",".join(PROTOCOLS), "--out", out)
    assert json.loads((out / "results.json").read_text())["box"] == results
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for path in (out / "completions.jsonl", out / "rollouts" / "box.jsonl"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    command(*words)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
