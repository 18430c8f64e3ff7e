"""When each part of a run began and ended, and who did it: seconds per step, and events for a timeline."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

_UNIX_ZERO = time.time() - time.perf_counter()
"""Unix time at which `time.perf_counter` was 0. Taken once: a clock that is set back meanwhile would else
make phases of negative length."""


@dataclass(frozen=True)
class PhaseEvent:
    """One stretch of work: a line of a run folder's `timeline.jsonl`.

    Args:
        phase: what was done, such as "sample".
        who: by whom, such as "trainer"; what one does follows one after the other or is nested.
        start_s, end_s: Unix time in seconds.
        step: first optimiser step of the window that it was done for; 0 is before the first.
    """

    phase: str
    who: str
    start_s: float
    end_s: float
    step: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, times rounded to a tenth of a millisecond."""
        return {**asdict(self), "start_s": round(self.start_s, 4), "end_s": round(self.end_s, 4)}


class PhaseTimes:
    """Adds up wall seconds by phase, and remembers each phase's begin and end. Threads may share one.

    Use `with times("sample", step): …`; `take` returns the sums and `take_events` the events, and both
    start afresh.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._maker = threading.current_thread()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[PhaseEvent] = []

    @contextmanager
    def __call__(self, phase: str, step: int = 0) -> Iterator[None]:
        """Measure what is done within, also if that raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.record(phase, started, time.perf_counter(), step)

    def record(self, phase: str, started: float, ended: float, step: int = 0, who: str | None = None) -> None:
        """Add a phase measured elsewhere.

        Args:
            phase, step: as in `PhaseEvent`.
            started, ended: of `time.perf_counter` in this process.
            who: None names the present thread; the one that made this is the "trainer".
        """
        if who is None:
            thread = threading.current_thread()
            who = "trainer" if thread is self._maker else thread.name
        event = PhaseEvent(phase, who, _UNIX_ZERO + started, _UNIX_ZERO + ended, step)
        with self._lock:
            self._seconds[phase] += ended - started
            self._events.append(event)

    def add(self, phase: str, seconds: float) -> None:
        """Add seconds measured elsewhere, of which nobody knows when they were."""
        with self._lock:
            self._seconds[phase] += seconds

    def take(self) -> dict[str, float]:
        """Return phase -> seconds since the last call."""
        with self._lock:
            taken = {phase: round(seconds, 4) for phase, seconds in self._seconds.items()}
            self._seconds.clear()
        return taken

    def take_events(self) -> list[PhaseEvent]:
        """Return the events since the last call, in the order of their ends."""
        with self._lock:
            taken, self._events = self._events, []
        return taken
