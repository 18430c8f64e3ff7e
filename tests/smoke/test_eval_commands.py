"""The commands around the evaluator: evaluate, score again, report, grids; mistakes are one sentence."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from prompter.errors import UserError
from recipes.commands import ablate as ablation
from recipes.commands import compare as compare_command
from recipes.commands import eval as eval_command
from recipes.commands import leaderboard as report_command
from recipes.commands import report as page_command
from tests.fixtures.runs import command, contents

pytestmark = pytest.mark.smoke

BENCHMARK = "synthetic-aerial:test"


def test_evaluate_rescore_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ("--benchmark", BENCHMARK, "--executor", "box", "--limit", 24, "--chunk", 8)
    policy = ("--policy", "baseline:oracle-box-point", "--protocol", "strict,think2seg", "--out", out)
    assert command(eval_command, *words, *policy) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[0] == BENCHMARK and printed[-1] == str(out / "report.html")
    first = json.loads((out / "results.json").read_text())
    strict = first["box"]["protocols"]["strict"]["metrics"]
    assert strict["N-acc"]["value"] in (None, 1.0) and strict["T-acc"]["value"] == 1.0
    assert strict["parse-failures"]["value"] == 0.0 and strict["gIoU"]["value"] > 0.4

    assert command(eval_command, "--rescore", "--protocol", "strict,think2seg", "--out", out) == 0
    assert json.loads((out / "results.json").read_text()) == first
    before = contents(out)
    assert command(eval_command, *words, *policy) == 0  # nothing is left to do
    assert contents(out) == before
    assert command(report_command, out, "--out", tmp_path / "board") == 0
    assert "baseline:oracle-box-point + box" in (tmp_path / "board" / "leaderboard.md").read_text()

    assert "INCOMPLETE" not in capsys.readouterr().out
    rollouts = out / "rollouts" / "box.jsonl"  # as one that was killed after its second chunk
    rollouts.write_bytes(b"".join(rollouts.read_bytes().splitlines(keepends=True)[:16]))
    assert command(eval_command, "--rescore", "--out", out) == 0
    assert "INCOMPLETE: 16 of 24 questions are answered" in capsys.readouterr().out
    assert command(page_command, out) == 0
    assert "INCOMPLETE: 16 of 24 questions are answered" in (out / "report.html").read_text()
    assert command(eval_command, *words, *policy) == 0
    assert "INCOMPLETE" not in capsys.readouterr().out and contents(out) == before


def test_runs_are_compared_and_the_gain_is_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("centre-point", "oracle-box", "no-target"):
        words = ("--benchmark", BENCHMARK, "--executor", "box", "--limit", 24, "--out", tmp_path / name)
        against = ("--against", tmp_path / "centre-point") if name == "no-target" else ()
        assert command(eval_command, *words, "--policy", f"baseline:{name}", *against) == 0
    assert (
        f"{tmp_path / 'centre-point'} -> {tmp_path / 'no-target'}, box: 24 queries" in capsys.readouterr().out
    )
    page = (tmp_path / "no-target" / "report.html").read_text(encoding="utf-8")
    assert "Where the gain comes from" in page and "Drawn by lot" in page
    stored = tmp_path / "comparison.json"
    runs = [tmp_path / name for name in ("centre-point", "oracle-box", "no-target")]
    assert command(compare_command, *runs, "--json", stored) == 0
    printed = capsys.readouterr().out
    better, refused = json.loads(stored.read_text(), parse_float=Decimal)["comparisons"]
    assert f"{runs[0]} -> {runs[1]}, box: 24 queries" in printed and f"-> {runs[2]}" in printed
    for found in (better, refused):
        parts = {name: part["value"] for name, part in found["gain"]["parts"].items()}
        assert sum(parts.values()) == found["gain"]["difference"] and parts["form"] == 0
        assert float(found["gain"]["difference"]) == pytest.approx(
            float(found["metrics"]["gIoU"]["difference"])
        )
    parts = better["gain"]["parts"]
    assert parts["localisation"]["value"] > 0 and parts["refusal"]["worse"] == 0
    assert refused["gain"]["parts"]["refusal"]["queries"] == 24, "who declines everything localises nothing"

    # The two as seeds of one recipe: the mean of their differences, part by part.
    assert command(compare_command, *runs, "--pool", "--json", stored) == 0
    assert f"2 seeds pooled, box: gIoU {100 * float(better['metrics']['gIoU']['before']):.2f} ->" in (
        capsys.readouterr().out
    )
    (pooled,) = json.loads(stored.read_text())["pooled"]
    for part in ("form", "refusal", "count", "localisation"):
        each = [float(found["gain"]["parts"][part]["value"]) for found in (better, refused)]
        assert pooled["parts"][part]["by_seed"] == pytest.approx(each)
        assert pooled["parts"][part]["difference"] == pytest.approx(sum(each) / 2)
    low, high = pooled["from_start"]["over_seeds"]
    assert low < pooled["from_start"]["difference"] < high
    assert [Path(pair["after"]).parents[1] for pair in pooled["runs"]] == runs[1:]

    assert command(compare_command, *runs[:2], "--tiles", "tag:category") == 0
    assert "drawing tiles" in capsys.readouterr().out
    for words, message in (
        ([runs[0]], "is compared with another"),
        ([tmp_path / "nowhere"], "no run folder"),
        ([*runs[:2], "--tiles", "tag:city"], "has no tag 'city'"),
        ([*runs[:2], "--pool"], "needs two seeds or more, and there is 1 of segmenter box"),
    ):
        with pytest.raises(UserError, match=message):
            command(compare_command, *words)


def test_a_training_run_of_an_earlier_version_is_compared_with_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(__file__).parents[1] / "golden" / "before_move" / "finished"
    assert command(compare_command, run, "--json", tmp_path / "c.json") == 0
    assert "before -> after, box: " in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "c.json").read_text(), parse_float=Decimal)["comparisons"]
    parts = found["gain"]["parts"].values()
    assert sum(part["value"] for part in parts) == found["gain"]["difference"]
    assert sum(part["queries"] for part in parts) == found["gain"]["queries"] == found["queries"]
    # Its evaluations are runs of their own, too.
    assert command(compare_command, run / "eval" / "before", run / "eval" / "oracle-box") == 0
    assert "oracle-box, box" in capsys.readouterr().out
    # Of several training runs each one's gain is pooled, and not what sets later ones apart from the first.
    again = shutil.copytree(run, tmp_path / "again")
    assert command(compare_command, run, again, "--pool", "--json", tmp_path / "p.json") == 0
    (pooled,) = json.loads((tmp_path / "p.json").read_text())["pooled"]
    assert pooled["from_start"]["by_seed"] == pytest.approx([float(found["gain"]["difference"])] * 2)
    with pytest.raises(UserError, match="holds no eval/after"):
        command(compare_command, run.parent / "interrupted")


def test_several_benchmarks_get_a_folder_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    for split in ("test", "val"):
        assert (
            command(
                eval_command,
                *("--benchmark", "synthetic-aerial:test", "--benchmark", "synthetic-aerial:val"),
                *("--policy", "baseline:centre-point", "--executor", "box", "--limit", 8, "--out", out),
            )
            == 0
        )
        assert (out / f"synthetic-aerial-{split}" / "report.html").exists()
    assert command(eval_command, "--rescore", "--out", out) == 0
    assert "synthetic-aerial-val" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--benchmark", "synthetic-aerial:tset"], "Did you mean 'test'"),
        (["--benchmark", "synthetic-arial:test"], "Did you mean 'synthetic-aerial'"),
        (["--benchmark", "synthetic-aerial"], "Give the split"),
        (["--executor", "bix"], "Did you mean 'box'"),
        (["--executor", "box,devise=cpu"], "Did you mean 'device'"),
        (["--policy", "baseline:centre"], "centre-point"),
        (["--policy-option", "frame"], "written KEY=VALUE"),
        (["--dataset-option", "sede=3"], "no option 'sede'"),
        (["--protocol", "strickt"], "Did you mean 'strict'"),
        (["--limit", "0"], "nothing to evaluate"),
        (["--chunk", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path: Path, words: list[str], message: str) -> None:
    given = {"--benchmark": BENCHMARK, "--executor": "box", "--policy": "baseline:no-target"}
    given.update(dict(zip(words[::2], words[1::2], strict=True)))
    flat = [word for pair in given.items() for word in pair]
    with pytest.raises(UserError, match=message) as caught:
        command(eval_command, *flat, "--out", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_grid_is_resumable_and_pairs_its_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        *(
            "--benchmark",
            BENCHMARK,
            "--policy",
            "baseline:oracle-box",
            "--policy",
            "baseline:no-target",
        ),
        *("--executor", "box", "--limit", 24, "--out", tmp_path / "grid"),
    )
    assert command(ablation, *words) == 0
    cells = json.loads((tmp_path / "grid" / "grid.json").read_text())
    assert [cell["policy"] for cell in cells] == ["baseline:oracle-box", "baseline:no-target"]
    assert cells[0]["difference"] is None
    assert cells[1]["difference"] == pytest.approx(cells[1]["value"] - cells[0]["value"])
    low, high = cells[1]["difference_interval"]
    assert low <= cells[1]["difference"] <= high < 0
    before = contents(tmp_path / "grid")
    next((tmp_path / "grid").rglob("box.jsonl")).unlink()
    assert command(ablation, *words) == 0
    assert contents(tmp_path / "grid") == before
    with pytest.raises(UserError, match="Did you mean 'gIoU'"):
        command(ablation, *words, "--metric", "gIou")
