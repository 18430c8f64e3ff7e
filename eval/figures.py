"""Figures as text, the same in every table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(value: float | None) -> str:
    """A share as per cent with two decimals, or a dash where there is no value."""
    return "-" if value is None else f"{100 * value:.2f}"


def with_interval(metric: Mapping[str, Any], by: str = "by_image") -> str:
    """A metric of `summarise` as "value [low, high]" in per cent."""
    interval = metric[by]
    if interval is None:
        return percent(metric["value"])
    return f"{percent(metric['value'])} [{percent(interval[0])}, {percent(interval[1])}]"
