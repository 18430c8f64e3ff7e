"""What a command tells a program: with `--json`, one JSON object on stdout, the same for every command.

    {"command": "eval", "exit_code": 0, "error": null, "result": {…}, "text": "…"}

`result` holds what the command told by `tell`; `text` is what it would have printed. Everything else goes to
stderr. `error` is null, or {"kind": …, "message": …}: "user" (mend the call; exit code 2), "machines" (3),
"interrupted" (130), or "fault" (ours; 1, with a traceback on stderr). A command's own "no" is exit code 1
without an error.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WITH_FILE = ("bench", "compare", "data check", "plan")
"""Commands whose `--json` may name a file: figures are written there then, and the rest printed as ever."""

_ASKED = "asked_for_json"

WITHOUT = ("mcp",)
"""Commands without `--json`: a server's stdout belongs to its protocol."""


@dataclass
class _Told:
    """What was told since `--json` began."""

    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None


_TOLD: ContextVar[_Told | None] = ContextVar("told", default=None)


def tell(**figures: Any) -> None:
    """Add to the `result` of `--json`; a name that was told before is told anew. Without it, do nothing.

    Args:
        figures: anything of dicts, lists, texts, numbers, paths and NumPy's values. Not finite is null.
    """
    told = _TOLD.get()
    if told is not None:
        told.result.update(figures)


def tell_error(kind: str, message: str) -> None:
    """Set the `error` of `--json`; the first one stays, for it is nearest to the cause."""
    told = _TOLD.get()
    if told is not None and told.error is None:
        told.error = {"kind": kind, "message": message}


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare `--json` in a command's parser and in those of its actions, where it is not declared yet."""
    actions = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    for action in actions:
        for inner in action.choices.values():
            add_json(inner)
    if not actions and "--json" not in parser._option_string_actions:
        says = "print one JSON object, errors too, and nothing else"
        parser.add_argument("--json", dest=_ASKED, action="store_true", help=says)


def add_json_file(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare a `--json` that may name a file.

    Args:
        what: is written to the file.
    """
    says = f"file for {what}; without FILE, print one JSON object, errors too, and nothing else"
    parser.add_argument("--json", type=Path, nargs="?", const=True, metavar="FILE", help=says)


def forget_json(arguments: argparse.Namespace) -> None:
    """Take out of a command's arguments what it need not see to; of `json` a file is left, or None."""
    if hasattr(arguments, _ASKED):
        delattr(arguments, _ASKED)
    if getattr(arguments, "json", None) is True:
        arguments.json = None


def asks_for_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for the one object, before it is parsed: mistakes in it are told so, too.

    A command of one's own (`module:run`) has the flags it declares, and no more.
    """
    if "--json" not in words or not words or ":" in words[0]:
        return False
    file = words[words.index("--json") + 1 :][:1]
    may_be_file = words[0] in WITH_FILE or " ".join(words[:2]) in WITH_FILE
    return not (may_be_file and file and not file[0].startswith("-"))


def as_json(command: str, run: Callable[[], int]) -> int:
    """Run a command, print the one object on stdout, and return the command's exit code.

    Args:
        command: its name.
        run: runs it; what it prints is kept as `text`, and what libraries and other processes write to the
            descriptor of stdout goes to stderr.

    Raises:
        BaseException: what `run` raised, after the object was printed.
    """
    told = _Told()
    token = _TOLD.set(told)
    code = 1
    with _stdout_aside() as text:
        try:
            code = run()
        except SystemExit as stop:  # argparse: a mistake, or --help
            code = stop.code if isinstance(stop.code, int) else 0
        except BaseException as error:
            tell_error("fault", f"{type(error).__name__}: {error}")
            raise
        finally:
            _TOLD.reset(token)
            text.envelope = {
                "command": command,
                "exit_code": code,
                "error": told.error,
                "result": _plain(told.result),
                "text": text.getvalue(),
            }
    return code


class _Text(io.StringIO):
    """What a command printed, and what is to be printed in its place."""

    envelope: Mapping[str, Any] | None = None


@contextmanager
def _stdout_aside() -> Iterator[_Text]:
    """Keep what is printed; write the envelope to the true stdout at the end."""
    from prompter.runs.jsonl import to_line

    text, true = _Text(), sys.stdout
    true.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(text):
            yield text
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        if text.envelope is not None:
            true.write(to_line(text.envelope))
            true.flush()


def _plain(value: Any) -> Any:
    """JSON-ready: paths as text, NumPy's values as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value
