"""`prompter bench scale`: latencies are read or drawn, the pool runs for real, the figures add up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prompter.checkpoint import load_policy
from prompter.errors import UserError
from recipes.benchmarks.scale import PARTS, bench_scale, drawn_latencies, read_latencies, scale_text
from recipes.benchmarks.scale_load import Load
from recipes.cli import main

LOAD = Load(group=4, shares=3, tokens=20, side=64, sequences=8)


def test_the_driver_is_measured_on_the_pool_itself_and_engines_wait_for_it_alone() -> None:
    result = bench_scale(load_policy("shipped:small-policy"), [2.0, 4.0], LOAD, (1, 3))
    assert [row["completions"] for row in result["rows"]] == [24, 72]
    for row in result["rows"]:
        assert row["driver_ms"] == pytest.approx(sum(row[f"{part}_ms"] for part in PARTS))
        assert all(row[f"{part}_ms"] > 0 for part in PARTS)
        # 3 shares an engine of 2 or 4 s each: what a driver that costs nothing takes, and then this one.
        assert 6.0 <= row["seconds_without_driver"] <= 12.0 and row["seconds_without_driver"] % 2.0 == 0.0
        busy = row["driver_ms"] * row["completions"] / 1000
        late = row["seconds"] - row["seconds_without_driver"]
        assert -1e-6 < late < busy + 6.0, "its work, and a share that was given to another engine for it"
    per_second = 1000 / result["rows"][-1]["driver_ms"]
    assert result["keeps_up_with"] == pytest.approx(per_second * 3.0 / 8)
    text = scale_text(json.loads(json.dumps(result)))
    assert f"one driver saturates at about {result['keeps_up_with']:.0f} such engines" in text
    assert "ms a completion at " in text


def test_latencies_are_read_from_a_run_or_a_list(tmp_path: Path) -> None:
    run = tmp_path / "metrics.jsonl"
    records = [{"kind": "train", "step": 1, "sampler": {"share_seconds": [1.5, 2.0]}}, {"kind": "summary"}]
    run.write_text("\n".join(map(json.dumps, [*records, {"sampler": {"share_seconds": [3]}}])) + "\n")
    assert read_latencies(run) == [1.5, 2.0, 3.0]
    plain = tmp_path / "seconds.txt"
    plain.write_text("1\n\n2.5\n")
    assert read_latencies(plain) == [1.0, 2.5]
    drawn = drawn_latencies(4.0, 0.5, seed=3)
    assert np.median(drawn) == pytest.approx(4.0, rel=0.1)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\nsoon\n", "line 2: expected seconds"),
        ("1\n-2\n", "line 2: seconds must be more than 0"),
        ("NaN\n", "line 1: seconds must be more than 0"),
        ('{"sampler": {"share_seconds": ["x"]}}\n', "line 1: expected seconds"),
        ('{"sampler": 3}\n', "line 1: expected seconds"),
        ('{"step": 1}\n', "holds no seconds: a run writes them"),
        ("", "holds no seconds"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "latencies"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_latencies(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engines", "1,many"], "--engines takes whole numbers from 1 on, as in 1,8,64, but is '1,many'"),
        (["--engines", "0"], "--engines takes whole numbers from 1 on"),
        (["--group", "0"], "--group must be more than 0, but is 0"),
        (["--seconds", "nan"], "--seconds must be more than 0, but is nan"),
        (["--spread", "-1"], "--spread must be at least 0"),
        (["--ray", "-1"], "--ray must be at least 0"),
        (["--latencies", "nowhere.jsonl"], "--latencies nowhere.jsonl cannot be read"),
    ],
)
def test_bad_flags_are_sentences(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scale", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_a_row_per_number_of_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--engines", "1,2", "--side", "64", "--tokens", "5", "--json", str(tmp_path / "scale.json")]
    assert main(["bench", "scale", *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines if line[:1] in (["1"], ["2"])] == [["1", "256"], ["2", "512"]]
    assert len(json.loads((tmp_path / "scale.json").read_text())["rows"]) == 2
