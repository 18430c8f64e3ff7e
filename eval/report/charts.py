"""Charts as inline SVG: no script, no font, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

CHART_PALETTE = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#ca8a04", "#475569")


_CHARACTER, _LEGEND_GAP = 6.6, 22
"""Pixels that a character of a legend takes, and what stands between two entries."""


@dataclass(frozen=True)
class Series:
    """A line or a row of marks.

    Args:
        name: shown in the legend.
        points: (x, y), by x; a y of None is a gap.
        style: "line", "faint" (thin, pale line), or "marks" (dots joined by a dashed line).
        colour: CSS colour; by position when empty.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    style: str = "line"
    colour: str = ""


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
) -> str:
    """A chart of lines over a shared x axis, as an `<svg>` element.

    Series without a number are left out; the string is empty if none is left.
    """
    shown = [one for one in series if any(y is not None for _, y in one.points)]
    if not shown:
        return ""
    xs = [x for one in shown for x, y in one.points if y is not None]
    ys = [y for one in shown for _, y in one.points if y is not None]
    low, high = y_range or (min(ys), max(ys))
    y_ticks = ticks(low, high if high > low else low + max(abs(low) * 0.1, 1e-6))
    x_low, x_high = min(xs), max(xs)
    x_ticks = [t for t in ticks(x_low, x_high if x_high > x_low else x_low + 1, 8) if x_low <= t <= x_high]
    left, right, bottom = 52, 16, 40
    legend_width = sum(_LEGEND_GAP + _CHARACTER * len(one.name) for one in shown) if len(shown) > 1 else 0.0
    # A legend that would run into the title gets a line of its own.
    legend_y = 18 if left + 1.2 * _CHARACTER * len(title) + legend_width <= width - right else 36
    top = legend_y + 20

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f'<text class="chart-title" x="{left}" y="18">{escape(title)}</text>',
    ]
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = place(tick, y_ticks[0])[0]
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(
        f'<text class="tick" x="{(left + width - right) / 2}" y="{height - 6}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
    )
    legend_x = float(width - right)
    for index, one in reversed(list(enumerate(shown))):
        colour = one.colour or CHART_PALETTE[index % len(CHART_PALETTE)]
        parts.append(_marks(one, colour, place))
        if len(shown) > 1:
            legend_x -= _LEGEND_GAP + _CHARACTER * len(one.name)
            opacity = 0.35 if one.style == "faint" else 1
            parts.append(
                f'<circle cx="{legend_x:.0f}" cy="{legend_y - 4}" r="5" fill="{colour}" opacity="{opacity}"/>'
            )
            parts.append(
                f'<text class="tick" x="{legend_x + 9:.0f}" y="{legend_y}">{escape(one.name)}</text>'
            )
    parts.append("</svg>")
    return "".join(parts)


def _marks(one: Series, colour: str, place: Callable[[float, float], tuple[float, float]]) -> str:
    """The path of a series (with gaps) and its dots, if it has any."""
    path, pen = [], "M"
    dots = []
    for x, y in one.points:
        if y is None:
            pen = "M"
            continue
        px, py = place(x, y)
        path.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L"
        if one.style == "marks":
            dots.append(
                f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="4.5" fill="{colour}">'
                f"<title>{escape(one.name)} at {x:g}: {y:.4g}</title></circle>"
            )
    look = {
        "line": 'stroke-width="2.2"',
        "faint": 'stroke-width="1" opacity="0.35"',
        "marks": 'stroke-width="1.5" stroke-dasharray="5 4"',
    }[one.style]
    line = f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-linejoin="round" {look}/>'
    return line + "".join(dots)


def bar_chart(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]], *, title: str, width: int = 860
) -> str:
    """Horizontal bars of values in [0, 1], with intervals, as an `<svg>` element.

    Args:
        rows: (label, value, interval or None), drawn from top to bottom.
    """
    if not rows:
        return ""
    left = 20 + min(360, round(6.8 * max(len(label) for label, _, _ in rows)))
    height, top, right = 34 + 26 * len(rows), 30, 64
    length = width - left - right
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f'<text class="chart-title" x="0" y="16">{escape(title)}</text>',
    ]
    for index, (label, value, interval) in enumerate(rows):
        y = top + 26 * index
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>'
        )
        bar = max(0.0, min(1.0, value)) * length
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{bar:.1f}" height="18" rx="3" fill="{CHART_PALETTE[0]}"/>'
        )
        end = bar
        if interval is not None:
            x1, x2 = (left + max(0.0, min(1.0, limit)) * length for limit in interval)
            end = max(bar, x2 - left)
            parts.append(f'<line class="whisker" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y + 11}" y2="{y + 11}"/>')
        parts.append(f'<text class="tick" x="{left + end + 7:.1f}" y="{y + 15}">{100 * value:.1f}</text>')
    parts.append("</svg>")
    return "".join(parts)
