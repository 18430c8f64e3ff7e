"""Tables line up, and a cell stays one cell."""

from __future__ import annotations

import pytest

from prompter.runs.tables import markdown_table, text_table


def test_columns_line_up_and_lines_end_without_spaces() -> None:
    rows = [["reward", "mean"], ["mask_iou", "0.5"], ["x", ""]]
    assert text_table(rows) == ["reward    mean", "mask_iou  0.5", "x"]
    assert text_table(rows, numbers=True) == ["reward    mean", "mask_iou   0.5", "x"]


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError):
        text_table([["a", "b"], ["c"]])


def test_markdown_cells_stay_in_their_column() -> None:
    lines = markdown_table([["name", "value"], ["a | b\nc", "1"]])
    assert lines == ["| name | value |", "|---|---|", "| a \\| b c | 1 |"]
