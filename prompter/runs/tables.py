"""Tables as text: in columns for a terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Lay rows out in columns; return one line per row, without spaces at its end.

    Args:
        rows: cells of one line each; all rows are equally long.
        numbers: all columns but the first are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [
            cell.rjust(width) if numbers and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; the first row is the heading.

    A cell stays one cell: a `|` in it is escaped, a line break becomes a space.
    """
    lines = []
    for row in rows:
        cells = (" ".join(cell.splitlines()).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
