"""The keys of configs as `--help` tells them, written down beforehand: to build the models is slow.

`python -m recipes.config_docs` writes them; a test compares them with the models.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "help"
"""A text file for each command with a config."""


def written_keys(command: str) -> str | None:
    """The end of a command's help, as it was written down; None for a command that is not in our table."""
    path = FOLDER / f"{command}.txt"
    return path.read_text(encoding="utf-8").rstrip("\n") if path.exists() else None
