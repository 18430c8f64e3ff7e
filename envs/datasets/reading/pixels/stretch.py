"""From more than 8 bits a channel to 8, by a stated rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prompter.errors import UserError

_FORMS = "refuse, full, minmax, percentile, percentile:LOW:HIGH or range:LOW:HIGH"


@dataclass(frozen=True)
class Stretch:
    """A parsed rule; `low` and `high` are percentiles or values, as `kind` has it."""

    kind: Literal["refuse", "full", "minmax", "percentile", "range"]
    low: float = 0.0
    high: float = 0.0

    def to_bytes(self, values: NDArray[Any], nodata: float | None = None) -> NDArray[np.uint8]:
        """Map values to 0 … 255, rounded; what is outside the range is clipped.

        Args:
            values: [height, width] or [height, width, channels], any number type.
            nodata: a value that stands for "not measured"; it, NaN and infinities are left out when the
                range is found, and come out black.

        Raises:
            ValueError: if the rule is "refuse".
        """
        numbers = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        measured = np.isfinite(numbers)
        if nodata is not None:
            measured &= numbers != nodata
        low, high = self._range(values.dtype, numbers[measured])
        scaled = (np.where(measured, numbers, low) - low) * (255 / (high - low) if high > low else 0)
        return np.where(measured, np.clip(np.rint(scaled), 0, 255), 0).astype(np.uint8)

    def limits(self, values: NDArray[Any]) -> tuple[float, float]:
        """The values that become 0 and 255, found in measured values of any shape; (0, 0) if there are none.

        Raises:
            ValueError: if the rule is "refuse".
        """
        numbers = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        return self._range(values.dtype, numbers[np.isfinite(numbers)])

    def _range(self, dtype: np.dtype[Any], measured: NDArray[Any]) -> tuple[float, float]:
        if self.kind == "range":
            return self.low, self.high
        if self.kind == "full":
            return 0.0, float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
        if self.kind == "refuse":
            raise ValueError("more than 8 bits a channel are refused by the rule 'refuse'")
        if not measured.size:
            return 0.0, 0.0
        if self.kind == "minmax":
            return float(measured.min()), float(measured.max())
        low, high = np.percentile(measured, (self.low, self.high))
        return float(low), float(high)


@lru_cache(maxsize=64)
def parse_stretch(text: str) -> Stretch:
    """Read a rule as `ReadingRules.stretch` spells it; UserError naming the forms when it is none."""
    kind, *numbers = text.split(":")
    try:
        low, high = (float(number) for number in numbers) if numbers else (2.0, 98.0)
    except ValueError:
        low = high = np.nan
    if kind in ("refuse", "full", "minmax") and not numbers:
        return Stretch(kind)  # type: ignore[arg-type]  # one of the three
    if kind == "percentile" and 0 <= low < high <= 100:
        return Stretch("percentile", low, high)
    if kind == "range" and numbers and -np.inf < low < high < np.inf:
        return Stretch("range", low, high)
    raise UserError(f"option 'stretch' must be {_FORMS} with LOW below HIGH, but is {text!r}.")
