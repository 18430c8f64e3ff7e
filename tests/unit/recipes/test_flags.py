"""The flags that commands share: each is tried in every command that takes it, with one value grammar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.executors.config import ExecutorConfig
from prompter.errors import UserError
from prompter.runs.values import read_options
from recipes import cli
from recipes.commands import flags
from recipes.commands.arguments import benchmark_parts, dataset_options, parse_executor

EVALUATIONS = {"eval", "ablate"}
MEASURES = {*EVALUATIONS, "ceiling", "bench"}
LOOKS = {"data check", "data show"}
TAKES_SETS = {*MEASURES, "score", "lmms-task"}

NEEDED = {
    "eval": ["--out", "x"],
    "ablate": ["--out", "x"],
    "bench": ["executor"],
    "data check": ["some:test"],
    "data show": ["some:test"],
    "replay": ["x.jsonl"],
    "probe": ["some/policy"],
    "ceiling": [],
    "leaderboard": [],
    "score": [],
    "predictions": ["run", "--out", "x"],
    "report": ["run"],
    "compare": ["run"],
    "lmms-task": ["--out", "x"],
    "audit": [],
    "export": ["run", "--out", "x"],
    "study": ["study.yaml", "--out", "x"],
    "engine": ["x", "--out", "x"],
    "mcp": [],
    "segment": ["x.png", "the roofs", "--out", "x", "--policy", "p"],
}
"""What else a command has to be given before it can be parsed."""


def last(value: Any) -> Any:
    return value[-1] if isinstance(value, list) else value


def executor(arguments: argparse.Namespace) -> ExecutorConfig:
    return parse_executor(last(arguments.executor), **arguments.executor_fields)


def skip_bad(arguments: argparse.Namespace) -> dict[str, Any]:
    """As a dataset's option, where the command opens one."""
    return dataset_options(arguments) if hasattr(arguments, "root") else {"skip_bad": arguments.skip_bad}


BOX = ExecutorConfig(family="box", mask_threshold=0.1, dtype="bfloat16", actors=2)

SHARED: dict[str, tuple[set[str], list[str], Callable[[argparse.Namespace], Any], Any]] = {
    "--benchmark": (
        TAKES_SETS | {"leaderboard"},
        ["synthetic-aerial:val"],
        lambda arguments: benchmark_parts(last(arguments.benchmark)),
        ("synthetic-aerial", "val"),
    ),
    "--dataset-option": (
        TAKES_SETS | LOOKS,
        ["scenes=1e1"],
        dataset_options,
        {"scenes": 10.0},
    ),
    "--root": (TAKES_SETS | LOOKS, ["2024"], dataset_options, {"root": "2024"}),
    "--skip-bad": (TAKES_SETS | LOOKS | {"segment"}, [], skip_bad, {"skip_bad": True}),
    "--executor": (
        MEASURES | {"lmms-task", "audit", "segment", "engine", "mcp"},
        ["box,mask_threshold=1e-1,dtype=bfloat16,actors=2"],
        executor,
        BOX,
    ),
    "--policy-option": (
        EVALUATIONS | {"probe", "lmms-task", "segment", "mcp"},
        ["image.side=84"],
        lambda arguments: read_options(arguments.policy_option, "--policy-option"),
        {"image": {"side": 84}},
    ),
    "--out": (
        {
            *EVALUATIONS,
            *(
                "probe",
                "ceiling",
                "leaderboard",
                "replay",
                "study",
                "data show",
                "score",
                "predictions",
                "lmms-task",
                "audit",
                "export",
                "engine",
                "segment",
                "mcp",
            ),
        },
        ["there"],
        lambda arguments: arguments.out,
        Path("there"),
    ),
    "--trust": ({"report", "compare", "audit"}, [], lambda arguments: arguments.trust, True),
    "--rollouts": ({"report", "compare"}, ["7"], flags.rollouts, 7),
    "--limit": (
        {*EVALUATIONS, "ceiling", "score", "lmms-task", "engine"},
        ["7"],
        lambda arguments: arguments.limit,
        7,
    ),
    "--chunk": (EVALUATIONS | {"segment"}, ["7"], lambda arguments: arguments.chunk, 7),
    "--seed": (
        {"bench", "data show", "audit", "eval", "engine", "segment"},
        ["7"],
        lambda arguments: arguments.seed,
        7,
    ),
}
"""Flag -> the commands that take it, a value, how commands read it, and what they read."""

OLD_NAMES = {"--dataset": "--benchmark", "--option": "--dataset-option", "--output": "--out"}
OLD_PARTS = {
    "--device": "cpu",
    "--dtype": "bfloat16",
    "--multimask": "best",
    "--cache-dtype": "int8",
    "--encode-batch": 4,
}


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command's parser, and that of every action of a command."""
    for name in cli.COMMANDS:
        parser = cli.build_parser(name)
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"{name} {word}", inner) for word, inner in action.choices.items())


PARSERS = dict(parsers())


def parse(command: str, *words: str) -> argparse.Namespace:
    name, _, action = command.partition(" ")
    parser = cli.build_parser(name)  # a new one: an old flag is told once in its life
    return parser.parse_args([action, *NEEDED[command], *words] if action else [*NEEDED[command], *words])


def cases(flags: dict[str, Any]) -> list[tuple[str, str]]:
    return [(command, flag) for flag in flags for command in sorted(SHARED[flag][0])]


@pytest.mark.parametrize(("command", "flag"), cases(SHARED))
def test_a_shared_flag_reads_alike_in_every_command(command: str, flag: str) -> None:
    _, values, read, expected = SHARED[flag]
    assert read(parse(command, flag, *values)) == expected


@pytest.mark.parametrize("flag", SHARED)
def test_no_other_command_declares_a_shared_flag_and_all_use_the_same_words(flag: str) -> None:
    found = {
        command: action
        for command, parser in PARSERS.items()
        for action in parser._actions
        if flag in action.option_strings and action.help != argparse.SUPPRESS
    }
    assert set(found) == SHARED[flag][0]
    if flag not in ("--out", "--seed", "--limit"):  # these say what is written, drawn or counted
        assert (
            len(
                {
                    str(action.help).partition(" (default")[0].split(";")[0].split(":")[0]
                    for action in found.values()
                }
            )
            == 1
        )


@pytest.mark.parametrize(
    ("command", "old"),
    [(command, old) for old, flag in OLD_NAMES.items() for command in sorted(SHARED[flag][0])],
)
def test_an_old_name_works_and_says_once_what_it_is_called_now(
    command: str, old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = OLD_NAMES[old]
    _, values, read, expected = SHARED[flag]
    words = [old, *values]
    again = words if flag != "--dataset-option" else [old, "seed=1"]
    arguments = parse(command, *words, *again)
    assert read(arguments) == (expected if flag != "--dataset-option" else {**expected, "seed": 1})
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"{old} is written {flag} now.\n")
    assert old not in PARSERS[command].format_help().split()


@pytest.mark.parametrize("command", sorted(MEASURES))
@pytest.mark.parametrize("old", OLD_PARTS)
def test_a_flag_that_was_a_part_of_an_executor_still_is(
    command: str, old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = old[2:].replace("-", "_"), OLD_PARTS[old]
    arguments = parse(command, old, str(value), "--executor", "box")
    assert executor(arguments) == ExecutorConfig(family="box", **{key: value})
    assert capsys.readouterr().err == f"{old} is written --executor FAMILY,{key}={value} now.\n"
    stronger = parse(command, old, str(value), "--executor", "box,mask_threshold=2")
    assert getattr(executor(stronger), key) == value
    assert old not in PARSERS[command].format_help().split()


def test_what_an_executor_says_itself_wins_over_an_old_flag(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = parse("ceiling", "--dtype", "bfloat16", "--executor", "box,dtype=float32")
    assert executor(arguments).dtype == "float32"
    assert parse("ceiling").executor_fields == {}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--benchmark", "synthetic-aerial"],
            "names no split. Give the split as well, as in synthetic-aerial:test.",
        ),
        (["--dataset-option", "scenes"], "--dataset-option is written KEY=VALUE, but got 'scenes'."),
        (["--dataset-option", "=3"], "--dataset-option is written KEY=VALUE, but got '=3'."),
        (["--dataset-option", "scenes=["], "--dataset-option scenes is not YAML"),
        (["--dataset-option", "a=1", "--dataset-option", "a=2"], "--dataset-option gives 'a' twice."),
        (["--executor", "bx"], "Did you mean 'box'"),
        (["--executor", "box,dtyp"], "an option of --executor box is written KEY=VALUE, but got 'dtyp'."),
        (["--executor", "box,dtype=int4"], "'dtype' should be"),
        (["--executor", "box,dtype=auto,dtype=float32"], "gives 'dtype' twice."),
    ],
)
@pytest.mark.parametrize("command", sorted(MEASURES))
def test_the_same_mistake_gets_the_same_sentence(command: str, words: list[str], message: str) -> None:
    arguments = parse(command, *words)
    with pytest.raises(UserError) as caught:
        benchmark_parts(last(arguments.benchmark or "some:test"))
        dataset_options(arguments)
        parse_executor(last(arguments.executor or "box"), **arguments.executor_fields)
    assert message in str(caught.value)


def test_a_weight_is_read_as_any_other_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").write_text("")
    for text, code in (
        ("mask_iou=1e-4", "holds no rollouts"),
        ("mask_iou=true", "NAME=WEIGHT with a number"),
    ):
        assert cli.main(["replay", str(tmp_path / "none.jsonl"), "--reward", text]) == 2
        assert code in capsys.readouterr().err
