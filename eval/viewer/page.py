"""The viewer as a part of a page: its data, the colours of its pictures, and the names of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.report.overlays import BOX, NEGATIVE, POSITIVE, PREDICTED, TRUE
from eval.viewer.groups import Shown
from eval.viewer.images import MOST_BYTES
from eval.viewer.payload import Payload, make_payload
from prompter.runs.values import dotted

_COLOURS = {"true": TRUE, "predicted": PREDICTED, "box": BOX, "positive": POSITIVE, "negative": NEGATIVE}

_LAYERS = (
    ("true", "t", "target", f"rgb{TRUE}"),
    ("predicted", "p", "predicted", f"rgb{PREDICTED}"),
    ("prompts", "b", "boxes, points", f"rgb{BOX}"),
    ("image", "i", "image", "rgb(120,126,134)"),
)


@dataclass(frozen=True)
class Viewer:
    """What `templates/viewer.html.j2` shows.

    Args:
        payload: the data that its script reads.
        colours: name -> (red, green, blue), 0 to 255.
        layers: what can be hidden: (name, key, text, CSS colour).
    """

    payload: Payload = field(repr=False)
    colours: Mapping[str, Sequence[int]]
    layers: Sequence[tuple[str, str, str, str]]

    @property
    def notes(self) -> Sequence[str]:
        """What a reader should know of what is shown, a sentence each."""
        return self.payload.notes


def make_viewer(shown: Shown | None, most_image_bytes: int = MOST_BYTES) -> Viewer | None:
    """Read what is to be shown; None where there is nothing.

    Args:
        shown: groups, read once; or None.
        most_image_bytes: what the images may take in the page.
    """
    payload = None if shown is None else make_payload(shown, most_image_bytes)
    return None if payload is None or not payload.groups else Viewer(payload, _COLOURS, _LAYERS)


def config_changes(configs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Where configurations differ: a heading, and a row per dotted key; empty where they do not.

    Args:
        configs: name -> a resolved configuration. Several names may say the same.
    """
    flat = {name: dict(dotted(config)) for name, config in configs.items()}
    keys = dict.fromkeys(key for one in flat.values() for key in one)
    rows = []
    for key in keys:
        values = ["–" if key not in one else _text(one[key]) for one in flat.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return [["key", *flat], *rows] if rows else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
