"""Things chosen by name: a table for each kind, and "module:callable" for what is in no table.

Wherever a name of a `Registry` is taken, "module:callable" is taken as well, so that nobody has to
edit this package to add to it. What is in the table wins. Modules are imported when they are used.

Importing a module runs it. So such a text is resolved only where the user wrote it: on the command
line, or in the config that a command is given. Never resolve one that was read from data: a
checkpoint's `prompter.json`, a manifest, a rollout, a run folder that is only looked at.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from prompter.errors import UserError, did_you_mean
from prompter.runs.tables import text_table

T_co = TypeVar("T_co", covariant=True)

_IMPORT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Entry:
    """One line of a table: the "module:callable" behind a name, and what a listing says of it."""

    target: str
    description: str = ""


class Registry(Mapping[str, T_co]):
    """A table of one kind of thing: name -> the thing itself, imported on access.

    Args:
        what: the kind, for messages: "reward".
        entries: name -> entry.
        of: what the user's own must be an instance of; None asks for a callable.
    """

    def __init__(self, what: str, entries: Mapping[str, Entry], of: type | None = None) -> None:
        self.what, self.entries, self._of = what, dict(entries), of

    def __getitem__(self, name: str) -> T_co:
        module, _, attribute = self.entries[name].target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries  # Mapping's own would import

    def listing(self) -> str:
        """One line for each name, with its description; for `--help`."""
        rows = text_table([(name, entry.description) for name, entry in self.entries.items()])
        return "\n".join(f"  {row}" for row in rows)

    def check(self, text: str) -> None:
        """Raise UserError unless a text is a name or looks like "module:callable". Imports nothing."""
        if text not in self and not is_import(text):
            raise UserError(f"there is no {self.what} {text!r}.{did_you_mean(text, self)}")

    def resolve(self, text: str) -> T_co:
        """The thing behind a name, or behind "module:callable"; UserError if there is none of this kind."""
        self.check(text)
        if text in self:
            return self[text]
        found = import_object(text, self.what, self)
        if not (callable(found) if self._of is None else isinstance(found, self._of)):
            wanted = "a callable" if self._of is None else f"a {self._of.__name__}"
            raise UserError(f"the {self.what} {text!r} should be {wanted}, but is a {type(found).__name__}.")
        return found


def is_import(text: str) -> bool:
    """Whether a text has the form "module:callable", as in "my_package.rewards:smooth_iou"."""
    return _IMPORT.fullmatch(text) is not None


def split_head(text: str, known: Container[str], *, whole: bool = True) -> tuple[str, str | None]:
    """Cut "NAME[:REST]" or "MODULE:CALLABLE[:REST]" in two; without its colon, REST is None.

    A name in `known` ends at the first colon. Otherwise "A:B", where both could be names in Python, is
    MODULE:CALLABLE if it is `whole`, and NAME:REST if this kind of text always has a rest.
    """
    name, colon, rest = text.partition(":")
    second, more, after = rest.partition(":")
    if name not in known and is_import(f"{name}:{second}") and (whole or more):
        name, colon, rest = f"{name}:{second}", more, after
    return name, rest if colon else None


def import_object(text: str, what: str, known: Iterable[str] = ()) -> Any:
    """Import what the user wrote as "module:callable"; what its module raises passes through.

    The current folder is looked in, too, but last, so that its files hide no installed module.

    Raises:
        UserError: if the module, or something that it imports, or the name in it is missing.
    """
    name, _, attribute = text.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a console script's path does not have it
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"{what} {text!r}: its module needs {error.name!r}, which is missing.") from error
        reason, hint = f"no module {error.name!r} is installed or in this folder", did_you_mean(name, known)
    else:
        if hasattr(module, attribute):
            return getattr(module, attribute)
        reason = f"{name!r} ({getattr(module, '__file__', 'built in')}) has no {attribute!r}"
        hint = did_you_mean(attribute, [other for other in vars(module) if not other.startswith("_")])
    raise UserError(f"there is no {what} {text!r}: {reason}.{hint}")
