"""docs/cases.md: every row names tests, and every test that it names exists."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.fixtures.foreign_images import IMAGE_KINDS
from tests.fixtures.foreign_masks import MASK_KINDS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "cases.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)(?:\[([^\]]+)\])?`")
SECTIONS = ("Answers", "Images", "Masks and shapes", "Sets", "Training")


def rows(section: str) -> list[str]:
    """The rows of a section's table, without its head."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_names_a_test(section: str) -> None:
    assert len(rows(section)) >= 3
    for row in rows(section):
        assert NAMED.search(row.rsplit("|", 2)[1]), row


def test_every_test_that_is_named_exists() -> None:
    files: dict[str, list[Path]] = defaultdict(list)
    for path in (ROOT / "tests").rglob("test_*.py"):
        files[path.name].append(path)
    for name, test, kind in NAMED.findall(PAGE):
        texts = [path.read_text(encoding="utf-8") for path in files[name]]
        assert any(re.search(rf"^ *def {test}\(", text, re.MULTILINE) for text in texts), f"{name}::{test}"
        assert not kind or kind in {**IMAGE_KINDS, **MASK_KINDS}, kind
    named = {kind for _, _, kind in NAMED.findall(PAGE) if kind}
    assert named == IMAGE_KINDS.keys() | MASK_KINDS.keys(), "kinds of generated files without a row"
