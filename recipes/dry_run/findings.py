"""What a dry run found, and how it is printed."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from envs.assets import NotFetched
from prompter.errors import UserError

State = Literal["ok", "not here", "wrong"]
"""`not here` is what this machine lacks and another, or the hub, may have; `wrong` would end the run."""


class NotHere(UserError):
    """What a check needs is not on this machine. The message says what, and where it would come from."""


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Args:
        what: the part of the run, such as "policy".
        state: see `State`.
        says: what was found, a sentence or a few words.
    """

    what: str
    state: State
    says: str


def checked(what: str, check: Callable[[], str]) -> Finding:
    """Run a check: what it returns is what was found; `NotHere` and `UserError` are the other two states."""
    try:
        return Finding(what, "ok", check())
    except UserError as error:
        state: State = "not here" if any(_lacking(one) for one in _chain(error)) else "wrong"
        return Finding(what, state, " ".join(str(error).partition("\n")[0].split()).rstrip("."))


def table(findings: Sequence[Finding]) -> str:
    """The findings in columns, long sentences wrapped, and a last line that counts them."""
    first = max(len(one.what) for one in findings)
    states = max(len(one.state) for one in findings)
    width = max(shutil.get_terminal_size((110, 24)).columns, first + states + 44)
    lines = []
    for one in findings:
        start = f"{one.what.ljust(first)}  {one.state.ljust(states)}  "
        wrapped = textwrap.wrap(one.says, width - len(start), break_on_hyphens=False) or [""]
        lines += [start + wrapped[0], *(" " * len(start) + more for more in wrapped[1:])]
    counts = {state: sum(one.state == state for one in findings) for state in ("ok", "not here", "wrong")}
    lines += ["", f"{counts['ok']} ok, {counts['not here']} not here, {counts['wrong']} wrong"]
    return "\n".join(line.rstrip() for line in lines)


def _lacking(error: BaseException) -> bool:
    return isinstance(error, NotHere | NotFetched)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was made from."""
    while error is not None:
        yield error
        error = error.__cause__
