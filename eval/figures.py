"""Figures as text, the same in every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.bootstrap import Interval


def percent(value: float | None) -> str:
    """A share as per cent with two decimals, or a dash where there is no value."""
    return "-" if value is None else f"{100 * value:.2f}"


def number(value: float | None, digits: int) -> str:
    """A figure that is no share, with so many decimals; or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def points(value: float | None) -> str:
    """A difference of shares as points with their sign and two decimals, or a dash."""
    return "-" if value is None else f"{100 * value:+.2f}"


def points_between(interval: Interval | Sequence[float] | None) -> str:
    """An interval of a difference, (low, high) in shares, in points; or a dash."""
    if interval is None:
        return "-"
    low, high = interval.to_json() if isinstance(interval, Interval) else interval
    return f"{points(low)} to {points(high)}"


def with_interval(metric: Mapping[str, Any], by: str = "by_image") -> str:
    """A metric of `summarise` as "value [low, high]" in per cent."""
    interval = metric[by]
    if interval is None:
        return percent(metric["value"])
    return f"{percent(metric['value'])} [{percent(interval[0])}, {percent(interval[1])}]"
