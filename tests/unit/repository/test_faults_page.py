"""docs/faults.md: every row names tests that exist, and says how much was lost."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_every_row_names_tests_that_exist_and_what_was_lost() -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    tables = [line for line in page.splitlines() if line.startswith("|")]
    rows = [line for line in tables if NAMED.search(line)]
    sections = page.count("\n## ")
    assert sections and len(rows) == len(tables) - 2 * sections, "a table of its own, and a test in each row"
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 6 and all(cells) and cells[4].startswith("0"), row
        for name, test in NAMED.findall(row):
            files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob(name)]
            found = [text for text in files if re.search(rf"^def {test}\(", text, re.MULTILINE)]
            assert found, f"{name}::{test}"
