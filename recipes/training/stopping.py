"""Ending a run early, at a signal, with nothing lost: SIGTERM from a scheduler, SIGINT from the keyboard.

A run stops between two windows of rollouts, because a window that is half trained on cannot be resumed
exactly. What was sampled of a window that no step has used is thrown away at once; a window that steps
have used is finished first, which takes as long as its optimiser steps do, or until the grace time is over:
then the steps since the last checkpoint are given up.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback

from prompter.errors import RunStopped
from recipes.training.ranks.world import Ranks

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Listens for signals while it is entered; on the main thread only, elsewhere it hears none.

    The first signal is a request. Within `at_once` it raises `RunStopped` on the spot, outside it sets
    `signal_name`, to be looked at where the run can stop. The second signal of a run ends the process as
    if nobody listened.

    Args:
        grace_seconds: how long after the first signal a window may still be finished; None is for ever.
        told: a file into which another process, which hears signals for this one, writes a signal's name.
    """

    def __init__(self, grace_seconds: float | None = None, told: Path | None = None) -> None:
        self.signal_name: str | None = None
        self.grace_seconds = grace_seconds
        self._asked_at: float | None = None
        self._told = told
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # A handler that was not installed from Python reads as None and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it nothing is lost by stopping on the spot.

        Raises:
            RunStopped: at once if a signal came before, else when the first one comes.
        """
        self._at_once = True
        try:
            self.check()
            yield
        except SystemError:
            # What a handler raises within Ray's compiled code (`ray.wait`) arrives as this.
            self.check()
            raise
        finally:
            self._at_once = False

    def check(self) -> None:
        """Raise `RunStopped` if a signal came."""
        if (name := self.heard()) is not None:
            raise RunStopped(name)

    def heard(self) -> str | None:
        """Name of the signal that came, here or where one listens for this process; None if none did."""
        if self.signal_name is None and self._told is not None and self._told.is_file():
            self.signal_name, self._asked_at = self._told.read_text(encoding="utf-8"), time.monotonic()
        return self.signal_name

    @property
    def overdue(self) -> bool:
        """Whether a signal came and the grace time is over."""
        if self._asked_at is None or self.grace_seconds is None:
            return False
        return time.monotonic() - self._asked_at > self.grace_seconds

    def _heard(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal_name is not None:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            signal.raise_signal(number)
            return
        self.signal_name, self._asked_at = name, time.monotonic()
        if self._at_once:
            raise RunStopped(name)
        print(
            f"\nprompter: {name}: this window of rollouts is finished and saved, then the run ends; "
            "once more ends it now, with what was saved last",
            file=sys.stderr,
            flush=True,
        )


class StopBetweenWindows(TrainerCallback):
    """Saves a checkpoint and ends training after the step that ends a window, once a signal came to a rank.

    Args:
        request: listens for it.
        window: optimiser steps of one window.
        ranks: those that train together, which all stop.
    """

    def __init__(self, request: StopRequest, window: int, ranks: Ranks | None = None) -> None:
        self.request, self.window, self.ranks = request, window, ranks or Ranks()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`.

        Raises:
            RunStopped: within a window, when the grace time is over.
        """
        told = self.ranks.collect((self.request.heard(), self.request.overdue))
        name = next((one for one, _ in told if one is not None), None)
        if name is None:
            return
        self.request.signal_name = name
        if state.global_step % self.window == 0:
            control.should_save = control.should_training_stop = True
        elif any(overdue for _, overdue in told):
            self.request.check()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`.

        Raises:
            RunStopped: when the grace time is over.
        """
        # Of several ranks none may leave alone: they look after a step, together.
        if self.ranks.count == 1 and self.request.overdue:
            self.request.check()
