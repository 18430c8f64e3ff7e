"""Write the keys of the configs into docs/configuration.md and recipes/help: `python -m recipes.config_docs`.

What stands between the two markers of a command of the page is replaced; the rest of it is written by hand.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from prompter.runs.config_keys import config_sections, help_text, markdown
from prompter.runs.files import atomic_write
from recipes.cli import COMMANDS
from recipes.cold_start.config import ColdStartConfig
from recipes.config import train_sections
from recipes.elisa.config import ElisaConfig
from recipes.help_texts import keys_file
from recipes.seg_token.config import SegTokenConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def with_keys(page: str) -> str:
    """The text of the page with the keys as they are in the code.

    Raises:
        ValueError: if the page lacks a marker.
    """
    for command, sections in (
        ("train", train_sections()),
        ("cold-start", config_sections(ColdStartConfig)),
        ("seg-token", config_sections(SegTokenConfig)),
        ("elisa", config_sections(ElisaConfig)),
    ):
        before, begin, rest = page.partition(f"<!-- keys of prompter {command} -->\n")
        _, end, after = rest.partition(f"<!-- end of the keys of prompter {command} -->\n")
        if not begin or not end:
            raise ValueError(f"the page lacks the markers of the keys of prompter {command}")
        page = f"{before}{begin}\n{markdown(sections)}\n{end}{after}"
    return page


def help_of_keys() -> dict[Path, str]:
    """File under recipes/help -> the keys for `--help` that belong in it, as they are in the code."""
    modules = [importlib.import_module(command.module) for command in COMMANDS.values()]
    told = {keys_file(one.config_keys): one.config_keys for one in modules if hasattr(one, "config_keys")}
    return {path: help_text(config_keys()) for path, config_keys in told.items() if path is not None}


if __name__ == "__main__":
    texts = {path: f"{text}\n" for path, text in help_of_keys().items()}
    texts[PAGE] = with_keys(PAGE.read_text(encoding="utf-8"))
    for path, text in texts.items():
        with atomic_write(path) as handle:
            handle.write(text)
