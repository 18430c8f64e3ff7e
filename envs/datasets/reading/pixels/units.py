"""What the numbers of shapes and boxes count, by the rules in force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from envs.datasets.reading.faults import Fault
from envs.datasets.reading.rules import in_force
from prompter.types import Box

_WHOLE = {"normalized": 1.0, "percent": 100.0, "thousandths": 1000.0}
"""What stands for the whole width and height."""


def to_pixels(values: Sequence[float], wh: tuple[int, int]) -> list[float]:
    """x, y, x, y, … in the units of the rules -> pixels of an image of `wh` (width, height)."""
    whole = _WHOLE.get(in_force().units or "pixels")
    if whole is None:
        return [float(value) for value in values]
    return [float(value) / whole * wh[number % 2] for number, value in enumerate(values)]


def check_units(values: Sequence[float], wh: tuple[int, int]) -> None:
    """Refuse coordinates that look normalized where the rules do not say what they count.

    Raises:
        Fault: of kind "units", if all lie within 0 to 1, which is one pixel of an image that has more, or
            if units of a whole go beyond it by more than half.
    """
    units = in_force().units
    if units in _WHOLE:
        beyond = [value for value in values if not abs(value) <= 1.5 * _WHOLE[units]]
        if beyond:
            raise Fault("units", f"{beyond[0]:g} is beyond the {_WHOLE[units]:g} of the option units={units}")
        return
    looks_normalized = len(values) >= 4 and all(0 <= value <= 1 for value in values) and any(values)
    if units is None and looks_normalized and max(wh) > 2:
        raise Fault(
            "units",
            "its numbers all lie within 0 to 1, as shares of an image's sides do; say what they count with "
            "the option units (normalized or pixels)",
        )


def box_of(value: Any, wh: tuple[int, int] | None) -> Box:
    """Read four numbers as an XYXY half-open box in pixels; see `annotations.xyxy_box`."""
    try:
        first, second, third, fourth = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"a box must be four numbers x1, y1, x2, y2, but is {value!r}") from None
    rules = in_force()
    if wh is not None:
        check_units((first, second, third, fourth), wh)
        first, second, third, fourth = to_pixels((first, second, third, fourth), wh)
    elif rules.units in _WHOLE:
        raise ValueError(f"the option units={rules.units} does not hold for the boxes of this set")
    if rules.box_format == "xywh":
        third, fourth = first + third, second + fourth
    if math.isfinite(first + second + third + fourth) and first < third and second < fourth:
        return (first, second, third, fourth)
    fits = wh is None or (first + third <= wh[0] and second + fourth <= wh[1])
    is_size = rules.box_format is None and third > 0 and fourth > 0 and first >= 0 and second >= 0 and fits
    raise Fault(
        "units" if is_size else "unreadable",
        f"a box must be finite with x1 < x2 and y1 < y2, but is {value!r}"
        + ("; if it is a corner and a size, say so with the option box_format=xywh" if is_size else ""),
    )
