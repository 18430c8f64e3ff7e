"""Prompter: train a vision-language model to prompt a frozen Segment Anything Model, and ask one.

    from prompter import load

    with load("shipped:small-policy", executor="mobile-sam") as p:
        p.segment("photo.jpg", "where could a helicopter land?").plot()

This package is the policy's side: what is asked, how it is answered, and how answers are read.
Importing it, or `prompter.types`, never imports torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

FACADE = {
    "load": "recipes.api.load",
    "Prompter": "recipes.api.load",
    "Result": "recipes.api.result",
    "Comparison": "recipes.api.comparison",
}
"""What this package lends its name to -> the module that holds it. They are put together from all packages,
so they live in the last of them, and are imported when they are asked for: nothing in here uses them."""


def __getattr__(name: str) -> Any:
    if name not in FACADE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(FACADE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *FACADE})
