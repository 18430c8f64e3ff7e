"""Settings are compared sample by sample: what differs is counted, measured and named; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.masks import encode_rle
from envs.rollout import Rollout
from eval.invariance import (
    Setting,
    Shuffled,
    compare_settings,
    comparison_text,
    groups_of,
    moves,
    settings_of,
)
from prompter.errors import UserError
from prompter.runs.jsonl import write_lines
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet

ONE, EIGHT, OTHER = Setting(1, backend="hf"), Setting(8, backend="hf"), Setting(8, True, "vllm")
Write = Callable[..., dict[str, Path]]


def rollout(number: int, rows: int = 4, text: str = "[…]") -> Rollout:
    """An answer whose mask covers the first `rows` rows of 8; the target is 4 of them."""
    mask, target = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    mask[:rows], target[:4] = True, True
    return Rollout(
        sample_id=f"sample-{number}",
        dataset="made",
        split="test",
        image_id="image",
        image_wh=(8, 8),
        query="",
        target=encode_rle(target),
        completion=text,
        reading=PromptSet((Instance(box=(0.0, 0.0, 8.0, 4.0)),)),
        prediction=encode_rle(mask),
    )


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_files(name: str, **files: list[Rollout]) -> dict[str, Path]:
        paths = {executor: tmp_path / f"{name}-{executor}.jsonl" for executor in files}
        for executor, rollouts in files.items():
            write_lines(paths[executor], (one.to_json() for one in rollouts))
        return paths

    return write_files


def test_nothing_moves_in_another_order(write: Write) -> None:
    made = [rollout(number, rows=1 + number) for number in range(7)]
    runs = {ONE: write("one", box=made), OTHER: write("other", box=made[::-1])}
    found = compare_settings(runs)
    assert found["samples"] == 7 and not moves(found)
    assert found["settings"][0]["mean_iou"] == found["settings"][1]["mean_iou"]
    assert groups_of(found) == [["hf, batch 1", "vllm, batch 8, shuffled"]]
    assert comparison_text(found).endswith("nothing moves")


def test_every_difference_is_counted_measured_and_named(write: Write) -> None:
    made = [rollout(number) for number in range(5)]
    failure = ParseFailure(FailureKind.NOT_JSON, "", "")
    changed = [
        made[0],
        replace(made[1], completion="[ … ]"),  # the text alone
        rollout(2, rows=2),  # the mask alone: 0.5 instead of 1
        replace(made[3], reading=failure, prediction=None),  # the same text, cut off: 0 instead of 1
        made[4],
    ]
    runs = {
        ONE: write("one", box=made, sam=made),
        EIGHT: write("eight", box=made, sam=made),
        OTHER: write("other", box=changed, sam=[*changed[:2], made[2], *changed[3:]]),
    }
    found = compare_settings(runs)
    same, *others = found["pairs"]
    assert same["settings"] == ["hf, batch 1", "hf, batch 8"] and same["differing"] == []
    for pair in others:
        assert pair["settings"][1] == "vllm, batch 8, shuffled"
        assert (pair["answers"], pair["ious"]) == (2, {"box": 2, "sam": 1})
        assert pair["worst_iou_difference"] == {"box": 1.0, "sam": 1.0}
        assert [one["sample_id"] for one in pair["differing"]] == ["sample-1", "sample-2", "sample-3"]
        assert pair["differing"][1]["ious"] == {"box": [1.0, 0.5], "sam": [1.0, 1.0]}
        assert pair["differing"][0]["completions"] == ["[…]", "[ … ]"]
    assert moves(found)
    assert groups_of(found) == [["hf, batch 1", "hf, batch 8"], ["vllm, batch 8, shuffled"]]
    text = comparison_text(found)
    assert "hf, batch 1 | vllm, batch 8, shuffled: sample-1, sample-2, sample-3" in text
    assert "hf, batch 8 | vllm, batch 8, shuffled: " not in text, "one line for settings that are alike"
    assert found["settings"][2]["mean_iou"] == {"box": 0.7, "sam": 0.8}


def test_a_segmenter_that_failed_under_one_setting_is_a_difference_without_a_size(write: Write) -> None:
    failed = replace(rollout(0), prediction=None, executor_error="the actor died")
    found = compare_settings({ONE: write("one", box=[rollout(0)]), EIGHT: write("eight", box=[failed])})
    (pair,) = found["pairs"]
    assert (pair["answers"], pair["ious"], pair["worst_iou_difference"]) == (0, {"box": 1}, {"box": None})
    assert found["settings"][1]["mean_iou"] == {"box": None}
    assert "-" in comparison_text(found)


def test_other_samples_or_one_twice_are_refused(write: Write) -> None:
    whole = write("one", box=[rollout(0), rollout(1)])
    with pytest.raises(UserError, match="hold different samples"):
        compare_settings({ONE: whole, EIGHT: write("eight", box=[rollout(0)])})
    with pytest.raises(UserError, match="'sample-0' twice"):
        compare_settings({ONE: write("twice", box=[rollout(0), rollout(0)])})


def test_settings_and_their_folders() -> None:
    settings = settings_of(["hf", "vllm"])
    assert len({one.folder for one in settings}) == len(settings) == 8
    assert settings[3].folder == "hf-batch-32-shuffled" and settings[3].shuffled
    assert settings_of([""])[0].name == "batch 1"


def test_another_order_is_of_the_same_samples() -> None:
    source = list(range(50))
    shuffled = Shuffled(source, 40)  # type: ignore[arg-type]
    taken = [shuffled[index] for index in range(len(shuffled))]
    assert sorted(taken) == source[:40] and taken != source[:40]
    assert taken == [Shuffled(source, 40)[index] for index in range(40)]  # type: ignore[arg-type]
