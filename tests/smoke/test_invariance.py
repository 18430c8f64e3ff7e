"""`prompter eval --invariance`: nothing moves on a CPU in float32, and what does move is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.commands import eval as eval_command
from tests.fixtures.runs import command, contents

pytestmark = pytest.mark.smoke

WORDS = ("--invariance", "--benchmark", "synthetic-aerial:test", "--executor", "box")


def test_the_shipped_policy_does_not_move(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = (*WORDS, "--policy", "shipped:small-policy", "--policy-option", "sampler.backend=hf")
    assert command(eval_command, *words, "--limit", 12, "--out", out) == 0
    assert "nothing moves" in capsys.readouterr().out
    found = json.loads((out / "invariance.json").read_text())
    assert (found["samples"], len(found["settings"]), len(found["pairs"])) == (12, 4, 6)
    assert "nothing moves" in (out / "invariance.txt").read_text()
    before = contents(out)
    assert command(eval_command, *words, "--limit", 12, "--out", out) == 0  # nothing is left to do
    assert contents(out) == before
    assert command(eval_command, "--rescore", "--out", out) == 0  # each setting is an evaluation
    assert (out / "hf-batch-8" / "results.json").exists()


def test_a_policy_that_looks_at_its_batch_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "moving.py").write_text(
        "from prompter.types import Answer, Instance, PromptSet\n"
        "class Moving:\n"
        "    def answer(self, samples):\n"
        "        box = (0.0, 0.0, 10.0, 10.0 + len(samples))\n"
        "        return [Answer(str(box), PromptSet((Instance(box=box),)), 0) for _ in samples]\n"
        "    def close(self): pass\n"
        "def build(rest, options): return Moving()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "out"
    assert command(eval_command, *WORDS, "--policy", "moving:build", "--limit", 9, "--out", out) == 1
    assert "something moves; alike in every sample are:" in capsys.readouterr().out
    found = json.loads((out / "invariance.json").read_text())
    counts = {tuple(pair["settings"]): pair["answers"] for pair in found["pairs"]}
    assert counts["batch 1", "batch 8"] == 8  # the ninth is alone in its batch under either
    assert counts["batch 8", "batch 32"] == 9
    assert counts["batch 32", "batch 32, shuffled"] == 0
