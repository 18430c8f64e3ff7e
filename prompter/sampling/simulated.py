"""Engines that compute nothing: the pool's own code runs for real, on a clock that skips the waiting.

`SimulatedEngines` is a `prompter.runs.machinery.Machinery`. Its clock is the driver's own time, as the
pool and its caller spend it, plus the time until the next answer wherever the pool waits. So a pool of 256
engines that take a minute a share is measured in seconds, and a driver that is too slow for them holds them
up as it would in truth. Arguments and answers are pickled, as they are on their way through Ray.
"""

from __future__ import annotations

import heapq
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from prompter.runs.machinery import ActorLost, CallFailed

Latency = Callable[[int, str, Sequence[Any]], float]
"""(engine's number, counted over all that were started; method; arguments) -> seconds at work."""

Answer = Callable[[int, str, Sequence[Any]], Any]
"""The same -> what is answered; may raise `ActorLost` or `CallFailed`."""


@dataclass(eq=False)
class _Engine:
    number: int
    free_at: float  # when it has done all it was given
    busy: float = 0.0  # seconds at work
    gone: bool = False


@dataclass(eq=False)
class _Reference:
    engine: _Engine
    ready_at: float
    answer: Any = field(repr=False)  # pickled, or the exception in its place


class SimulatedEngines:
    """Actors of a pool that answer after given seconds. See the module.

    Args:
        latency: how long a call takes; infinite is an engine that hangs.
        answer: what it gives.
        start_seconds: until an engine is ready.
        own_clock: the driver's time in seconds; a constant leaves nothing but the waiting.

    Attributes:
        engines: all that were started.
        made_up_seconds: of `own_clock`, spent on making answers up, which is not the driver's work.
    """

    def __init__(
        self,
        latency: Latency,
        answer: Answer,
        *,
        start_seconds: float = 0.0,
        own_clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._latency, self._answer, self._start_seconds = latency, answer, start_seconds
        self._own_clock = own_clock
        self._skipped = -own_clock()
        self._events: list[tuple[float, int, _Reference]] = []
        self._order = count()
        self._stored = count()
        self.made_up_seconds = 0.0
        self.engines: list[_Engine] = []

    def now(self) -> float:
        """See `Machinery.now`; starts at 0."""
        return self.driver_seconds() + self._skipped

    def driver_seconds(self) -> float:
        """Reading of `own_clock` without what was spent on making answers up."""
        return self._own_clock() - self.made_up_seconds

    def start(self) -> _Engine:
        """See `Machinery.start`."""
        self.engines.append(_Engine(len(self.engines), self.now() + self._start_seconds))
        return self.engines[-1]

    def kill(self, actor: _Engine) -> None:
        """See `Machinery.kill`."""
        actor.gone = True

    def put(self, value: Any) -> int:
        """See `Machinery.put`; the value is pickled and forgotten."""
        pickle.dumps(value)
        return next(self._stored)

    def send(self, actor: _Engine, method: str, arguments: Sequence[Any]) -> _Reference:
        """See `Machinery.send`."""
        pickle.dumps(arguments)
        began = self._own_clock()
        now = self.now()
        answer: Any
        if method == "process_id":
            seconds, answer = 0.0, 1000 + actor.number
        else:
            seconds = self._latency(actor.number, method, arguments)
            try:
                answer = pickle.dumps(self._answer(actor.number, method, arguments))
            except (ActorLost, CallFailed) as error:
                answer = error
        ready_at = max(now, actor.free_at) + seconds
        actor.free_at, actor.busy = ready_at, actor.busy + seconds
        reference = _Reference(actor, ready_at, answer)
        heapq.heappush(self._events, (ready_at, next(self._order), reference))
        self.made_up_seconds += self._own_clock() - began
        return reference

    def wait(self, references: Sequence[_Reference], seconds: float) -> Sequence[_Reference]:
        """See `Machinery.wait`: goes on at once, and the clock with it."""
        wanted = set(references)
        end = self.now() + seconds
        while self._events and (self._events[0][2] not in wanted or self._events[0][2].engine.gone):
            heapq.heappop(self._events)  # nobody asks for it any more
        arrives = self._events[0][0] if self._events else float("inf")
        if arrives > end or arrives == float("inf"):
            if end == float("inf"):
                raise RuntimeError("every engine hangs, and nobody gives up")
            self._skipped += max(0.0, end - self.now())
            return []
        self._skipped += max(0.0, arrives - self.now())
        now, ready = self.now(), []
        while self._events and self._events[0][0] <= now:
            reference = heapq.heappop(self._events)[2]
            if reference in wanted and not reference.engine.gone:
                ready.append(reference)
        return ready

    def take(self, reference: _Reference) -> Any:
        """See `Machinery.take`."""
        if isinstance(reference.answer, Exception):
            raise reference.answer
        return pickle.loads(reference.answer) if isinstance(reference.answer, bytes) else reference.answer
