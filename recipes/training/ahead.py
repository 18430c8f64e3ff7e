"""The next window of rollouts is collected in a thread while the present one is trained on.

At the boundary between two windows, in this order: the window in flight is waited for, the new weights go
to the sampler, the next window is begun, the one that is there is trained on. So the sampler's weights
change only when nothing is sampled, and every window is of one version: the one before the weights that
are trained on it. The first window has none before it and is of the present version.

A window that is in flight when a checkpoint is written cannot be sampled again from the checkpoint's
weights, which are newer. So it is waited for and written into the checkpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from envs.sample import SampleSource
from prompter.runs.jsonl import write_lines
from recipes.training.saved_windows import read_window, window_records
from recipes.training.window import Window

FILE = "window_ahead.jsonl"
"""In a checkpoint's folder: a line about the window, one for each group, one for each rollout."""

THREAD = "rollouts"
"""Name of the thread, in logs and on the timeline."""


class WindowAhead:
    """One window at a time, collected in a thread.

    Args:
        collect: (positions in the training set, optimiser step) -> window, as `WindowCollector.collect`.
    """

    def __init__(self, collect: Callable[[list[int], int], Window]) -> None:
        self._collect = collect
        # Waited for in place of the thread: a `join` that a signal's handler breaks off by raising leaves a
        # thread that is at work marked as ended (CPython up to 3.12).
        self._idle = threading.Event()
        self._idle.set()
        self._asked: tuple[list[int], int] | None = None
        self._window: Window | None = None
        self._error: BaseException | None = None

    @property
    def step(self) -> int | None:
        """The first optimiser step of the window that was begun and not taken yet; None without one."""
        return None if self._asked is None else self._asked[1]

    def start(self, indices: Sequence[int], step: int) -> None:
        """Begin to collect the window for these positions and this step, and return.

        Raises:
            RuntimeError: if the window before it was not taken.
        """
        if self._asked is not None:
            raise RuntimeError(
                f"the window of step {self.step} was not taken, and that of {step} is asked for"
            )
        self._asked = (list(indices), step)
        self._idle.clear()
        threading.Thread(target=self._work, name=THREAD, daemon=True).start()

    def wait(self) -> None:
        """Return when nothing is in flight: sampler and segmenters are free. What was collected stays."""
        self._idle.wait()

    def check(self, indices: Sequence[int], step: int) -> None:
        """Wait for the window that was begun, if one was, and leave it for `take`: until then `save` has it.

        Raises:
            RuntimeError: if it was begun for another step or other positions.
            Exception: what collecting it raised.
        """
        if self._asked is None:
            return
        self.wait()
        if self._error is not None:
            raise self._error
        if self._asked != (list(indices), step):
            raise RuntimeError(
                f"step {step} asks positions {list(indices)} of the training set, but the window that was "
                f"sampled ahead is of step {self._asked[1]} and positions {self._asked[0]}"
            )

    def take(self, indices: Sequence[int], step: int) -> Window | None:
        """Wait for the window that was begun and return it; None if none was. Raises what `check` does."""
        self.check(indices, step)
        window, self._asked, self._window = self._window, None, None
        return window

    def save(self, folder: Path) -> None:
        """Wait for the window in flight and write it into a checkpoint's folder.

        Nothing if there is none, or if collecting it failed: what was trained is saved, and `take` says why.
        """
        self.wait()
        if self._asked is None or self._window is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        groups = window_records(self._asked[1], self._window, asked=self._asked[0])
        write_lines(folder / FILE, [*groups, *self._window.rollouts])

    def restore(self, folder: Path, source: SampleSource, step: int) -> None:
        """Go on with the window that `save` wrote into a checkpoint's folder; nothing if it wrote none.

        Args:
            folder: of the checkpoint.
            source: the training set.
            step: optimiser step after the checkpoint's.

        Raises:
            UserError: if the file is not that of a window for this step.
        """
        if not (folder / FILE).exists():
            return
        advice = "remove this checkpoint to resume from the one before"
        asked, self._window = read_window(folder / FILE, source, step=step, advice=advice)
        self._asked = (asked, step)

    def _work(self) -> None:
        assert self._asked is not None
        try:
            self._window = self._collect(*self._asked)
        except BaseException as error:  # raised on the thread that takes the window
            self._error = error
        finally:
            self._idle.set()
