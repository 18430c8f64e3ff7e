"""An audit by its commands: evaluate, audit, decide, apply, and evaluate on the repaired split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envs.datasets.registry import open_dataset
from eval.audit.queue import read_queue
from eval.results import read_results
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.commands import audit
from recipes.commands import eval as evaluation
from tests.fixtures.runs import command

pytestmark = pytest.mark.smoke

POLICY = "tests.fixtures.noisy_policy:build:hit={},seed={}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two good policies and the truth itself, asked 24 questions."""
    folder = tmp_path_factory.mktemp("runs")
    policies = {"a": POLICY.format(0.9, 1), "b": POLICY.format(0.9, 2), "truth": "baseline:oracle-box"}
    for name, policy in policies.items():
        words = ("--benchmark", "synthetic-aerial:test", "--policy", policy, "--executor", "box")
        assert command(evaluation, *words, "--dataset-option", "scenes=4", "--out", folder / name) == 0
    return [folder / name for name in policies]


def test_audit_apply_and_evaluate_again(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit"
    assert command(audit, *runs, "--executor", "box", "--page", 6, "--out", out) == 0
    printed = capsys.readouterr().out
    assert printed.strip().splitlines()[-1] == str(out / "audit.html")
    queue = read_queue(out)
    assert len(queue.entries) == 24 and queue.facts["executor"] == "box"
    assert [entry.rank for entry in queue.entries] == list(range(1, 25))
    assert all(
        one.suspicion >= other.suspicion for one, other in zip(queue.entries, queue.entries[1:], strict=False)
    )
    data = (out / "audit.html").read_text().split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["audit"] == queue.key

    changed = next(entry for entry in queue.entries if entry.consensus_iou not in (None, 1.0))
    dropped = next(entry for entry in queue.entries if entry is not changed)
    decisions = tmp_path / "decisions.json"
    verdicts = {changed.sample_id: "consensus", dropped.sample_id: "drop"}
    decided = [{"sample_id": name, "verdict": verdict} for name, verdict in verdicts.items()]
    decisions.write_text(json.dumps({"audit": queue.key, "decisions": decided}))
    assert command(audit, "--apply", decisions, "--out", out) == 0
    printed = capsys.readouterr().out
    manifest = out / "repaired" / "manifest.jsonl"
    assert printed.strip().splitlines()[-1] == str(manifest) and "without own votes" in printed
    scores = json.loads((out / "scores.json").read_text())
    assert scores["decisions"] == {"drop": 1, "consensus": 1, "not-reviewed": 22}
    assert len(list(read_lines(manifest))) == 23

    # The stored rollouts and the repaired split tell the same scores.
    samples = open_dataset("manifest", "test", path=manifest)
    originals = open_dataset("synthetic-aerial", "test", scenes=4)
    kept = {sample.sample_id: sample for sample in originals}[samples[0].sample_id]
    assert (samples[0].image_array() == kept.image_array()).all()
    words = ("--benchmark", "manifest:test", "--dataset-option", f"path={manifest}", "--executor", "box")
    again = tmp_path / "again"
    assert command(evaluation, *words, "--policy", POLICY.format(0.9, 1), "--out", again) == 0
    metric = read_results(RunFolder.open(again))["box"]["protocols"]["strict"]["metrics"]["gIoU"]["value"]
    assert metric == pytest.approx(scores["predictors"]["a/box"]["metrics"]["gIoU"]["after"])


def test_what_an_audit_is_worth_is_measured(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--plant", 0.1, "--rounds", 3, "--out", tmp_path / "planted")
    assert command(audit, *runs, *words) == 0
    assert "24 queries, 3 rounds of 10 %" in capsys.readouterr().out
    found = json.loads((tmp_path / "planted" / "planted.json").read_text())
    assert sum(one["planted"] for one in found["kinds"].values()) == 6
    assert found["found"] == found["orders"]["both"] >= 0.5


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "Name the runs to compare"),
        (["run"], "Give --out"),
        (["run", "--out", "x", "--page", "0"], "at least 1"),
        (["run", "--plant", "0.9"], "up to 0.5"),
        (["run", "--order", "segmenter", "--out", "x"], "give --executor"),
        (["--apply", "decisions.json"], "Give --out"),
        (["run", "--apply", "decisions.json", "--out", "x"], "give neither runs nor --plant"),
        (["--apply", "decisions.json", "--out", "nowhere"], "holds no audit.json"),
        (["nowhere", "--out", "x"], "There is no run folder"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command(audit, *words)
