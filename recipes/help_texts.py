"""The keys of configs as `--help` tells them, written down beforehand: to build the models is slow.

`python -m recipes.config_docs` writes them; a test compares them with the models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "help"
"""A text file for each set of keys, named after the command that has it first."""

_OURS = "recipes.commands."


def keys_file(config_keys: Callable[[], Any]) -> Path | None:
    """Where the keys are written down that a command's `config_keys` tells; None for a command of the user's.

    Commands that share the function share the file.
    """
    module = config_keys.__module__
    return FOLDER / f"{module.removeprefix(_OURS)}.txt" if module.startswith(_OURS) else None


def written_keys(config_keys: Callable[[], Any]) -> str | None:
    """The end of a command's help, as it was written down; None for a command of the user's."""
    path = keys_file(config_keys)
    return None if path is None else path.read_text(encoding="utf-8").rstrip("\n")
