"""`prompter eval --samples K` as users run it: killed, resumed, combined and calibrated again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from envs.datasets import open_dataset
from eval.answerers.base import LookSettings
from eval.answerers.checkpoint import SamplerAnswerer
from eval.looks.records import read_looks
from prompter.errors import UserError
from prompter.sampling.base import SamplingSettings
from recipes.commands import eval as eval_command
from recipes.commands import leaderboard as leaderboard_command
from recipes.commands import predictions as predictions_command
from recipes.commands import report as report_command
from rewards.replay import read_rollouts
from tests.fixtures.runs import command, contents
from tests.fixtures.tiny_policy import save_tiny_policy

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).parents[2]
POLICY = "tests.fixtures.looks:unsteady"
FOUR = ("--benchmark", "synthetic-aerial:test", "--executor", "box", "--limit", 4)


def words(split: str, out: Path, *, policy: str = POLICY, samples: int = 4) -> tuple[object, ...]:
    return (
        *("--benchmark", f"synthetic-aerial:{split}", "--policy", policy, "--executor", "box"),
        *("--limit", 24, "--chunk", 8, "--samples", samples, "--out", out),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("looks") / "run"
    assert command(eval_command, *words("test", out)) == 0
    return out


def kept(folder: Path) -> dict[str, bytes]:
    """What must be the same every time: all but wall times, and what shows them."""
    timed = ("seconds.jsonl", "results.json", "report.html")
    return {name: data for name, data in contents(folder).items() if name not in timed}


def test_every_question_gets_one_answer_from_its_looks(run: Path) -> None:
    looks = list(read_looks(run / "looks" / "box.jsonl"))
    answers = list(read_rollouts(run / "rollouts" / "box.jsonl"))
    assert [len(one) for one in looks] == [5] * 24
    for own, answer in zip(looks, answers, strict=True):
        sampled = {one.completion for one in own[1:]}
        assert answer.sample_id == own[0].sample_id and answer.completion in sampled
        assert (answer.confidence["share"] is not None and answer.stability == ()) or answer.stability
    found = json.loads((run / "results.json").read_text())["box"]["looks"]
    assert found["rule"] == "consensus" and found["samples"] == 4
    assert found["curve"]["samples"] == [1, 2, 4]
    assert found["seconds"]["queries"] == 24 and found["seconds"]["looks"][2] > found["seconds"]["looks"][0]
    strict = json.loads((run / "results.json").read_text())["box"]["protocols"]["strict"]["metrics"]
    assert found["curve"]["rules"]["consensus"]["gIoU"][2]["value"] == pytest.approx(strict["gIoU"]["value"])


def test_killed_and_run_again_is_the_same(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words_killed = [str(word) for word in words("test", out, policy=f"{POLICY}:2")]
    words_killed[words_killed.index("--limit") + 1] = "24"
    process = subprocess.run(
        [sys.executable, "-m", "recipes.cli", "eval", *words_killed],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert process.returncode == -9
    looks = out / "looks" / "box.jsonl"
    assert len(list(read_looks(looks))) == 16 and not (out / "rollouts" / "box.jsonl").exists()
    looks.write_bytes(looks.read_bytes()[:-7])  # and a last line that was not finished
    config = out / "config.yaml"  # the policy's name says when it is to be killed: that is all that differs
    config.write_text(config.read_text().replace(f"{POLICY}:2", POLICY))
    assert command(eval_command, *words("test", out)) == 0
    assert kept(out) == kept(run)


def test_combined_again_by_another_rule_without_a_policy(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert command(eval_command, "--rescore", "--out", run, "--combine", "greedy") == 0
    looks = list(read_looks(run / "looks" / "box.jsonl"))
    answers = list(read_rollouts(run / "rollouts" / "box.jsonl"))
    assert [one.completion for one in answers] == [own[0].completion for own in looks]
    assert command(eval_command, "--rescore", "--out", run, "--combine", "best", "--samples", 2) == 0
    assert "answers combined by best (it looks at the TRUTH: an upper bound" in capsys.readouterr().out
    with pytest.raises(UserError, match="a bound, no result"):
        command(leaderboard_command, run, "--out", tmp_path / "board")
    with pytest.raises(UserError, match="looks at the target; there is nothing to calibrate"):
        command(eval_command, "--rescore", "--out", run, "--fit-calibration", tmp_path / "best.json")
    assert command(eval_command, "--rescore", "--out", run, "--combine", "vote", "--samples", 4) == 0
    assert command(predictions_command, run, "--out", tmp_path / "preds.json") == 0
    assert command(leaderboard_command, run, "--out", tmp_path / "board") == 0
    assert "+ box, vote of 4" in (tmp_path / "board" / "leaderboard.md").read_text()
    with pytest.raises(UserError, match="holds 4 samples per question, not 5"):
        command(eval_command, "--rescore", "--out", run, "--samples", 5)
    assert command(eval_command, "--rescore", "--out", run, "--combine", "consensus", "--samples", 4) == 0
    assert {name: data for name, data in contents(run).items() if name != "report.html"} == {
        name: data for name, data in before.items() if name != "report.html"
    }


def test_calibrated_on_one_split_and_used_on_another(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val, fitted = tmp_path / "val", tmp_path / "calibration.json"
    assert command(eval_command, *words("val", val), "--fit-calibration", fitted) == 0
    again = ("--rescore", "--out", run, "--calibration", fitted)
    assert command(eval_command, *again, "--max-risk", 0.6) == 0
    printed = capsys.readouterr().out
    assert "calibration error, calibrated" in printed and "for a risk (1 - IoU) of 0.6" in printed
    found = json.loads((run / "results.json").read_text())["box"]["looks"]["confidence"]
    assert found["error"]["calibrated"]["iou"] is not None and found["abstention"]["max_risk"] == 0.6
    for answer in read_rollouts(run / "rollouts" / "box.jsonl"):
        assert 0 <= answer.confidence["iou"] <= 1 and 0 <= answer.confidence["hit"] <= 1  # type: ignore[operator]
    assert command(report_command, run) == 0
    page = (run / "report.html").read_text()
    assert "Risk against coverage" in page and "gIoU against looks" in page
    with pytest.raises(UserError, match="was fitted with rule = 'consensus', not 'medoid'"):
        command(eval_command, *again, "--combine", "medoid")
    assert command(eval_command, "--rescore", "--out", val, "--calibration", fitted) == 0
    assert "was fitted on synthetic-aerial:val itself" in capsys.readouterr().err
    new = (*words("test", tmp_path / "new"), "--executor", "mobile-sam")
    with pytest.raises(UserError, match="is for box, not for mobile-sam"):
        command(eval_command, *new, "--calibration", fitted)
    with pytest.raises(UserError, match="with samples = 4, not 3"):
        command(eval_command, *words("test", tmp_path / "new", samples=3), "--calibration", fitted)
    with pytest.raises(UserError, match=r"gone\.json cannot be read"):
        command(eval_command, *words("test", tmp_path / "new"), "--calibration", tmp_path / "gone.json")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "given, message",
    [
        (("--policy", "baseline:centre-point", "--samples", 2), "needs a policy that samples"),
        (("--policy", POLICY, "--samples", 0), "--samples must be at least 1|At least one sample"),
        (("--policy", POLICY, "--samples", 2, "--temperature", 0), "must be above 0 to draw samples"),
        (("--policy", POLICY, "--samples", 2, "--shift", 0.6), "--shift must be between 0 and 0.5"),
        (("--policy", POLICY, "--shift", 0.1), "--shift is about several looks"),
        (("--policy", POLICY, "--samples", 2, "--combine", "medoids"), "Did you mean 'medoid'"),
        (("--policy", POLICY, "--combine", "medoid"), "--combine is about several looks"),
        (("--policy", POLICY, "--samples", 2, "--max-risk", 0.2), "give --calibration FILE"),
        (("--policy", POLICY, "--samples", 2, "--invariance"), "leave out --samples"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, given: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command(eval_command, *FOUR, "--out", tmp_path / "run", *given)


def test_a_plain_run_has_nothing_to_combine(tmp_path: Path) -> None:
    assert command(eval_command, *FOUR, "--out", tmp_path / "run", "--policy", "baseline:centre-point") == 0
    with pytest.raises(UserError, match="holds one answer per question, so --combine has nothing to act on"):
        command(eval_command, "--rescore", "--out", tmp_path / "run", "--combine", "medoid")


def test_looks_at_moved_images_are_told_and_are_the_same_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_policy(tmp_path / "tiny")
    given = (*FOUR, "--policy", tmp_path / "tiny", "--policy-option", "sampler.backend=hf", "--no-probe")
    for name in ("first", "second"):
        moved = ("--samples", 3, "--shift", 0.1, "--out", tmp_path / name)
        assert command(eval_command, *given, *moved) == 0
        assert "temperature 0, top-p 1, seed 0, images moved by up to 10 % of" in capsys.readouterr().out
    first, second = (
        list(read_looks(tmp_path / name / "looks" / "box.jsonl")) for name in ("first", "second")
    )
    assert [len(one) for one in first] == [4] * 4
    assert [[one.offset_xy is None for one in own] for own in first] == [[True, False, False, False]] * 4
    again = ("--rescore", "--out", tmp_path / "first", "--samples", 1, "--combine", "medoid")
    with pytest.raises(UserError, match=r"the text of sample .* is about a moved image"):
        command(eval_command, *again, "--protocol", "strict,lmms-eval-refcoco")
    assert [[one.to_json() for one in own] for own in first] == [
        [one.to_json() for one in own] for own in second
    ]


def test_a_questions_samples_depend_on_its_name_alone(tmp_path: Path) -> None:
    from prompter.sampling.huggingface import HuggingFaceSampler

    policy = save_tiny_policy(tmp_path / "tiny")
    greedy = SamplingSettings(max_new_tokens=12, temperature=0.0)
    answerer = SamplerAnswerer(policy, HuggingFaceSampler.from_policy(policy), greedy)
    source = open_dataset("synthetic-aerial", "test")
    samples, settings = [source[0], source[1], source[8]], LookSettings(3, temperature=1.0)

    def texts(chosen: list, how: LookSettings) -> list[list[str]]:
        return [[one.text for one in answers] for answers in answerer.look(chosen, how).answers]

    together = texts(samples, settings)
    assert texts(samples[2:], settings) == together[2:]
    assert texts(samples[1:], replace(settings, samples=1)) == [one[:2] for one in together[1:]]
    assert texts(samples, replace(settings, seed=1)) != together
    assert len({text for answers in together for text in answers[1:]}) == 9
    assert [one[0] for one in together] == [one.text for one in answerer.answer(samples)]
