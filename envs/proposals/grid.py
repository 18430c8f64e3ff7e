"""Points spread evenly over an image or a part of it, as prompts."""

from __future__ import annotations

from collections.abc import Sequence

from prompter.types import Box, Instance, Point


def grid_points(box: Box, columns: int, rows: int) -> list[Point]:
    """The centres of `columns` x `rows` equal cells of a box, row by row.

    For the whole image and as many columns as rows these are the points of
    `segment_anything.utils.amg.build_point_grid`, scaled to pixels.

    Args:
        box: XYXY, half-open, pixels.
        columns, rows: at least 1 each.

    Returns:
        `columns` * `rows` points (x, y) in pixels.

    Raises:
        ValueError: if there is no column or row, or the box has no area.
    """
    left, top, right, bottom = box
    if columns < 1 or rows < 1:
        raise ValueError(f"a grid needs at least one column and row, but got {columns} x {rows}")
    if right <= left or bottom <= top:
        raise ValueError(f"a grid needs a box with x2 > x1 and y2 > y1, but got {box}")
    width, height = (right - left) / columns, (bottom - top) / rows
    return [
        (left + (column + 0.5) * width, top + (row + 0.5) * height)
        for row in range(rows)
        for column in range(columns)
    ]


def image_grid(image_wh: tuple[int, int], side: int) -> list[Instance]:
    """`side` x `side` single-point prompts over a whole image of (width, height) pixels."""
    width, height = image_wh
    return point_prompts(grid_points((0.0, 0.0, float(width), float(height)), side, side))


def point_prompts(points: Sequence[Point]) -> list[Instance]:
    """One prompt of one positive point for each point."""
    return [Instance(positive_points=(point,)) for point in points]
