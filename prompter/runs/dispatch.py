"""Handing out calls to interchangeable actors: the scheduling of every pool, on Ray or on anything else.

A pool is a fixed number of slots with one actor each. Calls wait in one queue and go to an actor that
has room. An actor that dies, or is silent for too long and is killed, is replaced while restarts are
left; the calls it held are made again, by another actor first. A call that takes far longer than the
others of its run is given to an idle actor as well: the first answer counts, a later one is thrown away
and counted. The pools say which calls there are and who should get them.

What actors are, how they are started, asked and waited for, and what time it is, a
`prompter.runs.machinery.Machinery` says: `prompter.runs.actors` has Ray's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prompter.errors import InfrastructureError, UserError
from prompter.runs.machinery import ActorLost, Call, CallFailed, Machinery, PoolConfig, PoolDead

SLOW_SECONDS = 5.0
"""No call counts as slow before, however fast the others were: starting over would gain nothing."""


@dataclass(eq=False)
class _Slot:
    """A place for an actor, which outlives it."""

    number: int
    actor: Any = None  # None once it is gone and may not be replaced
    process_id: int | None = None  # None while it starts
    sign: Any = None  # reference to the sign of life waited for, of an actor that starts or was asked
    in_flight: dict[Any, Call] = field(default_factory=dict)
    given: dict[Any, float] = field(default_factory=dict)  # when each of those was
    since: float = 0.0  # since when it is waited for: nothing has come from it

    @property
    def ready(self) -> bool:
        """Whether it can be given calls."""
        return self.actor is not None and self.sign is None


class Dispatcher:
    """`config.actors` actors for one caller at a time.

    They start in the background; the first `run` waits for them.

    Args:
        machinery: what they are made of.
        config: see `PoolConfig`.
        words: what messages call the actors, their owner and its section of the config, such as
            ("actors", "executor 'box'", "executor").
        start_seconds: longest that a start may take; None waits for ever.
        retries: how often a failed call is made again before its `failure` is final. None: as long as
            there are actors if its actor died, while an exception in it is raised here.
        queue_depth: calls in flight per actor.
        side_by_side: whether an actor works on all its calls at once, or on one after the other.
        slow_factor: a call counts as slow after so many times the median of those of its run that have been
            answered, at the earliest after `slow_seconds`; None: no call is slow.

    Attributes:
        restarts: actors replaced so far.
        timeouts: those of them that were silent for too long.
        retried: calls made again so far because they failed.
        repeated: calls given to one more actor so far because they were slow.
        late: answers thrown away so far because the call had one already, or its run had ended.
    """

    def __init__(
        self,
        machinery: Machinery,
        config: PoolConfig,
        words: tuple[str, str, str],
        *,
        start_seconds: float | None = None,
        retries: int | None = None,
        queue_depth: int = 1,
        side_by_side: bool = False,
        slow_factor: float | None = None,
        slow_seconds: float = SLOW_SECONDS,
    ) -> None:
        self.machinery = machinery
        self._config, self._words = config, words
        self._start_seconds, self._retries, self._queue_depth = start_seconds, retries, queue_depth
        self._side_by_side = side_by_side
        self._slow_factor, self._slow_seconds = slow_factor, slow_seconds
        self.restarts = self.timeouts = self.retried = self.repeated = self.late = 0
        self._last_loss = ""
        self._opened = self._closed = self._running = False
        self._waiting: list[Call] = []
        self._finished: list[Call] = []
        self._seconds: list[float] = []  # that calls of this run took
        self._slots = [_Slot(number) for number in range(config.actors)]
        for slot in self._slots:
            self._start(slot)

    def wait_ready(self) -> None:
        """Return when every actor that is not gone has started.

        Raises:
            UserError, InfrastructureError: the first time, if a constructor raised or took too long, with
                the cause; the pool is then closed. Later that is a loss like any other.
            PoolDead: if no actor is left.
        """
        while any(slot.sign is not None for slot in self._slots):
            self._turn()
        self._raise_if_dead()
        self._opened = True

    def check_health(self) -> None:
        """Ask every idle actor for a sign of life; replace those that give none, or raise `PoolDead`."""
        self._raise_if_dead()
        asked = [slot for slot in self._slots if slot.ready and not slot.in_flight]
        for slot in asked:
            slot.sign = self.machinery.send(slot.actor, "process_id", ())
            slot.since = self.machinery.now()
        signs = {slot.sign for slot in asked}
        while any(slot.sign in signs for slot in self._slots):
            self._turn()
        self._raise_if_dead()

    def run(self, calls: Sequence[Call]) -> None:
        """Make all calls; each then holds its `answer` or its `failure`. Raises as `in_parts`."""
        for _ in self.in_parts(calls):
            pass

    def in_parts(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """Make all calls and yield each, once, when it holds its `answer` or its `failure`.

        Those that are there at the same time are a part.

        When an actor is lost, only what it was at has failed; calls behind that move. Actors work on while
        the caller deals with what was yielded. A caller that leaves early waits for nothing.

        Raises:
            PoolDead: if calls are left, but no actor.
            Exception: what an actor raised, if `retries` is None.
        """
        if self._running:
            raise RuntimeError(f"the {self._words[0]} of {self._words[1]} have not finished an earlier call")
        self._running = True
        left = len(calls)
        self._seconds = []
        try:
            if not self._opened:
                self.wait_ready()
            self._waiting = list(calls)
            while left:
                self._turn()
                if self._finished:
                    self._send()  # before the caller takes its time
                    part, self._finished = self._finished, []
                    left -= len(part)
                    yield part
        finally:  # something is left only when the above raised, or nobody asks for more
            for call in [*self._waiting, *(held for slot in self._slots for held in slot.in_flight.values())]:
                call.done = True
            self._waiting, self._finished, self._running = [], [], False

    def process_ids(self) -> list[int | None]:
        """Process id of each slot's actor on its node, None while it starts or when it is gone."""
        return [slot.process_id for slot in self._slots]

    def close(self) -> None:
        """End the actors. Safe to call twice."""
        self._closed = True
        for slot in self._slots:
            self._kill(slot)

    def _raise_if_dead(self) -> None:
        members, owner, section = self._words
        if self._closed:
            raise PoolDead(f"the {members} of {owner} have been ended")
        if all(slot.actor is None for slot in self._slots):
            raise PoolDead(
                f"all {len(self._slots)} {members} of {owner} are gone: the last died after {self.restarts} "
                f"others had been replaced, and the {self._config.max_restarts} restarts are used up "
                f"({section}.max_restarts; last: {self._last_loss})"
            )

    def _start(self, slot: _Slot) -> None:
        slot.actor = self.machinery.start()
        slot.sign = self.machinery.send(slot.actor, "process_id", ())
        slot.since = self.machinery.now()

    def _due(self, slot: _Slot) -> float:
        """When an actor that is waited for is given up."""
        seconds = self._start_seconds if slot.process_id is None else self._config.timeout_seconds
        return math.inf if seconds is None else slot.since + seconds

    def _turn(self) -> None:
        """Hand out what waits; then wait for one answer or timeout and deal with what came."""
        self._send()
        look_again = self._send_slow()
        busy = [slot for slot in self._slots if slot.in_flight or slot.sign is not None]
        owners = {reference: slot for slot in busy for reference in slot.in_flight or [slot.sign]}
        patience = min(look_again, *map(self._due, busy), math.inf) - self.machinery.now()
        for reference in self.machinery.wait(list(owners), max(0.0, patience)):
            slot = owners[reference]
            if reference in slot.in_flight or reference == slot.sign:  # else its actor has just been lost
                self._receive(slot, reference)
        now = self.machinery.now()
        for slot in busy:
            if (slot.in_flight or slot.sign is not None) and now >= self._due(slot):
                if slot.process_id is not None:
                    self.timeouts += 1
                    reason = f"no answer in {self._config.timeout_seconds:g} s"
                    self._lose(slot, ActorLost(reason))
                else:
                    reason = f"no start in {self._start_seconds:g} s, is Ray full?"
                    self._lose(slot, ActorLost(reason, hopeless=True))

    def _send(self) -> None:
        """Hand out waiting calls as far as there is room where they should go."""
        if not self._waiting:
            return
        self._raise_if_dead()
        free = [slot for slot in self._slots if slot.ready and len(slot.in_flight) < self._queue_depth]
        waiting, self._waiting = self._waiting, []
        for place, call in enumerate(waiting):
            if not free:
                self._waiting += waiting[place:]
                return
            choice = [slot for n in call.order if (slot := self._slots[n]).actor is not None]
            # The first among equals: the call's own order decides between them.
            best = min(
                choice or free,
                key=lambda slot: (
                    slot.number == call.avoid,
                    slot.sign is not None if choice else len(slot.in_flight),
                ),
            )
            if best not in free:
                self._waiting.append(call)
                continue
            self._give(call, best)
            if len(best.in_flight) == self._queue_depth:
                free.remove(best)

    def _give(self, call: Call, slot: _Slot) -> None:
        now = self.machinery.now()
        if not slot.in_flight:
            slot.since = now
        reference = self.machinery.send(slot.actor, call.method, call.arguments)
        slot.in_flight[reference], slot.given[reference] = call, now
        call.copies += 1

    def _began(self, slot: _Slot, reference: Any) -> float:
        """When an actor began with a call, of which it has to be the oldest unless all are worked on."""
        return slot.given[reference] if self._side_by_side else slot.since

    def _send_slow(self) -> float:
        """Give slow calls to idle actors too; returns when to look again."""
        if self._slow_factor is None or not self._seconds or self._waiting:
            return math.inf
        idle = [slot for slot in self._slots if slot.ready and not slot.in_flight]
        if not idle:
            return math.inf
        since: dict[Call, float] = {}  # since when the last of the actors that hold a call is at work
        for slot in self._slots:
            for reference, call in slot.in_flight.items():
                if not call.done:
                    since[call] = max(self._began(slot, reference), since.get(call, -math.inf))
        limit = max(self._slow_seconds, self._slow_factor * statistics.median(self._seconds))
        now = self.machinery.now()
        for call in sorted(since, key=since.__getitem__):
            if now < since[call] + limit:
                return since[call] + limit  # of those that are left, the first to become slow
            if not idle:
                break
            call.again, self.repeated = call.again + 1, self.repeated + 1
            self._give(call, idle.pop(0))
        return math.inf

    def _receive(self, slot: _Slot, reference: Any) -> None:
        """Deal with an answer, a sign of life, or the error in its place."""
        call = slot.in_flight.get(reference)
        try:
            answer = self.machinery.take(reference)
        except ActorLost as loss:
            self._lose(slot, loss)
            return
        except CallFailed as error:
            if call is None:
                self._lose(slot, ActorLost(str(error)))
                return
            self._let_go(slot, reference)
            if call.done:
                self.late += 1
            elif self._retries is None and error.cause is not None:
                raise error.cause from None
            else:
                self._fail(call, slot, str(error))
            return
        if call is None:
            slot.sign, slot.process_id, slot.since = None, answer, self.machinery.now()
            return
        began = self._began(slot, reference)
        self._let_go(slot, reference)
        if call.done:
            self.late += 1
        else:
            call.answer, call.seconds = answer, slot.since - began
            self._seconds.append(call.seconds)
            self._finish(call)

    def _let_go(self, slot: _Slot, reference: Any) -> None:
        slot.in_flight.pop(reference).copies -= 1
        del slot.given[reference]
        slot.since = self.machinery.now()

    def _lose(self, slot: _Slot, loss: ActorLost) -> None:
        """Give an actor up: replace it if restarts are left, and let its calls wait again."""
        held = list(slot.in_flight.values())
        self._kill(slot)
        self._last_loss = str(loss)
        if loss.hopeless and not self._opened:
            self.close()
            kind, _, message = self._last_loss.partition(": ")
            if kind.rpartition(".")[2] == UserError.__name__:  # Ray keeps no more than a constructor's text
                raise UserError(message)
            members, owner, _ = self._words
            raise InfrastructureError(f"the {members} of {owner} could not be started: {loss}")
        if self.restarts < self._config.max_restarts:
            self.restarts += 1
            self._start(slot)
        for place, call in enumerate(held):
            if call.done:
                self.late += 1
            elif place == 0 or self._side_by_side:
                self._fail(call, slot, self._last_loss)  # it was at this one
            elif not call.copies:
                self._waiting.append(call)

    def _fail(self, call: Call, slot: _Slot, reason: str) -> None:
        """Let a failed call wait for another actor, or note its failure when its tries are used up."""
        call.tries, call.avoid = call.tries + 1, slot.number
        if call.copies:
            return  # another actor is at it
        if self._retries is None or call.tries <= self._retries:
            self.retried += 1
            self._waiting.append(call)
        else:
            call.failure = reason
            self._finish(call)

    def _finish(self, call: Call) -> None:
        call.done = True
        self._finished.append(call)

    def _kill(self, slot: _Slot) -> None:
        if slot.actor is not None:
            self.machinery.kill(slot.actor)
        for call in slot.in_flight.values():
            call.copies -= 1
        slot.actor = slot.sign = slot.process_id = None
        slot.in_flight, slot.given = {}, {}
