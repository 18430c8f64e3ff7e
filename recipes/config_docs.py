"""Write the keys of the configs into docs/configuration.md: `python -m recipes.config_docs`.

What stands between the two markers of a command is replaced; the rest of the page is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from prompter.runs.config_keys import config_sections, markdown
from prompter.runs.files import atomic_write
from recipes.cold_start.config import ColdStartConfig
from recipes.config import train_sections
from recipes.elisa.config import ElisaConfig
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


if __name__ == "__main__":
    text = with_keys(PAGE.read_text(encoding="utf-8"))
    with atomic_write(PAGE) as handle:
        handle.write(text)
