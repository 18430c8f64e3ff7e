"""What the keys of a config model say of themselves: the texts below its fields.

Pydantic's own `use_attribute_docstrings` reads them whenever a model is defined, which was a sixth of the
time that `prompter train --help` takes; here a module is read once, and only when a text is asked for.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


def key_text(model: type[BaseModel], name: str) -> str:
    """What the field `name` of a model says of itself; "" if nothing, or where the source is not at hand.

    Its `Field(description=…)` comes first, then the text below it, then that in the class it is inherited from.
    """
    given = model.model_fields[name].description
    if given:
        return given
    for cls in model.__mro__:
        text = _texts(cls.__module__).get(cls.__qualname__, {}).get(name)
        if text:
            return text
    return ""


@cache
def _texts(module: str) -> Mapping[str, Mapping[str, str]]:
    """Qualified name of each class of a module -> its annotated names -> the text below each."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError):  # a shell, built-in
        return {}
    return dict(_classes(tree.body, ""))


def _classes(body: Sequence[ast.stmt], within: str) -> Iterator[tuple[str, dict[str, str]]]:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield within + statement.name, _below(statement.body)
            yield from _classes(statement.body, f"{within}{statement.name}.")
        elif isinstance(statement, ast.FunctionDef):
            yield from _classes(statement.body, f"{within}{statement.name}.<locals>.")


def _below(body: Sequence[ast.stmt]) -> dict[str, str]:
    """The annotated names of a class that have a text below them."""
    texts = {}
    for field, text in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            texts[field.target.id] = inspect.cleandoc(text.value.value)
    return texts
