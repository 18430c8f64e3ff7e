"""The configs that come with the package, by name: `prompter train think2seg-rs-3b`."""

from __future__ import annotations

from pathlib import Path

from prompter.errors import UserError, did_you_mean

FOLDER = Path(__file__).parent / "configs"
"""Where they are; each has a section in docs/recipes.md."""

OTHER_COMMANDS = ("cold-start", "seg-token", "elisa")
"""Beginnings of the names of configs that other commands than `prompter train` take."""


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every shipped config of `prompter train`, by name."""
    files = sorted(FOLDER.glob("*.yaml"))
    return {path.stem: path for path in files if not path.stem.startswith(OTHER_COMMANDS)}


def config_path(given: Path | str) -> Path:
    """The file that a command line means: a path, or the name of a shipped config.

    What is there as a file wins. Only a bare word, without a folder and without `.yaml`, is a name.

    Raises:
        UserError: if a bare word is neither a file nor a name.
    """
    path, known = Path(given), shipped_recipes()
    if path.is_file() or path.suffix in (".yaml", ".yml") or str(given) != path.name:
        return path
    if path.name not in known:
        raise UserError(
            f"{path.name!r} is neither a file nor a recipe that comes with Prompter."
            f"{did_you_mean(path.name, known)}"
        )
    return known[path.name]
