"""Ray actors that do the same work and stand in for each other: what every pool of them shares.

A pool is a fixed number of slots with one actor each. Calls wait in one queue and go to an actor that
has room. An actor that dies, or is silent for too long and is killed, is replaced while restarts are
left; the calls it held are made again, by another actor first. The pools say which calls there are
and who should get them.

Ray restarts actors and repeats calls by itself (`max_restarts`, `max_task_retries`). That is not used,
because Ray sends a call to the same actor again: it waits until the constructor has run once more
(minutes for an engine) while others stand idle, and a call that kills its actor kills the next one.
Ray also never gives up on an actor that hangs, limits restarts per actor and not per pool, and counts
neither restarts nor repeated calls.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError

from prompter.errors import InfrastructureError, UserError
from prompter.runs.placement import Placement, placement_options
from prompter.runs.ray_runtime import check_room


class PoolConfig(Protocol):
    """The keys that every pool's section of a config has, by the same names."""

    actors: int
    num_cpus: float
    num_gpus: float
    placement: Placement
    max_restarts: int
    timeout_seconds: Any  # seconds; None, where a section allows it, waits for ever


class PoolDead(InfrastructureError):
    """Every actor is gone and none may be started again. Nothing that was saved before is touched."""


class PooledActor:
    """What the class of a pool's actors inherits from."""

    def process_id(self) -> int:
        """Id of this process on its node; that it answers is the sign of life."""
        return os.getpid()


@dataclass(eq=False)
class Call:
    """One call of an actor's method, by whichever actor is chosen, and in the end its answer.

    `order` numbers all slots by falling preference, and the best living one is waited for; without it,
    any actor that has room is taken.
    """

    method: str
    arguments: Sequence[Any]
    order: Sequence[int] = ()
    answer: Any = None
    failure: str | None = None  # why there is no answer, on one line
    tries: int = 0  # how often it has failed
    avoid: int | None = None  # slot that it failed in last, taken again only if there is no other


@dataclass(eq=False)
class _Slot:
    """A place for an actor, which outlives it."""

    number: int
    actor: Any = None  # None once it is gone and may not be replaced
    process_id: int | None = None  # None while it starts
    sign: Any = None  # reference to the sign of life waited for, of an actor that starts or was asked
    in_flight: dict[Any, Call] = field(default_factory=dict)
    due: float = math.inf  # when (`time.monotonic`) it is given up, if something is waited for


class ActorPool:
    """`config.actors` actors of one class, for one caller at a time.

    They start in the background; the first `run` waits for them.

    Args:
        actor: a `PooledActor`, not decorated.
        arguments: for its constructor.
        config: see `PoolConfig`.
        words: what messages call the actors, their owner and its section of the config, such as
            ("actors", "executor 'box'", "executor").
        environment: variables set in the actors' processes.
        start_seconds: longest that a start may take; None waits for ever.
        retries: how often a failed call is made again before its `failure` is final. None: as long as
            there are actors if its actor died, while an exception in it is raised here.
        queue_depth: calls in flight per actor.

    Attributes:
        restarts: actors replaced so far.
        retried: calls made again so far because they failed.

    Raises UserError as `check_room` and `placement_options`.
    """

    def __init__(
        self,
        actor: type[PooledActor],
        arguments: Sequence[Any],
        config: PoolConfig,
        words: tuple[str, str, str],
        *,
        environment: Mapping[str, str],
        start_seconds: float | None = None,
        retries: int | None = None,
        queue_depth: int = 1,
    ) -> None:
        check_room(config.actors, config.num_cpus, config.num_gpus, words[0], words[2])
        options = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus, "max_restarts": 0}
        options |= placement_options(config.placement, words[0], words[2])
        processes = {"env_vars": dict(environment)} if environment else None
        remote = ray.remote(actor).options(**options, runtime_env=processes)
        self._create = lambda: remote.remote(*arguments)
        self._config, self._words = config, words
        self._start_seconds, self._retries, self._queue_depth = start_seconds, retries, queue_depth
        self.restarts, self.retried, self._last_loss = 0, 0, ""
        self._opened = self._closed = False
        self._waiting: list[Call] = []
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
        asked = [slot for slot in self._slots if slot.actor is not None and slot.sign is None]
        for slot in asked:
            slot.sign, slot.due = slot.actor.process_id.remote(), _after(self._config.timeout_seconds)
        signs = {slot.sign for slot in asked}
        while any(slot.sign in signs for slot in self._slots):
            self._turn()
        self._raise_if_dead()

    def run(self, calls: Sequence[Call]) -> None:
        """Make all calls; each then holds its `answer` or its `failure`.

        When an actor is lost, only the call it was at has failed; those behind it move.

        Raises:
            PoolDead: if calls are left, but no actor.
            Exception: what an actor raised, if `retries` is None.
        """
        if not self._opened:
            self.wait_ready()
        self._waiting = list(calls)
        try:
            while self._waiting or any(slot.in_flight for slot in self._slots):
                self._turn()
        finally:  # something is left only when the above raised
            self._waiting = []
            for slot in self._slots:
                slot.in_flight.clear()

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
        slot.actor = self._create()
        slot.sign, slot.due = slot.actor.process_id.remote(), _after(self._start_seconds)

    def _turn(self) -> None:
        """Hand out what waits; then wait for one answer or timeout and deal with what came."""
        self._send()
        busy = [slot for slot in self._slots if slot.in_flight or slot.sign is not None]
        owners = {reference: slot for slot in busy for reference in slot.in_flight or [slot.sign]}
        patience = min(slot.due for slot in busy) - time.monotonic()
        ready, _ = ray.wait(list(owners), timeout=None if patience == math.inf else max(0.0, patience))
        for reference in ready:
            self._receive(owners[reference], reference)
        for slot in [slot for slot in busy if time.monotonic() >= slot.due]:
            if slot.process_id is not None:
                self._lose(slot, f"no answer in {self._config.timeout_seconds:g} s", hopeless=False)
            else:
                self._lose(slot, f"no start in {self._start_seconds:g} s, is Ray full?", hopeless=True)

    def _send(self) -> None:
        """Hand out waiting calls as far as there is room where they should go."""
        if self._waiting:
            self._raise_if_dead()
        for call in list(self._waiting):
            ready = [slot for slot in self._slots if slot.actor is not None and slot.sign is None]
            free = [slot for slot in ready if len(slot.in_flight) < self._queue_depth]
            if not free:
                return
            choice = [slot for n in call.order if (slot := self._slots[n]).actor is not None] or free
            # The first among equals: the call's own order decides between them.
            best = min(choice, key=lambda slot: (slot.number == call.avoid, slot.sign is not None))
            if best in free:
                self._waiting.remove(call)
                if not best.in_flight:
                    best.due = _after(self._config.timeout_seconds)
                best.in_flight[getattr(best.actor, call.method).remote(*call.arguments)] = call

    def _receive(self, slot: _Slot, reference: Any) -> None:
        """Deal with an answer, a sign of life, or the error in its place."""
        call = slot.in_flight.get(reference)
        try:
            answer = ray.get(reference)
        except RayError as error:
            if call is None or isinstance(error, RayActorError):
                self._lose(slot, _cause(error), hopeless=getattr(error, "actor_init_failed", False))
                return
            if self._retries is None:
                raise getattr(error, "cause", error) from None
            self._fail(call, slot, _cause(error))
        else:
            if call is None:
                slot.sign, slot.process_id = None, answer
            else:
                call.answer = answer
        slot.in_flight.pop(reference, None)
        slot.due = _after(self._config.timeout_seconds)

    def _lose(self, slot: _Slot, reason: str, *, hopeless: bool) -> None:
        """Give an actor up: replace it if restarts are left, and let its calls wait again."""
        held = list(slot.in_flight.values())
        self._kill(slot)
        self._last_loss = reason
        if hopeless and not self._opened:
            self.close()
            kind, _, message = reason.partition(": ")
            if kind.rpartition(".")[2] == UserError.__name__:  # Ray keeps no more than a constructor's text
                raise UserError(message)
            raise InfrastructureError(f"the {' of '.join(self._words[:2])} could not be started: {reason}")
        if self.restarts < self._config.max_restarts:
            self.restarts += 1
            self._start(slot)
        if held:
            self._fail(held[0], slot, reason)  # an actor serves in order: it was at the oldest
        self._waiting += held[1:]

    def _fail(self, call: Call, slot: _Slot, reason: str) -> None:
        """Let a failed call wait for another actor, or note its failure when its tries are used up."""
        call.tries, call.avoid = call.tries + 1, slot.number
        if self._retries is None or call.tries <= self._retries:
            self.retried += 1
            self._waiting.append(call)
        else:
            call.failure = reason

    @staticmethod
    def _kill(slot: _Slot) -> None:
        if slot.actor is not None and ray.is_initialized():
            ray.kill(slot.actor)  # a silent one may still be running
        slot.actor = slot.sign = slot.process_id = None
        slot.in_flight, slot.due = {}, math.inf


def _cause(error: BaseException) -> str:
    """The innermost exception of a remote traceback on one line, or the message's last line."""
    text = str(error)
    exceptions = list(re.finditer(r"^[ \t]*[\w.]*(?:Error|Exception)\b.*", text, re.MULTILINE))
    lines = text[exceptions[-1].start() :] if exceptions else text.strip().rpartition("\n")[2]
    return " ".join(lines.split())[:500] or type(error).__name__


def _after(seconds: float | None) -> float:
    return math.inf if seconds is None else time.monotonic() + seconds
