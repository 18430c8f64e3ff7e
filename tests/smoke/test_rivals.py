"""A rival's checkpoint without training: one command, its dialect, its prompt, and a run that keeps both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes import cli
from tests.unit.eval.test_endpoint import Server, said, sent_image, serve  # noqa: F401

SAID = (
    '<think>One is <answer>[]</answer>.</think><answer>[{"bbox_2d":[-3,0,420,843],"point_2d":["210","420"]}]'
    "</answer>"
)


def evaluated(server: Server, out: Path, *options: str) -> int:
    words = ["eval", "--benchmark", "synthetic-aerial:test", "--policy", f"openai:{server.url}#m"]
    for option in options:
        words += ["--policy-option", option]
    return cli.main([*words, "--executor", "box", "--limit", "2", "--out", str(out)])


def test_a_rival_behind_an_endpoint_is_one_command(
    serve: Callable[..., Server],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve(lambda number, body: said(SAID))
    prompt = tmp_path / "visionreasoner.txt"
    prompt.write_text('Please find "{Question}".', encoding="utf-8")
    out = tmp_path / "run"
    options = ("reads=visionreasoner", f"prompt_file={prompt}")
    assert evaluated(server, out, *options) == 0
    assert "answers mended: clipped 2" in capsys.readouterr().out
    for body in server.seen:
        (message,) = body["messages"]
        assert [part["type"] for part in message["content"]] == ["image_url", "text"]
        text = message["content"][1]["text"]
        assert text.startswith('Please find "') and text[1:] == text[1:].lower()
        assert body["max_tokens"] == 2048
        assert sent_image({"messages": [None, message]}).size == (840, 840)
    rollouts = list(read_lines(out / "rollouts" / "box.jsonl"))
    assert len(rollouts) == 2
    for rollout in rollouts:
        width, height = rollout["image_wh"]
        assert rollout["prompts"] == [
            {
                "box": [0.0, 0.0, width / 2, height],
                "positive_points": [[width / 4, height / 2]],
                "negative_points": [],
            }
        ]
        assert rollout["mended"] == {"clipped": 1}
    assert json.loads((out / "results.json").read_text())["box"]["mended"] == {"clipped": 2}
    # What was asked is in the run, and the file may go.
    prompt.unlink()
    config: dict[str, Any] = RunFolder.open(out).read_config()
    assert config["policy_options"] == {"reads": "visionreasoner", "prompt": 'Please find "{Question}".'}
    kept = json.loads((out / "policy.json").read_text())
    assert (kept["reads"], kept["frame"], kept["image"]["side"]) == ("visionreasoner", "absolute", 840)
    assert (kept["out_of_frame"], kept["swapped_corners"]) == ("clip", "sort")
    assert kept["prompt"] == 'Please find "{Question}".' and kept["prompt_file"] is None
    assert cli.main(["eval", "--rescore", "--out", str(out)]) == 0
    assert "answers mended: clipped 2" in capsys.readouterr().out
    prompt.write_text("Another: {query}", encoding="utf-8")
    assert evaluated(server, out, *options) == 2
    assert "policy_options" in capsys.readouterr().err


def test_a_served_checkpoint_keeps_the_special_tokens_that_are_read(
    serve: Callable[..., Server],  # noqa: F811
    tmp_path: Path,
) -> None:
    marked = "<|object_ref_start|>roof<|object_ref_end|><|box_start|>(0,0),(500,1000)<|box_end|>"
    server = serve(lambda number, body: said(marked))
    out = tmp_path / "run"
    assert (
        evaluated(
            server, out, "protocol_from=shipped:small-policy", "reads=box-tokens", "action_space.kind=any"
        )
        == 0
    )
    assert all(body["skip_special_tokens"] is False for body in server.seen)
    for rollout in read_lines(out / "rollouts" / "box.jsonl"):
        width, height = rollout["image_wh"]
        assert [one["box"] for one in rollout["prompts"]] == [[0.0, 0.0, width / 2, height]]


def test_a_dialect_that_nobody_speaks_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--benchmark", "synthetic-aerial:test", "--policy", "openai:http://127.0.0.1:9/v1#m"]
    words += ["--policy-option", "reads=visionreason", "--executor", "box", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "Did you mean 'visionreasoner'?" in error and error.count("\n") == 1
