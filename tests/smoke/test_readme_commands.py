"""What the README and the docs tell a reader to type works: the README's commands run, all others are parsed.

Commands are lines of fenced blocks that start with `prompter`, `python -m`, `python -c` or `make`. Of the
README's and of docs/start.md's, each is run, smaller where it would take minutes: `SMALLER` says how. A
command that no line of it covers fails, so that a new one there is a line here as well. The commands of
docs/use.md and docs/extending.md are run by tests of their own (test_use.py, test_extending.py); those of all
other pages go through their real parsers.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from recipes import cli
from recipes.shipped import shipped_recipes
from tests.fixtures.training import ROOT

pytestmark = pytest.mark.smoke

COMMAND = re.compile(r"(prompter|python -[mc]|make)\b")


@dataclass(frozen=True)
class Smaller:
    """How a command is run in seconds.

    Args:
        add: words added at its end.
        swap: word -> the word put in its place.
        parsed: it is not run at all: its words go through the command's real parser.
    """

    add: tuple[str, ...] = ()
    swap: Mapping[str, str] = field(default_factory=dict)
    parsed: bool = False


SMALLER = {
    "prompter --help": Smaller(),
    "prompter data ls": Smaller(),
    "prompter data show": Smaller(),
    "prompter segment": Smaller(),
    "prompter plan": Smaller(),
    "prompter train": Smaller(add=("--print-config",)),  # a run in full: tests/smoke/test_train.py
    "prompter cold-start": Smaller(parsed=True),  # in full: tests/smoke/test_cold_start.py
    "prompter demo": Smaller(parsed=True),
    "prompter eval": Smaller(
        add=("--limit", "2", "--policy-option", "sampler.backend=hf", "--policy-option", "max_new_tokens=16"),
        swap={"mobile-sam": "box"},
    ),
    "prompter ablate": Smaller(add=("--limit", "2"), swap={"mobile-sam": "box"}),
    "prompter ceiling": Smaller(add=("--limit", "2"), swap={"mobile-sam": "box", "onnx": "box"}),
    "prompter bench": Smaller(parsed=True),  # times a real segmenter
    "prompter leaderboard": Smaller(parsed=True),
    "prompter export": Smaller(),
    "prompter report": Smaller(parsed=True),  # needs a run: tests/smoke/test_extending.py
    "prompter replay": Smaller(parsed=True),  # the same
    "python -c": Smaller(),
    "python -m recipes.grpo_loop": Smaller(
        add=tuple("--executor box --steps 1 --prompts 2 --group-size 2 --every 99".split())
    ),
}
"""First words of a command -> how it is run here; `make` is asked what it would do."""


def commands(page: Path) -> list[str]:
    """The commands in a page's fenced blocks: continued lines joined, comments taken off, `a && b` parted."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced if language in ("", "sh", "bash", "console")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in re.sub(r"(^|\s)#.*", "", line).split("&&")]
    return [shlex.join(shlex.split(part)) for part in parts if COMMAND.match(part)]


def inline_commands(page: Path) -> list[str]:
    """The commands in a page's running text, between backquotes; those with "…" are sketches."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return [span for span in spans if re.match(r"(prompter|make) [a-z]", span) and "…" not in span]


START_PAGE = ROOT / "docs" / "start.md"
START = commands(START_PAGE)
README = commands(ROOT / "README.md")
PAGES = [
    *(ROOT / "README.md", ROOT / "recipes" / "README.md", ROOT / "recipes" / "agents" / "SKILL.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]


def marked(found: Callable[[Path], list[str]], pages: list[Path]) -> list[ParameterSet]:
    """Each command of some pages once a page, named after its page."""
    return [
        pytest.param(line, id=f"{page.relative_to(ROOT)}: {line[:60]}")
        for page in pages
        for line in dict.fromkeys(found(page))
    ]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that looks like a clone to a command: configs are at their place, `runs/` is its own."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path


def entry(line: str) -> Smaller:
    """How a command is run here, by the longest beginning that is listed."""
    found = [start for start in SMALLER if f"{line} ".startswith(f"{start} ")]
    assert found, f"`{line}` is new in the README or quick start: say in SMALLER how it runs in seconds."
    return SMALLER[max(found, key=len)]


def check_make(words: list[str]) -> None:
    """Ask make what it would do: it knows the target, and the variables hold."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    target = words[0] if words and "=" not in words[0] else "help"
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def check_parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give words to the real parser of their command, with nothing behind it."""
    name = cli.RENAMED.get(words[0], words[0])
    assert name in cli.COMMANDS, f"there is no command {name!r}"
    if name == "train":
        check_flags(name, words[1:])
    module = importlib.import_module(cli.COMMANDS[name].module)
    seen = []
    monkeypatch.setattr(module, "run", lambda arguments: seen.append(arguments) or 0)
    assert cli.main(words) == 0
    assert len(seen) == 1


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The flags of a parser and of its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(*(options(one) for one in action.choices.values()))
    return found


def check_flags(name: str, words: list[str]) -> None:
    """Look a command up, and each of its flags. Those of `train` are keys of its config: it resolves it."""
    name = cli.RENAMED.get(name, name)
    assert name in cli.COMMANDS, f"there is no command {name!r}"
    module, parser = importlib.import_module(cli.COMMANDS[name].module), cli.build_parser(name)
    if name == "train" and words and (Path(words[0]).exists() or words[0] in shipped_recipes()):
        assert cli.main(["train", *words, "--print-config"]) == 0
    elif not getattr(module, "TAKES_OVERRIDES", False):
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options(parser)


def is_plain_help(words: list[str]) -> bool:
    """Whether words only ask for help, which ends the parser early."""
    return words[-1:] == ["--help"]


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the README, or what `SMALLER` makes of it."""
    how = Smaller() if is_plain_help(shlex.split(line)) else entry(line)
    words = [how.swap.get(word, word) for word in shlex.split(line)]
    if words[:2] == ["python", "-c"]:
        exec(compile(words[2], line, "exec"), {})
    elif words[0] == "python":
        monkeypatch.setattr(sys, "argv", [words[2], *words[3:], *how.add])
        try:
            runpy.run_module(words[2], run_name="__main__")
        except SystemExit as stop:
            assert not stop.code
    elif how.parsed:
        check_parsed(words[1:], monkeypatch)
    else:
        try:
            assert cli.main([*words[1:], *how.add]) == 0
        except SystemExit as stop:  # argparse's own --help
            assert is_plain_help(words) and stop.code == 0


@pytest.mark.parametrize("line", README)
def test_each_command_of_the_readme_runs(line: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        check_make(words)
    else:
        run(line, monkeypatch)


def test_the_quick_start_runs_from_top_to_bottom(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(START) >= 8
    for line in START:
        program, *words = shlex.split(line)
        if program == "make":
            check_make(words)
        else:
            run(line, monkeypatch)
    assert (clone / "runs" / "answers" / "masks" / "scene.png").exists()
    assert (clone / "runs" / "eval" / "report.html").exists()


@pytest.mark.parametrize("line", marked(commands, [page for page in PAGES[1:] if page != START_PAGE]))
def test_each_command_in_the_docs_is_taken_by_its_parser(
    line: str, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        check_make(words)
    elif program == "python" and words[0] == "-c":
        compile(words[1], line, "exec")
    elif program == "python":
        assert importlib.util.find_spec(words[1]) is not None
    elif ":" not in words[0]:  # one's own command: test_extending.py
        check_parsed(words, monkeypatch)


@pytest.mark.parametrize("line", marked(inline_commands, PAGES))
def test_each_command_in_running_text_is_one_with_such_flags(line: str, clone: Path) -> None:
    """It may leave out what it is not about, so it is looked up rather than parsed."""
    program, name, *words = shlex.split(line)
    if program == "make":
        check_make([name, *words])
    elif ":" not in name:
        check_flags(name, words)


def test_the_readme_has_commands_and_the_reader_of_pages_sees_them(tmp_path: Path) -> None:
    assert len(README) >= 5 and any(line.startswith("make ") for line in README)
    page = tmp_path / "page.md"
    page.write_text(
        "Say `prompter data\nls`, or `prompter report RUN…`.\n```\ngit clone x && make demo  # a minute\n"
        "prompter eval --out a \\\n    --limit 2\n```\n```python\nprompter = 1\n```\n"
        "```sh\npython -m recipes.x '{a: 1}'\n```\n```python\nx = 2\n```\nSay\n```\nprompter data ls\n```\n"
    )
    expected = [
        *("make demo", "prompter eval --out a --limit 2", "python -m recipes.x '{a: 1}'", "prompter data ls")
    ]
    assert commands(page) == expected
    assert inline_commands(page) == ["prompter data ls"]


@pytest.mark.parametrize("line", ["prompter train-all x.yaml", "prompter frobnicate", "python -m json.tool"])
def test_a_command_that_is_not_listed_fails(line: str) -> None:
    with pytest.raises(AssertionError, match="is new in the README or"):
        entry(line)


@pytest.mark.parametrize(
    "line", ["prompter eval --outt runs/x", "prompter nothing", "prompter data frobnicate", "make nothing"]
)
def test_a_wrong_command_is_noticed(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shlex.split(line)
    with pytest.raises((AssertionError, SystemExit)):
        check_make(words) if program == "make" else check_parsed(words, monkeypatch)
    with pytest.raises(AssertionError):
        check_make(words) if program == "make" else check_flags(words[0], [*words[1:], "--outt"])
