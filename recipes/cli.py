"""The console script `prompter`: one table of commands, each in a module of its own.

A command's module has `add_arguments(parser)` and `run(arguments) -> int`, and is imported only when
its command is asked for; so `prompter --help` imports no command, and no torch. A command of your own
is `prompter MODULE:RUN`: such a module, wherever it is, and its function. A module that sets
`TAKES_OVERRIDES = True` gets every flag it does not know as `arguments.overrides`, a list of
"dotted.key=value" for `recipes.config.load_config`; its `config_keys()` tells the keys for `--help`.

Every command takes `--json` (`recipes.commands.output`): one object on stdout for programs.

Exit codes: 0 done, 1 a command's own "no", 2 the user's mistake (one sentence on stderr, no
traceback), 3 the machines' (actors or engines died too often; what to do is said), 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple, NoReturn

from prompter import __version__
from prompter.errors import InfrastructureError, UserError, did_you_mean
from prompter.registry import import_object, is_import
from prompter.runs.tables import text_table
from recipes.commands.output import WITHOUT, add_json, as_json, asks_for_json, forget_json, tell_error
from recipes.help_texts import written_keys


class Command(NamedTuple):
    """One line of the table: the module that holds the command, and what `prompter --help` says of it."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "recipes.commands.demo", "train the shipped policy on a CPU, with a real frozen SAM, and show it"
    ),
    "train": Command("recipes.commands.train", "train a policy by GRPO, as a config says"),
    "plan": Command("recipes.commands.plan", "say what a run takes, and what to turn where it does not fit"),
    "cold-start": Command(
        "recipes.commands.cold_start", "teach a small policy the answer's format and rough localisation"
    ),
    "seg-token": Command(
        "recipes.commands.seg_token", "train a policy whose [SEG] tokens are decoded into masks"
    ),
    "elisa": Command(
        "recipes.commands.elisa", "train a policy that chooses among masks the segmenter proposes"
    ),
    "segment": Command("recipes.commands.segment", "ask a policy about images: masks, outlines, pictures"),
    "mcp": Command("recipes.commands.mcp", "serve a policy to agents by the Model Context Protocol"),
    "eval": Command("recipes.commands.eval", "measure a policy on benchmarks, or re-score a run's rollouts"),
    "probe": Command(
        "recipes.commands.probe", "find out which coordinates and which dialect a policy answers in"
    ),
    "score": Command("recipes.commands.score", "score predictions that any program made"),
    "predictions": Command("recipes.commands.predictions", "write a run's predictions for other programs"),
    "lmms-task": Command("recipes.commands.lmms_task", "write a benchmark as a task of lmms-eval"),
    "ablate": Command(
        "recipes.commands.ablate", "a grid of segmenters, action spaces and frames, as one command"
    ),
    "study": Command("recipes.commands.study", "train variants of a config with several seeds; compare them"),
    "ceiling": Command(
        "recipes.commands.ceiling", "how far a segmenter could go, by oracle prompts; no policy"
    ),
    "audit": Command(
        "recipes.commands.audit", "find wrong labels by what predictions agree on; repair a split"
    ),
    "compare": Command(
        "recipes.commands.compare", "compare runs on the same questions, and say where a gain comes from"
    ),
    "leaderboard": Command("recipes.commands.leaderboard", "set runs beside published numbers"),
    "report": Command("recipes.commands.report", "write the page of a run again"),
    "export": Command(
        "recipes.commands.export", "write a trained policy as a folder that transformers and vLLM load"
    ),
    "replay": Command("recipes.commands.replay", "re-score a file of rollouts without a model"),
    "engine": Command("recipes.commands.engine", "make a data set of images: masks, questions, a review"),
    "data": Command("recipes.commands.data", "list, check and show datasets"),
    "bench": Command("recipes.commands.bench", "time the reward path"),
    "completion": Command("recipes.commands.completion", "print the completion script of a shell"),
}

RENAMED = {"sft": "cold-start", "validate": "ceiling"}
"""Old name of a command -> its name. The old one still works, and says so."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: arguments without the program's name; `sys.argv[1:]` when None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if asks_for_json(words):
            return as_json(words[0], lambda: _told(words))
        code = _told(words)
        sys.stdout.flush()  # here, so that a reader that has gone is noticed here
        return code
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _told(words: list[str]) -> int:
    """Run one command; what went wrong becomes a sentence and an exit code."""
    try:
        return _dispatch(words)
    except UserError as error:
        return _failed(2, "user", str(error))
    except InfrastructureError as error:
        return _failed(3, "machines", str(error))
    except KeyboardInterrupt:
        return _failed(130, "interrupted", "interrupted")


def _failed(code: int, kind: str, message: str) -> int:
    tell_error(kind, message)
    print(f"prompter: {message}", file=sys.stderr)
    return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"prompter {__version__}")
        return 0
    if words[0] in RENAMED:
        name = RENAMED[words[0]]
        print(f"prompter {words[0]} is called prompter {name} now.", file=sys.stderr)
        words = [name, *words[1:]]
    if words[0] not in COMMANDS and not is_import(words[0]):
        raise UserError(f"there is no command {words[0]!r}.{did_you_mean(words[0], COMMANDS)}")
    return _run(words[0], words[1:])


def _help() -> str:
    rows = text_table([(name, command.summary) for name, command in COMMANDS.items()])
    return "\n".join(
        [
            "usage: prompter COMMAND …        prompter COMMAND --help        prompter --version",
            "",
            "Train a vision-language model to prompt a frozen Segment Anything Model.",
            "",
            *(f"  {row}" for row in rows),
        ]
    )


def _run(name: str, words: list[str]) -> int:
    module, run = _command(name)
    parser = build_parser(name)
    if hasattr(module, "config_keys") and not {"-h", "--help"}.isdisjoint(words):
        parser.epilog = _keys(module)
    typed = shlex.join(["prompter", name, *words])
    overrides: list[str] = []
    if getattr(module, "TAKES_OVERRIDES", False):
        words, overrides = split_overrides(parser, words)
    arguments = parser.parse_args(words)
    arguments.overrides, arguments.typed = overrides, typed
    if name in COMMANDS:
        forget_json(arguments)
    from pydantic import ValidationError

    from prompter.runs.config import describe_validation_error

    try:
        return int(run(arguments))
    except ValidationError as error:
        raise UserError(describe_validation_error(error)) from None


def _keys(module: ModuleType) -> str:
    """The keys of a command's config, as the end of its help."""
    written = written_keys(module.config_keys)
    if written is None:  # a command of the user's own
        from prompter.runs.config_keys import help_text

        return help_text(module.config_keys())
    return written


def build_parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command, without the keys of its config."""
    module, _ = _command(name)
    parser = _Parser(
        prog=f"prompter {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    if name in COMMANDS and name not in WITHOUT:
        add_json(parser)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are told to programs, too."""

    def error(self, message: str) -> NoReturn:
        tell_error("user", message)
        super().error(message)


def _command(name: str) -> tuple[ModuleType, Callable[[argparse.Namespace], int]]:
    """The module of a command and its `run`; "module:run" is one of the user's own."""
    if name in COMMANDS:
        module = importlib.import_module(COMMANDS[name].module)
        return module, module.run
    run = import_object(name, "command", COMMANDS)
    module = sys.modules[name.partition(":")[0]]
    for what, found in (("", run), (" its add_arguments", getattr(module, "add_arguments", None))):
        if not callable(found):
            kind = type(found).__name__
            raise UserError(f"command {name!r}{what and ':'}{what} should be a callable, but is a {kind}.")
    return module, run


def split_overrides(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the flags that `parser` does not know out of a command line.

    They are taken out before parsing, so that the value of an override is never mistaken for a
    positional argument: `--executor.backend local CONFIG` and `CONFIG --executor.backend=local` are alike.

    Returns:
        The words left for the parser, and the overrides as "dotted.key=value".

    Raises:
        UserError: if an override has no value.
    """
    known = {option for action in parser._actions for option in action.option_strings}
    own: list[str] = []
    overrides: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            own += [word, *queue]
            break
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in known:
            own.append(word)
            continue
        if not equals:
            if not queue or queue[0].startswith("--"):
                hint = did_you_mean(flag, known) if "." not in flag else ""
                raise UserError(f"{flag} needs a value, as in {flag} VALUE.{hint}")
            value = queue.pop(0)
        overrides.append(f"{flag[2:]}={value}")
    return own, overrides


if __name__ == "__main__":
    sys.exit(main())
