"""Ray actors that do the same work and stand in for each other: what every pool of them shares.

Who gets which call, what is tried again and what is given up is `prompter.runs.dispatch`; here is what
the actors are made of. Ray restarts actors and repeats calls by itself (`max_restarts`,
`max_task_retries`). That is not used, because Ray sends a call to the same actor again: it waits until
the constructor has run once more (minutes for an engine) while others stand idle, and a call that kills
its actor kills the next one. Ray also never gives up on an actor that hangs, limits restarts per actor
and not per pool, and counts neither restarts nor repeated calls.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from prompter.runs.dispatch import Dispatcher
from prompter.runs.machinery import ActorLost, Call, CallFailed, PoolConfig, PoolDead
from prompter.runs.placement import placement_options
from prompter.runs.ray_connection import RayConnection
from prompter.runs.ray_runtime import check_room

__all__ = ["ActorPool", "Call", "PoolConfig", "PoolDead", "PooledActor"]

_GONE = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)
"""What Ray gives in place of an answer when the actor's process is no more, for whatever reason."""


class PooledActor:
    """What the class of a pool's actors inherits from."""

    def process_id(self) -> int:
        """Id of this process on its node; that it answers is the sign of life."""
        return os.getpid()


class RayActors:
    """A `prompter.runs.machinery.Machinery` of Ray actors.

    Args:
        actor: a `PooledActor`, not decorated.
        arguments: for its constructor.
        config: `num_cpus` and `num_gpus` are what each actor reserves, `placement` says where.
        environment: variables set in the actors' processes.
        members, section: what messages call the actors and their section of the config.

    Everything it does first looks whether Ray is still there (`RayConnection`): Ray itself ends the process
    without a word to its caller.
    """

    def __init__(
        self,
        actor: type[PooledActor],
        arguments: Sequence[Any],
        config: PoolConfig,
        environment: Mapping[str, str],
        members: str,
        section: str,
    ) -> None:
        options = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus, "max_restarts": 0}
        options |= placement_options(config.placement, members, section)
        processes = {"env_vars": dict(environment)} if environment else None
        self._remote = ray.remote(actor).options(**options, runtime_env=processes)
        self._arguments = arguments
        self._connection = RayConnection.of_this_process()

    def now(self) -> float:
        """See `Machinery.now`."""
        return time.monotonic()

    def start(self) -> Any:
        """See `Machinery.start`."""
        self._connection.check()
        return self._remote.remote(*self._arguments)

    def kill(self, actor: Any) -> None:
        """See `Machinery.kill`. Where Ray is gone, its actors go by themselves."""
        if ray.is_initialized() and not self._connection.lost:
            ray.kill(actor)  # a silent one may still be running

    def put(self, value: Any) -> Any:
        """See `Machinery.put`: into Ray's object store."""
        self._connection.check(now=True)  # Ray ends the process that stores something when it is gone
        return ray.put(value)

    def send(self, actor: Any, method: str, arguments: Sequence[Any]) -> Any:
        """See `Machinery.send`."""
        self._connection.check()
        return getattr(actor, method).remote(*arguments)

    def wait(self, references: Sequence[Any], seconds: float) -> Sequence[Any]:
        """See `Machinery.wait`."""
        end = time.monotonic() + seconds
        while True:
            self._connection.check()
            patience = min(max(0.0, end - time.monotonic()), RayConnection.EVERY_SECONDS)
            ready, others = ray.wait(list(references), timeout=patience)
            if ready:
                return [*ready, *(ray.wait(others, num_returns=len(others), timeout=0)[0] if others else ())]
            if time.monotonic() >= end:
                return []

    def take(self, reference: Any) -> Any:
        """See `Machinery.take`."""
        self._connection.check()
        try:
            return ray.get(reference)
        except RayError as error:
            reason = _cause(error)
            if isinstance(error, RayTaskError):
                raise CallFailed(reason, getattr(error, "cause", error)) from None
            if isinstance(error, _GONE):
                raise ActorLost(reason, hopeless=getattr(error, "actor_init_failed", False)) from None
            # The answer was there and went with its node, or could not be fetched.
            raise CallFailed(reason) from None


class ActorPool(Dispatcher):
    """A `Dispatcher` of Ray actors.

    Args:
        actor, arguments, config, environment: see `RayActors`.
        words, options: see `Dispatcher`.

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
        **options: Any,
    ) -> None:
        check_room(config.actors, config.num_cpus, config.num_gpus, words[0], words[2])
        machinery = RayActors(actor, arguments, config, environment, words[0], words[2])
        super().__init__(machinery, config, words, **options)


def _cause(error: BaseException) -> str:
    """The innermost exception of a remote traceback on one line, or the message's last line."""
    text = str(error)
    exceptions = list(re.finditer(r"^[ \t]*[\w.]*(?:Error|Exception)\b.*", text, re.MULTILINE))
    lines = text[exceptions[-1].start() :] if exceptions else text.strip().rpartition("\n")[2]
    return " ".join(lines.split())[:500] or type(error).__name__
