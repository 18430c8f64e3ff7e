"""Print a script with which a shell completes commands, flags, config keys and the names of things.

    source <(prompter completion bash)        in ~/.bashrc
    eval "$(prompter completion zsh)"         in ~/.zshrc, after compinit
    prompter completion fish | source         in ~/.config/fish/config.fish

It is made from the commands' own parsers, so print it again after an update.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from envs.datasets.registry import known_datasets
from envs.executors.config import SEGMENTER_FAMILIES
from prompter.errors import UserError
from recipes.commands.output import WITHOUT, add_json

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's argument."""
    parser.add_argument("shell", choices=SHELLS, help="whose script to print")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; return 0."""
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs the package shtab: pip install shtab, or make setup.") from None

    # Else bash would take what stands after the colon of NAME:SPLIT for a word of its own.
    preamble = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}" if arguments.shell == "bash" else ""
    print(shtab.complete(whole_parser(arguments.shell), shell=arguments.shell, preamble=preamble))
    return 0


def whole_parser(shell: str) -> argparse.ArgumentParser:
    """All commands as one parser, with config keys as flags and choices where the values are known.

    Args:
        shell: the one that will read them; zsh wants colons escaped.
    """
    from recipes.cli import COMMANDS

    parser = argparse.ArgumentParser(prog="prompter", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, (module_name, summary) in COMMANDS.items():
        module = importlib.import_module(module_name)
        command = commands.add_parser(name, help=summary, allow_abbrev=False)
        module.add_arguments(command)
        if name not in WITHOUT:
            add_json(command)
        for section in module.config_keys() if hasattr(module, "config_keys") else ():
            for key in section.keys:
                says = key.says.replace("%", "%%")
                command.add_argument(f"--{key.name}", choices=key.choices or None, help=says)
        _name_values(command, "\\:" if shell == "zsh" else ":")
    return parser


def _name_values(parser: argparse.ArgumentParser, colon: str) -> None:
    """Say what the values of a command's arguments may be, for completion only."""
    import shtab

    names = known_datasets()
    choices = {
        "benchmark": [
            f"{name}{colon}{split}" for name, info in names.items() for split in info.splits or ("all",)
        ],
        "executor": list(SEGMENTER_FAMILIES),
        "dataset.name": list(names),
        "eval.dataset": list(names),
    }
    for action in parser._actions:
        action.metavar = None  # a colon in it would end it in zsh
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _name_values(inner, colon)
        elif action.dest in choices and action.help != argparse.SUPPRESS:
            action.choices = choices[action.dest]
        elif action.type is Path or action.dest == "root":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
