"""`--json`: the same one object on stdout from every command, mistakes and failures included."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prompter.errors import InfrastructureError, UserError
from recipes import cli
from recipes.commands.output import WITH_FILE, WITHOUT, asks_for_json, tell
from tests.unit.recipes.test_flags import NEEDED, parsers

KEYS = ["command", "exit_code", "error", "result", "text"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command printed: one line, and with the exit code that it returned."""
    capsys.readouterr()
    code = cli.main(words)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and printed.endswith("\n")
    told = json.loads(printed)
    assert list(told) == KEYS and told["exit_code"] == code
    return told


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Any], int]], None]:
    """Puts another `run` behind a command."""

    def replace(name: str, function: Callable[[Any], int]) -> None:
        module = importlib.import_module(cli.COMMANDS[name].module)
        monkeypatch.setattr(module, "run", function)

    return replace


EVERY = [name for name in cli.COMMANDS if name not in WITHOUT]
MORE = {
    "train": ["synthetic-aerial"],
    "cold-start": ["x.yaml"],
    "seg-token": ["x.yaml"],
    "elisa": ["x.yaml"],
    "plan": ["x"],
    "completion": ["bash"],
    "compare": ["x"],
}


def needed(name: str) -> list[str]:
    """The words without which a command cannot be parsed."""
    if name == "data":
        return ["ls"]
    return MORE.get(name, NEEDED.get(name, []))


@pytest.mark.parametrize("name", EVERY)
def test_every_command_prints_the_same_object(
    name: str, replaced: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def done(arguments: argparse.Namespace) -> int:
        assert getattr(arguments, "json", None) is None and not hasattr(arguments, "asked_for_json")
        print("for people")
        os.write(1, b"from a library\n")
        tell(path=Path("a"), value=np.float32(0.5), missing=float("nan"))
        tell(value=np.arange(2))
        return 1

    replaced(name, done)
    told = run(capsys, name, *needed(name), "--json")
    assert told == {
        "command": name,
        "exit_code": 1,
        "error": None,
        "result": {"path": "a", "value": [0, 1], "missing": None},
        "text": "for people\n",
    }


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (UserError("No such run."), 2, "user"),
        (InfrastructureError("An actor died."), 3, "machines"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_went_wrong_is_told_with_its_exit_code(
    error: BaseException,
    code: int,
    kind: str,
    replaced: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(arguments: argparse.Namespace) -> int:
        tell(so_far=1)
        raise error

    replaced("report", fails)
    told = run(capsys, "report", "x", "--json")
    assert (told["exit_code"], told["error"]["kind"], told["result"]) == (code, kind, {"so_far": 1})
    assert told["error"]["message"] == (str(error) or "interrupted")


def test_a_fault_of_ours_is_told_and_keeps_its_traceback(
    replaced: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: argparse.Namespace) -> int:
        raise ZeroDivisionError("oh")

    replaced("report", fails)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "x", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["error"]) == (
        1,
        {"kind": "fault", "message": "ZeroDivisionError: oh"},
    )
    print("as ever")  # stdout is whole again
    assert capsys.readouterr().out == "as ever\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["report", "x", "--nothing"], "unrecognized arguments: --nothing"),
        (["data", "frobnicate"], "invalid choice: 'frobnicate'"),
        (["predictions"], "the following arguments are required"),
        (["mcp", "x"], "unrecognized arguments: --json"),
    ],
)
def test_a_mistyped_call_is_told_in_the_same_object(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run(capsys, *words, "--json")
    assert told["exit_code"] == 2 and told["error"]["kind"] == "user" and said in told["error"]["message"]


def test_which_commands_take_a_file_is_what_their_parsers_say() -> None:
    found, without = set(), set()
    for name, parser in parsers():
        nested = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
        action = parser._option_string_actions.get("--json")
        if action is None and not nested:
            without.add(name)
        if action is not None and action.nargs == "?":
            found.add(name)
    assert (found, without) == (set(WITH_FILE), set(WITHOUT))


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("plan x --json", True),
        ("plan x --json out.json", False),
        ("plan --json --gpus 1 x", True),
        ("data check a:b --json out.json", False),
        ("data ls --json manifest", True),
        ("segment --json x.png q", True),
        ("my_commands:count --json", False),
        ("plan x", False),
    ],
)
def test_a_command_line_asks_for_it_or_for_a_file(line: str, asked: bool) -> None:
    assert asks_for_json(line.split()) is asked


def test_every_command_tells_something() -> None:
    """A command without a word for programs would be an empty `result`."""
    for name in set(EVERY) - {"completion"}:
        path = Path(str(importlib.import_module(cli.COMMANDS[name].module).__file__))
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert called & {"tell", "tell_run", "write_result"}, name


def test_real_commands_tell_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [info] = run(capsys, "data", "ls", "manifest", "--json")["result"]["datasets"]
    assert (info["name"], info["status"]) == ("manifest", "yours")
    golden = Path(__file__).parents[2] / "golden" / "before_move" / "finished"
    told = run(capsys, "replay", str(golden), "--json")
    assert told["result"]["rollouts"] > 0 and "mask_iou" in told["result"]["means"]
    told = run(capsys, "replay", str(tmp_path / "gone.jsonl"), "--json")
    assert told["exit_code"] == 2 and "gone.jsonl" in told["error"]["message"]


def test_a_process_prints_the_object_and_ends_with_its_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cli", "frobnicate", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 2
    assert done.stderr.startswith("prompter: there is no command")
