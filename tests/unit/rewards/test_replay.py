"""`prompter replay`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.masks import encode_rle
from envs.rollout import Rollout
from prompter.runs.jsonl import read_lines, write_lines
from prompter.runs.run_folder import RunFolder
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet
from recipes.cli import main

BOX = PromptSet((Instance(box=(0.0, 0.0, 4.0, 4.0)),))
FAILED = ParseFailure(FailureKind.NOT_JSON, "expected JSON, but found text", "no")


def mask(columns: int) -> object:
    array = np.zeros((8, 8), bool)
    array[:, :columns] = True
    return encode_rle(array)


def rollout(number: int, **changes: object) -> dict[str, object]:
    values = {
        "sample_id": str(number),
        "dataset": "d",
        "split": "val",
        "image_id": "i",
        "image_wh": (8, 8),
        "query": "q",
        "target": mask(4),
        "completion": "no",
        "reading": BOX,
        "prediction": mask(2),
        "rewards": {"total": 0.5, "mask_iou": 0.5},
        **changes,
    }
    return Rollout(**values).to_json()  # type: ignore[arg-type]


ROLLOUTS = [
    rollout(0),
    rollout(1, reading=FAILED, prediction=None, rewards={"total": 1.0}),
    rollout(2, prediction=None, executor_error="the actor died", rewards={"total": None}),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_lines(tmp_path / "rollouts.jsonl", ROLLOUTS)
    return tmp_path / "rollouts.jsonl"


def test_the_table_leaves_executor_failures_out_and_counts_changes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "reward    mean    scored  left out",
        "total     0.2500  2       1",
        "mask_iou  0.2500  2       1",
        "changed: 1 of 3 rollouts",
    ]


def test_weights_are_applied_and_scored_rollouts_written(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "again.jsonl"
    words = ["--reward", "mask_iou=2", "--reward", "valid_answer", "--out", str(output)]
    assert main(["replay", str(file), *words]) == 0
    written = [Rollout.from_json(record).rewards for record in read_lines(output)]
    assert written[0] == {"total": 2.0, "mask_iou": 0.5, "valid_answer": 1.0}
    assert written[2]["total"] is None


def test_a_run_folder_gives_all_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.write_config({})
    for step in range(2):
        run.write_step_rollouts(step, ROLLOUTS)
    assert main(["replay", str(run.path)]) == 0
    assert "changed: 2 of 6 rollouts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "mask_uoi=1"], "there is no reward 'mask_uoi'. Did you mean 'mask_iou'?"),
        (
            ["--reward", "mask_iou=much"],
            "--reward is written NAME=WEIGHT with a number, but got 'mask_iou=much'.",
        ),
        (["--out", "{file}"], "{file} exists already; name a new file with --out."),
    ],
)
def test_a_mistake_is_a_sentence(
    file: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["replay", str(file), *(word.format(file=file) for word in words)]) == 2
    assert capsys.readouterr().err == f"prompter: {message.format(file=file)}\n"


def test_no_rollouts_is_a_mistake_that_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    output = tmp_path / "out.jsonl"
    assert main(["replay", str(tmp_path / "empty.jsonl"), "--out", str(output)]) == 2
    assert capsys.readouterr().err == f"prompter: {tmp_path / 'empty.jsonl'} holds no rollouts.\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "empty.jsonl"]
