"""`prompter probe` by the real command: the small policy in both frames, endpoints in two dialects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prompter.checkpoint import SHIPPED
from prompter.families import POLICY_FAMILIES
from recipes.cli import main
from tests.fixtures.absolute_policy import save_absolute_policy
from tests.fixtures.endpoint import serving, square_finder

pytestmark = pytest.mark.smoke

HF = ("--policy-option", "sampler.backend=hf")


def probe(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["probe", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)["result"]


@pytest.mark.parametrize("frame", ["thousandths", "absolute"])
def test_the_small_policy_in_both_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], frame: str
) -> None:
    source = (
        "shipped:small-policy"
        if frame == "thousandths"
        else str(save_absolute_policy(tmp_path / "policy").source)
    )
    kept = tmp_path / "report.json"
    code, report = probe(capsys, source, *HF, "--out", str(kept))
    assert (report["frame"], report["dialect"], code) == (frame, "prompter", 0)
    assert json.loads(kept.read_text()) == report and len(report["answers"]) <= 12
    other = {"thousandths": "absolute", "absolute": "thousandths"}[frame]
    code, report = probe(capsys, source, *HF, "--policy-option", f"frame={other}")
    assert (report["frame"], code) == (frame, 1)
    assert f"frame={frame}" in report["contradictions"][0]


def test_a_family_that_nobody_knows_is_probed_before_its_frame_is_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(POLICY_FAMILIES, "qwen3_vl")
    folder = tmp_path / "unstated"
    shutil.copytree(SHIPPED / "small-policy", folder)
    settings = json.loads((folder / "prompter.json").read_text())
    del settings["frame"]
    (folder / "prompter.json").write_text(json.dumps(settings))
    source = str(folder)
    assert (
        main(
            [
                "eval",
                "--benchmark",
                "synthetic-aerial:test",
                "--policy",
                source,
                *HF,
                "--executor",
                "box",
                "--limit",
                "8",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 2
    )
    assert "`prompter probe` finds out which" in capsys.readouterr().err
    _, report = probe(capsys, source, *HF)
    assert report["frame"] == "thousandths"


@pytest.mark.parametrize("dialect", ["visionreasoner", "box-tokens"])
@pytest.mark.parametrize("frame", ["absolute", "thousandths"])
def test_endpoints_in_two_dialects_and_two_frames(
    capsys: pytest.CaptureFixture[str], dialect: str, frame: str
) -> None:
    with serving(square_finder(dialect, frame)) as server:
        address = f"openai:{server.url}#scripted"
        _, report = probe(capsys, address)
        assert (report["frame"], report["dialect"]) == (frame, dialect)
        assert len(server.seen) == 6
        options = ("--policy-option", f"reads={dialect}", "--policy-option", f"frame={frame}")
        code, report = probe(capsys, address, *options)
        assert (report["frame"], report["dialect"], code) == (frame, dialect, 0)


def test_eval_probes_what_nobody_stated_once_and_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--benchmark", "synthetic-aerial:test", "--executor", "box", "--limit", "2"]
    with serving(square_finder("box-tokens", "thousandths")) as server:
        words += ["--policy", f"openai:{server.url}#scripted"]
        out = tmp_path / "unknown"
        assert main([*words, "--out", str(out)]) == 0
        said = capsys.readouterr().err
        assert said.count("fit the frame thousandths") == 1 and said.count("reads=box-tokens") == 1
        found = json.loads((out / "probe.json").read_text())
        assert (found["frame"], found["dialect"], found["set"]["frame"]) == (
            "thousandths",
            "box-tokens",
            "absolute",
        )
        assert len(server.seen) == 6 + 2
        assert "The probe found frame: thousandths" in (out / "report.html").read_text()
        assert main([*words, "--out", str(out)]) == 0  # done already: nothing is asked again
        assert len(server.seen) == 8 and "frame" not in capsys.readouterr().err
        assert main([*words, "--no-probe", "--out", str(tmp_path / "skipped")]) == 0
        assert len(server.seen) == 10 and not (tmp_path / "skipped" / "probe.json").exists()
        stated = ["--policy-option", "reads=box-tokens", "--policy-option", "frame=thousandths"]
        assert main([*words, *stated, "--out", str(tmp_path / "stated")]) == 0
        assert len(server.seen) == 12 and not (tmp_path / "stated" / "probe.json").exists()
