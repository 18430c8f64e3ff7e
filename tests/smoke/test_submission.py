"""Predictions of a run, exported and scored as anybody's, give the run's numbers; so does lmms-eval."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from envs.datasets import open_dataset
from envs.executors import open_executor
from envs.executors.base import ExecutorFailure, Segmentation, SegmentRequest
from envs.executors.config import ExecutorConfig
from envs.oracle import oracle_prompts, target_masks
from envs.sample import Sample
from eval.protocols import PROTOCOLS
from eval.results import read_results, rescore
from eval.runner import evaluate
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.types import Answer, FailureKind, Instance, ParseFailure, PromptSet
from recipes.commands import eval as eval_command
from recipes.commands import leaderboard, lmms_task, report
from recipes.commands import predictions as predictions_command
from recipes.commands import score as score_command
from tests.fixtures.runs import command

pytestmark = pytest.mark.smoke

BENCHMARK = "synthetic-aerial:test"
ANSWERS = 30
SCENES = 6
"""Scenes of the benchmark: enough for these answers; all of them are drawn to learn the ids."""

BENCHMARK_WORDS = ("--benchmark", BENCHMARK, "--dataset-option", f"scenes={SCENES}")


class Scripted:
    """Answers in every way there is, by the number of the question."""

    def __init__(self) -> None:
        self._number = 0

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> Answer:
        self._number += 1
        true = oracle_prompts(target_masks(sample), box=True, points=1)
        if self._number % 6 == 0:
            return Answer("hm", ParseFailure(FailureKind.NOT_JSON, "it is not JSON", "hm"), 5)
        if self._number % 6 == 1:
            return Answer("[]", PromptSet(), 2)
        corner = Instance(box=(10.3, 20.7, 90.1, 77.7))
        extra = (corner, Instance(positive_points=((5.0, 5.0),))) if self._number % 6 == 2 else ()
        return Answer("boxes", PromptSet((*true.instances, *extra)), 40)

    def close(self) -> None:
        pass


class Failing:
    """The executor `box`, which fails at its seventh request."""

    def __init__(self) -> None:
        self._box = open_executor(ExecutorConfig(family="box"))
        self._asked = 0

    def segment(
        self, requests: Sequence[SegmentRequest], *, keep_instances: bool = False
    ) -> list[Segmentation | ExecutorFailure]:
        results = self._box.segment(requests, keep_instances=keep_instances)
        for number in range(len(results)):
            self._asked += 1
            if self._asked == 7:
                results[number] = ExecutorFailure("it died")
        return results


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run whose answers hold all there is: objects, empty answers, failures, a failed segmenter."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = evaluate(
        open_dataset("synthetic-aerial", "test", scenes=SCENES),
        Scripted(),
        {"box": Failing()},
        out,
        config={"benchmark": BENCHMARK, "policy": "scripted", "executors": {"box": {}}},
        limit=ANSWERS,
        keep_instances=request.param == "instances",
        progress=False,
    )
    results = rescore(done.folder, list(PROTOCOLS))["box"]
    assert results["parse_failures"] == {"not_json": 5} and results["executor_failures"] == 1
    return out


@pytest.mark.parametrize(
    ("run", "form"),
    [("instances", "rle"), ("instances", "polygons"), ("instances", "png"), ("union", "rle")],
    indirect=["run"],
)
def test_a_runs_exported_predictions_score_as_the_run_to_the_digit(
    run: Path, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, out = tmp_path / "predictions", tmp_path / "scored"
    assert command(predictions_command, run, "--form", form, "--out", predictions) == 0
    printed = capsys.readouterr().out
    assert f"of {ANSWERS} samples" in printed and ("; 0 pixels differ" in printed) == (form == "polygons")
    words = (*BENCHMARK_WORDS, "--limit", ANSWERS, "--out", out, "--label", "Theirs")
    assert command(score_command, predictions, *words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.html")
    results = read_results(RunFolder(out))
    assert results["own-masks"] == read_results(RunFolder(run))["box"]
    if form == "png":  # what the other commands make of the folder has nothing to do with the form
        assert command(report, out) == 0 and command(leaderboard, out, "--out", tmp_path / "board") == 0
        assert "Theirs + own-masks" in (tmp_path / "board" / "leaderboard.md").read_text()
        assert command(eval_command, "--rescore", "--protocol", ",".join(PROTOCOLS), "--out", out) == 0
        assert read_results(RunFolder(out)) == results


def test_questions_are_written_and_mistakes_are_one_sentence(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    root = BENCHMARK_WORDS
    assert command(score_command, "--questions", questions, *root, "--limit", 5) == 0
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    assert len(lines) == 5 and set(lines[0]) == {"sample_id", "image_id", "image_wh", "query"}
    for words, message in (
        ((tmp_path / "none.json", *root, "--out", tmp_path / "a"), "There are no predictions"),
        ((questions, "--out", tmp_path / "a"), "Give --benchmark"),
        ((questions, *root), "Give the predictions and --out"),
        ((questions, *root, "--out", tmp_path / "a", "--protocol", "strickt"), "Did you mean 'strict'"),
    ):
        with pytest.raises(UserError, match=message):
            command(score_command, *words)
    assert not (tmp_path / "a").exists()


def test_rules_that_read_text_are_left_out_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [sample.sample_id for sample in open_dataset("synthetic-aerial", "test", scenes=SCENES)]
    path = tmp_path / "nothing.jsonl"
    path.write_text("".join(json.dumps({"sample_id": one, "segmentation": []}) + "\n" for one in ids))
    assert command(score_command, path, *BENCHMARK_WORDS, "--out", tmp_path / "out") == 0
    scored = set(read_results(RunFolder(tmp_path / "out"))["own-masks"]["protocols"])
    assert scored == {name for name in PROTOCOLS if not PROTOCOLS[name].reads_text} != set(PROTOCOLS)
    assert "no prediction has a `text`, which lmms-eval-refcoco" in capsys.readouterr().out


def lmms_eval(*words: object) -> str:
    """Run lmms-eval without a network; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: install the extra `lmms-eval` to run its task",
)
def test_lmms_eval_lists_the_task_and_gives_our_numbers(tmp_path: Path) -> None:
    tasks, out = tmp_path / "tasks", tmp_path / "run"
    protocol = {"image": {"side": 512}}  # the frame's whole numbers are the image's pixels
    words = (*BENCHMARK_WORDS, "--limit", 8)
    option = ("--policy-option", f"image={json.dumps(protocol['image'])}")
    assert command(lmms_task, *words, *option, "--executor", "box", "--out", tasks) == 0
    name = "prompter_synthetic_aerial_test"
    assert name in lmms_eval("--include_path", tasks, "--tasks", "list")
    policy = "baseline:oracle-box-point"
    flags = ("--include_path", tasks, "--tasks", name, "--output_path", tmp_path / "logs", "--batch_size", 4)
    lmms_eval("--model", "prompter", "--model_args", f"policy={policy}", *flags)
    [path] = (tmp_path / "logs").rglob("*results.json")
    theirs: dict[str, Any] = json.loads(path.read_text())["results"][name]
    assert command(eval_command, *words, "--policy", policy, "--executor", "box", "--out", out) == 0
    ours = read_results(RunFolder(out))["box"]["protocols"]["strict"]["metrics"]
    for metric in ("gIoU", "cIoU", "P@0.5", "T-acc", "box-acc@0.5", "parse-failures"):
        assert theirs[f"strict {metric},none"] == ours[metric]["value"]
