"""Charts as inline SVG: no script, no font, nothing fetched. Geometry is here, drawing in the templates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Any, Literal

from markupsafe import Markup

from eval.report.html import from_template

CHART_PALETTE = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#ca8a04", "#475569")


_CHARACTER, _LEGEND_GAP = 6.6, 22
"""Pixels that a character of a legend takes, and what stands between two entries."""

_LEGEND_LINE = 18
"""Pixels from one row of a legend to the next."""


@dataclass(frozen=True)
class Series:
    """A line or a row of marks.

    Args:
        name: shown in the legend.
        points: (x, y), by x; a y of None is a gap.
        style: "line", "faint" (thin, pale line), or "marks" (dots joined by a dashed line).
        colour: CSS colour; by position when empty.
        limits: an interval for each of the points, or None; drawn as a whisker where marks are.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    style: Literal["line", "faint", "marks"] = "line"
    colour: str = ""
    limits: Sequence[tuple[float, float] | None] = ()


def smoothed(values: Sequence[float | None], window: int) -> list[float | None]:
    """Running mean over the last `window` values that are not None."""
    result: list[float | None] = []
    kept: list[float] = []
    for value in values:
        if value is not None:
            kept = [*kept, value][-window:]
        result.append(sum(kept) / len(kept) if kept else None)
    return result


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-12)
    raw = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    width: int = 860,
    height: int = 300,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """A chart of lines over a shared x axis, as an `<svg>` element.

    Series without a number are left out; the string is empty if none is left.
    """
    shown = [one for one in series if any(y is not None for _, y in one.points)]
    if not shown:
        return Markup()
    xs = [x for one in shown for x, y in one.points if y is not None]
    ys = [y for one in shown for _, y in one.points if y is not None]
    ys += [limit for one in shown for limits in one.limits if limits is not None for limit in limits]
    low, high = y_range or (min(ys), max(ys))
    y_ticks = ticks(low, high if high > low else low + max(abs(low) * 0.1, 1e-6))
    x_low, x_high = min(xs), max(xs)
    x_ticks = [t for t in ticks(x_low, x_high if x_high > x_low else x_low + 1, 8) if x_low <= t <= x_high]
    left, right, bottom = 52, width - 16, height - 40
    widths = [_LEGEND_GAP + _CHARACTER * len(one.name) for one in shown]
    # A legend that would run into the title begins below it.
    beside_title = len(shown) == 1 or left + 1.2 * _CHARACTER * len(title) + sum(widths) <= right
    legend = _legend_places(widths, left, right, _LEGEND_LINE if beside_title else 2 * _LEGEND_LINE)
    top = legend[-1][1] + 20

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    lines = []
    for index, one in reversed(list(enumerate(shown))):
        legend_x, legend_y = legend[index]
        colour = one.colour or CHART_PALETTE[index % len(CHART_PALETTE)]
        look = {"style": one.style, "colour": colour, "legend_x": legend_x, "legend_y": legend_y}
        lines.append({**_marks(one, place), **look})
    return from_template(
        "line_chart.svg",
        title=title,
        x_label=x_label,
        width=width,
        height=height,
        left=left,
        right=right,
        bottom=bottom,
        x_ticks=[(place(tick, y_ticks[0])[0], f"{tick:g}") for tick in x_ticks],
        y_ticks=[(place(x_low, tick)[1], f"{tick:g}") for tick in y_ticks],
        lines=lines,
    )


def _legend_places(widths: Sequence[float], left: float, right: float, y: int) -> list[tuple[float, int]]:
    """Where each entry of a legend stands, (x, y): in rows that end at the right, the first at `y`.

    A row is begun where the next entry would not fit between `left` and `right`.
    """
    rows: list[list[float]] = [[]]
    for width in widths:
        if rows[-1] and sum(rows[-1]) + width > right - left:
            rows.append([])
        rows[-1].append(width)
    return [
        (right - sum(row[first:]), y + _LEGEND_LINE * number)
        for number, row in enumerate(rows)
        for first in range(len(row))
    ]


def _marks(one: Series, place: Callable[[float, float], tuple[float, float]]) -> dict[str, Any]:
    """The path of a series (with gaps) and its dots with what they stand for, if it has any."""
    path, pen = [], "M"
    dots: list[tuple[float, float, str]] = []
    whiskers: list[tuple[float, float, float]] = []
    for (x, y), limits in zip_longest(one.points, one.limits):
        if y is None:
            pen = "M"
            continue
        px, py = place(x, y)
        path.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L"
        if one.style == "marks":
            dots.append((px, py, f"{x:g}: {y:.4g}" + (" [{:.4g}, {:.4g}]".format(*limits) if limits else "")))
            if limits is not None:
                whiskers.append((px, place(x, limits[0])[1], place(x, limits[1])[1]))
    return {"name": one.name, "path": "".join(path), "dots": dots, "whiskers": whiskers}


def waterfall(before: float, parts: Sequence[tuple[str, float, str]], after: float, *, title: str) -> Markup:
    """How changes lead from one level to another, as horizontal bars in an `<svg>` element.

    Args:
        before, after: the levels, in [0, 1].
        parts: (label, change, its text), drawn from top to bottom, each from where the last one ends.
        title: above the bars.
    """
    levels = list(accumulate((change for _, change, _ in parts), initial=before))
    steps = [("before", 0.0, before, f"{100 * before:.2f}", "whole")]
    for (label, change, text), start, end in zip(parts, levels, levels[1:], strict=False):
        steps.append((label, min(start, end), max(start, end), text, "good" if change >= 0 else "bad"))
    steps.append(("after", 0.0, after, f"{100 * after:.2f}", "whole"))
    width, left, right, top, pitch = 860, 110, 70, 30, 26
    # A part may lead below 0 where the next one makes up for it.
    lowest = min(low for _, low, _, _, _ in steps)
    span = max(max(high for _, _, high, _, _ in steps) - lowest, 1e-6)

    def across(value: float) -> float:
        return left + (value - lowest) / span * (width - left - right)

    return from_template(
        "waterfall.svg",
        title=title,
        width=width,
        height=top + pitch * len(steps) + 4,
        left=left,
        pitch=pitch,
        links=[across(level) for level in levels],
        bars=[
            {
                "label": label,
                "text": text,
                "tone": tone,
                "y": top + pitch * index,
                "x": across(low),
                "length": max(across(high) - across(low), 1.0),  # a change of nothing is a hairline
                "end": across(high),
            }
            for index, (label, low, high, text, tone) in enumerate(steps)
        ],
    )


def bar_chart(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]], *, title: str, width: int = 860
) -> Markup:
    """Horizontal bars of values in [0, 1], with intervals, as an `<svg>` element.

    Args:
        rows: (label, value, interval or None), drawn from top to bottom.
    """
    if not rows:
        return Markup()
    left = 20 + min(360, round(6.8 * max(len(label) for label, _, _ in rows)))
    height, top, right = 34 + 26 * len(rows), 30, 64
    length = width - left - right
    bars = []
    for index, (label, value, interval) in enumerate(rows):
        bar = max(0.0, min(1.0, value)) * length
        whisker = None
        if interval is not None:
            whisker = tuple(left + max(0.0, min(1.0, limit)) * length for limit in interval)
        bars.append(
            {
                "label": label,
                "value": f"{100 * value:.1f}",
                "y": top + 26 * index,
                "length": bar,
                "whisker": whisker,
                "end": max(left + bar, whisker[1] if whisker else 0.0),
            }
        )
    return from_template(
        "bar_chart.svg",
        title=title,
        width=width,
        height=height,
        left=left,
        bars=bars,
        colour=CHART_PALETTE[0],
    )
