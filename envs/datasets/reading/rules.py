"""The rules by which image and label files are read: options of every dataset, spelled alike.

No opener passes them on. `envs.datasets.registry.open_dataset` puts them in force while a set is opened;
a source of samples and a loader of an image keep those that were in force when they were made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from envs.datasets.reading.pixels.label_rule import parse_ignored, parse_label_rule
from envs.datasets.reading.pixels.stretch import parse_stretch

PILLOW_LIMIT = 178_956_970
"""Pixels beyond which Pillow takes an image for an attack."""


@dataclass(frozen=True)
class ReadingRules:
    """How files are read where more than one reading is possible.

    Args:
        stretch: what becomes of more than 8 bits a channel: "refuse"; "full" (0 to the type's largest
            value, 0 to 1 for floats); "minmax"; "percentile" (2 to 98) or "percentile:LOW:HIGH"; or
            "range:LOW:HIGH". The range is one for all channels, and of one image unless it is given.
        orientation: "apply" turns an image as its orientation tag says, as labelling tools do, in size and
            pixels alike; "ignore" takes it as stored.
        max_pixels: images of more pixels are refused.
        mask_values: which values of a label image are the object: "two" (the one that is not zero or
            black, refused where there are several), "nonzero", "above:N", or values separated by commas,
            each a number or a colour "#rrggbb". None is the set's own rule, "two" where it has none.
        mask_ignore: values of a label image that no metric counts, separated by commas ("nan" too).
        mask_size: what becomes of a mask of another size than its image: "refuse", or "resize" to it by
            nearest neighbour.
        empty_object: what becomes of an object whose shapes draw nothing: "refuse" it, or "keep" it empty.
        units: what coordinates count: "pixels"; "normalized" (0 to 1), "percent" or "thousandths" of width
            and height. None is pixels too, but refuses numbers that look normalized.
        box_format: "xyxy" or "xywh" (corner and size). None is "xyxy"; given, a mask may be a box as well.
    """

    stretch: str = "refuse"
    orientation: Literal["apply", "ignore"] = "apply"
    max_pixels: int = PILLOW_LIMIT
    mask_values: str | None = None
    mask_ignore: str | None = None
    mask_size: Literal["refuse", "resize"] = "refuse"
    empty_object: Literal["refuse", "keep"] = "refuse"
    units: Literal["pixels", "normalized", "percent", "thousandths"] | None = None
    box_format: Literal["xyxy", "xywh"] | None = None

    def __post_init__(self) -> None:
        parse_stretch(self.stretch)
        parse_ignored(self.mask_ignore)
        if self.mask_values is not None:
            parse_label_rule(self.mask_values)


def rule_types() -> dict[str, Any]:
    """The options that every dataset has: name -> type annotation."""
    return get_type_hints(ReadingRules)


_DEFAULT = ReadingRules()
_IN_FORCE: ContextVar[ReadingRules] = ContextVar("_IN_FORCE", default=_DEFAULT)


def in_force() -> ReadingRules:
    """The rules that hold here."""
    return _IN_FORCE.get()


@contextmanager
def applied(rules: ReadingRules) -> Iterator[None]:
    """Have `rules` hold within."""
    token = _IN_FORCE.set(rules)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)
