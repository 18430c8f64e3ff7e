"""Errors that end a command with a sentence, and "did you mean" for names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input from the user. The message is one sentence: what is wrong, where, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class InfrastructureError(RuntimeError):
    """Actors or engines cannot be started, or died too often to be replaced. What was saved is whole.

    The command line prints the message without a traceback and exits with code 3.
    """


class RunStopped(BaseException):
    """A run was asked to stop and did so with nothing lost. The command line says how to go on: exit code 0.

    It may come up anywhere, like KeyboardInterrupt, so it is no `Exception`: nobody takes it for a fault.

    Args:
        signal_name: what asked, such as "SIGTERM".
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name


def did_you_mean(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """Return " Did you mean 'x'?" or " Known: a, b, c." to append to a message about `name`.

    `listed` False leaves out the list: where nothing is near it returns "".
    """
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(choices)}." if choices and listed else ""
