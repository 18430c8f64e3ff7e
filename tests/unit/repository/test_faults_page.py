"""docs/faults.md: every row of its tables names tests, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> list[str]:
    """The rows of all tables with a column `test`, without their heads."""
    tables = re.findall(r"^\|[^\n]*\| test \|\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", PAGE, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def test_every_row_names_a_test() -> None:
    assert len(rows()) >= 15
    for row in rows():
        assert NAMED.search(row.rsplit("|", 2)[1]), row


def test_every_test_that_is_named_exists() -> None:
    for name, test in NAMED.findall(PAGE):
        texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(name)]
        assert any(re.search(rf"^ *def {test}\(", text, re.MULTILINE) for text in texts), f"{name}::{test}"
