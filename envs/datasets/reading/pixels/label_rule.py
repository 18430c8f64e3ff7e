"""Which values of a label image are the object: rules as text, and what they make of an image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.datasets.reading.faults import Fault
from envs.masks import Mask
from prompter.errors import UserError

_SHOWN = 8  # values in a sentence

Colours = NDArray[np.uint32]
"""Drawn colours [height, width], each 0xRRGGBB."""


@dataclass(frozen=True)
class Label:
    """A label image.

    Args:
        values: [height, width], any number type: grey values or palette indices; of several channels the
            largest.
        colours: what is drawn, for palette and colour images; None for grey ones.
        by_index: whether `values` are indices of a palette.
    """

    values: NDArray[Any]
    colours: Colours | None = None
    by_index: bool = False


@dataclass(frozen=True)
class LabelRule:
    """A parsed `ReadingRules.mask_values`."""

    text: str
    numbers: frozenset[float] = frozenset()
    colours: frozenset[int] = frozenset()
    above: float | None = None

    def target(self, label: Label, ignored: Mask) -> Mask:
        """Bool [height, width]: what the rule takes as the object; never where `ignored`.

        Raises:
            Fault: of kind "mask_values", where the rule does not decide, or NaN is among the values.
        """
        counted = ~ignored
        if self.text == "two":
            return _odd_one_out(label, counted)
        if label.values.dtype.kind == "f" and np.isnan(label.values[counted]).any():
            raise Fault("mask_values", "it holds NaN; the option mask_ignore=nan leaves those pixels out")
        if self.text == "nonzero":
            found = label.values != 0
        elif self.above is not None:
            found = label.values > self.above
        else:
            found = np.isin(label.values, sorted(self.numbers))
            if self.colours and label.colours is not None:
                found |= np.isin(label.colours, sorted(self.colours))
            elif self.colours:  # the colours of grey values
                greys = [colour & 0xFF for colour in self.colours if colour % 0x10101 == 0]
                found |= np.isin(label.values, greys)
        return np.asarray(found & counted)


@lru_cache(maxsize=64)
def parse_label_rule(text: str) -> LabelRule:
    """Read a rule as `ReadingRules.mask_values` spells it; UserError when it is none."""
    if text in ("two", "nonzero"):
        return LabelRule(text)
    try:
        if text.startswith("above:"):
            return LabelRule(text, above=float(text[6:]))
        words = [word.strip() for word in str(text).split(",")]
        colours = frozenset(int(word[1:], 16) for word in words if re.fullmatch("#[0-9a-fA-F]{6}", word))
        numbers = frozenset(float(word) for word in words if not word.startswith("#"))
    except ValueError:
        numbers = colours = frozenset()
    if (not numbers and not colours) or len(numbers) + len(colours) < len(set(words)):
        raise UserError(
            f"option 'mask_values' must be two, nonzero, above:N or values such as 1,2 or #ff0000, "
            f"but is {text!r}."
        )
    return LabelRule(text, numbers, colours)


@lru_cache(maxsize=64)
def parse_ignored(text: str | None) -> tuple[float, ...]:
    """Read `ReadingRules.mask_ignore`: numbers, NaN among them; UserError when it is something else."""
    if text is None:
        return ()
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        problem = f"option 'mask_ignore' must be numbers such as 255 or nan, but is {text!r}."
        raise UserError(problem) from None


def ignored_pixels(label: Label, values: tuple[float, ...]) -> Mask:
    """Bool [height, width]: where the label holds one of `values`."""
    found = np.isin(label.values, [value for value in values if value == value])
    if any(value != value for value in values) and label.values.dtype.kind == "f":
        found |= np.isnan(label.values)
    return found


def _odd_one_out(label: Label, counted: Mask) -> Mask:
    """The rule "two": the one value that is not zero, or the one colour that is not black."""
    values = label.values if label.colours is None else label.colours
    distinct = np.unique(values[counted])
    if label.by_index and distinct.size == 1:
        indices = np.unique(label.values[counted])
        if indices.size > 1:  # drawn alike, so that the palette says nothing
            values, distinct = label.values, indices
        elif (indices[0] != 0) != (distinct[0] != 0):  # "all object" by one, "no object" by the other
            raise Fault("mask_values", _undecided(label, distinct, True))
    if not (distinct == distinct).all() or np.count_nonzero(distinct) > 1:
        raise Fault("mask_values", _undecided(label, distinct, values is label.colours))
    return np.asarray((values != 0) & counted)


def _undecided(label: Label, distinct: NDArray[Any], are_colours: bool) -> str:
    write: Callable[[Any], str] = (lambda v: f"#{int(v):06x}") if are_colours else (lambda v: f"{v:g}")
    shown = [write(value) for value in distinct[:_SHOWN].tolist()]
    rest = f" and {distinct.size - _SHOWN} more" if distinct.size > _SHOWN else ""
    noun = "colours" if are_colours else "values"
    hint = "above:127, nonzero" if distinct.size > 3 else "nonzero"
    if are_colours and label.by_index:
        indices = np.unique(label.values)[:_SHOWN].tolist()
        rest += f", by the indices {', '.join(map(str, indices))}"
    return (
        f"it holds the {noun} {', '.join(shown)}{rest}, and which are the object is not clear; say it "
        f"with the option mask_values ({hint}, or a list such as {shown[-1]}), and with mask_ignore which "
        f"values no metric counts"
    )
