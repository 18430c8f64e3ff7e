"""What a pool schedules and what it schedules it on: calls, actors, and how either can fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prompter.errors import InfrastructureError
from prompter.runs.placement import Placement


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


class ActorLost(Exception):
    """In place of an answer: the actor is gone. The message is one line.

    Args:
        hopeless: whether it never came up, because its constructor raised.
    """

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class CallFailed(Exception):
    """In place of an answer: the call failed, its actor lives. The message is one line.

    Args:
        cause: what the actor raised; None where the machinery lost an answer that was there.
    """

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.cause = cause


class Machinery(Protocol):
    """What actors are made of. References are hashable; an actor begins its calls in order."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    def start(self) -> Any:
        """Start an actor, without waiting for it; return its handle."""

    def kill(self, actor: Any) -> None:
        """End an actor, which may be gone already or never answer again."""

    def put(self, value: Any) -> Any:
        """Store a value where all actors can read it; return a hashable reference to it."""

    def send(self, actor: Any, method: str, arguments: Sequence[Any]) -> Any:
        """Call a method, without waiting; return a reference to the answer."""

    def wait(self, references: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Wait until an answer is there, but no longer than `seconds` (may be infinite).

        Returns:
            All references whose answer, or what is in its place, is there.

        Raises:
            InfrastructureError: if no answer can come any more, to nobody.
        """

    def take(self, reference: Any) -> Any:
        """An answer that is there.

        Raises:
            ActorLost, CallFailed: what is in its place.
        """


@dataclass(eq=False)
class Call:
    """One call of an actor's method, by whichever actor is chosen, and in the end its answer.

    `order` numbers all slots by falling preference, and the best living one is waited for; without it,
    the actor with the most room is taken.
    """

    method: str
    arguments: Sequence[Any]
    order: Sequence[int] = ()
    answer: Any = None
    seconds: float | None = None  # that the actor which answered was at it
    failure: str | None = None  # why there is no answer, on one line
    tries: int = 0  # how often it has failed
    avoid: int | None = None  # slot that it failed in last, taken again only if there is no other
    again: int = 0  # how often it was given to one more actor because it was slow
    done: bool = False  # answered, failed for good, or nobody waits for it any more
    copies: int = 0  # actors that hold it now
