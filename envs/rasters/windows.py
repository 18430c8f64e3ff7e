"""Windows over a raster: a grid that depends on the file's size alone, never on the part that is asked for.

So a window shows the same pixels whatever extent is chosen, and what is found in it is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prompter.errors import UserError

Rect = tuple[int, int, int, int]
"""XYXY half-open, whole pixels of the file: columns to the right, rows down."""

MIN_OVERLAP = 16


@dataclass(frozen=True, order=True)
class Window:
    """One window.

    Args:
        row, column: its place in the grid, from 0.
        rect: what it shows, in pixels of the file.
        scale: pixels of the file, along a side, in one pixel of the window's picture.
    """

    row: int
    column: int
    rect: Rect
    scale: int = 1

    @property
    def name(self) -> str:
        """ROW_COLUMN of the grid, preceded by the scale where that is not 1."""
        place = f"{self.row:04d}_{self.column:04d}"
        return place if self.scale == 1 else f"s{self.scale}_{place}"

    @property
    def picture_wh(self) -> tuple[int, int]:
        """(width, height) of its picture."""
        x0, y0, x1, y1 = self.rect
        return (-(-(x1 - x0) // self.scale), -(-(y1 - y0) // self.scale))


@dataclass(frozen=True)
class Grid:
    """All windows of a raster at one scale.

    Args:
        wh: (width, height) of the raster.
        side: of a window's picture, pixels of the picture; a raster that is smaller is one window.
        overlap: fewest pixels of the picture that neighbours share.
        scale: as in `Window`.

    Raises:
        UserError: if the numbers do not make a grid.
    """

    wh: tuple[int, int]
    side: int = 1024
    overlap: int = 128
    scale: int = 1

    def __post_init__(self) -> None:
        if self.side < 64:
            raise UserError(f"--tile-size must be at least 64 pixels, but is {self.side}.")
        if not MIN_OVERLAP <= self.overlap <= self.side // 2:
            raise UserError(
                f"--overlap must be between {MIN_OVERLAP} and half of --tile-size ({self.side // 2}), "
                f"but is {self.overlap}: objects on a seam are told by what both sides show of them."
            )

    def __iter__(self) -> Iterator[Window]:
        """Windows row by row."""
        return self.meeting((0, 0, *self.wh))

    def meeting(self, rect: Rect) -> Iterator[Window]:
        """Windows that show a pixel of `rect`, row by row."""
        for row, (top, bottom) in enumerate(_spans(self.wh[1], self)):
            if top < rect[3] and bottom > rect[1]:
                for column, (left, right) in enumerate(_spans(self.wh[0], self)):
                    if left < rect[2] and right > rect[0]:
                        yield Window(row, column, (left, top, right, bottom), self.scale)


def _spans(length: int, grid: Grid) -> list[tuple[int, int]]:
    """Where windows begin and end along one axis: evenly apart, from edge to edge, each of full length."""
    side, stride = grid.side * grid.scale, (grid.side - grid.overlap) * grid.scale
    last = length - side
    if last <= 0:
        return [(0, length)]
    steps = -(-last // stride)
    return [(start, start + side) for start in (last * step // steps for step in range(steps + 1))]


def meets(one: Rect, other: Rect) -> bool:
    """Whether two rectangles share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def shared(one: Rect, other: Rect) -> Rect:
    """What two rectangles share; of no area where that is nothing."""
    x0, y0 = max(one[0], other[0]), max(one[1], other[1])
    return (x0, y0, max(x0, min(one[2], other[2])), max(y0, min(one[3], other[3])))


def contains(outer: Rect, inner: Rect) -> bool:
    """Whether `inner` lies in `outer`."""
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]
