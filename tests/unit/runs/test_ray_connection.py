"""A Ray that is gone is noticed before Ray ends the process, and what its errors mean for a pool."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import exceptions

from prompter.errors import InfrastructureError
from prompter.runs.actors import RayActors
from prompter.runs.machinery import ActorLost, CallFailed
from prompter.runs.ray_connection import RayConnection


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock; and the process has lost no Ray."""
    now = [1000.0]
    monkeypatch.setattr("prompter.runs.ray_connection.time.monotonic", lambda: now[0])
    monkeypatch.setattr(RayConnection, "lost", "")

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


@pytest.fixture
def services(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A head and a daemon that listen."""
    head, daemon = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    daemon.bind(str(tmp_path / "raylet"))
    daemon.listen()
    yield head, daemon
    head.close()
    daemon.close()


def connection_to(services: tuple[socket.socket, socket.socket]) -> RayConnection:
    head, daemon = services
    return RayConnection(f"127.0.0.1:{head.getsockname()[1]}", daemon.getsockname())


def test_a_daemon_that_is_gone_is_noticed_at_once_and_for_good(
    clock: Callable[[float], None], services: tuple[socket.socket, socket.socket]
) -> None:
    connection = connection_to(services)
    clock(1.0)
    connection.check()
    services[1].close()
    connection.check()  # a moment ago it was there
    with pytest.raises(InfrastructureError, match=r"lost: its daemon on this machine \(raylet\) is gone$"):
        connection.check(now=True)
    assert connection.lost
    with pytest.raises(InfrastructureError, match=r"lost: its daemon on this machine \(raylet\) is gone$"):
        RayConnection("127.0.0.1:1", None).check()


def test_a_head_that_comes_back_in_time_was_never_lost(
    clock: Callable[[float], None], services: tuple[socket.socket, socket.socket]
) -> None:
    connection = connection_to(services)
    port = services[0].getsockname()[1]
    services[0].close()
    for _ in range(3):
        clock(6.0)
        connection.check()
    with socket.create_server(("127.0.0.1", port)):
        clock(6.0)
        connection.check()
    clock(6.0)
    connection.check()  # silent again, but its time begins anew
    clock(19.0)
    connection.check()
    clock(6.0)
    with pytest.raises(InfrastructureError, match=rf"its head at 127.0.0.1:{port} has not answered for 20 s"):
        connection.check()


class Present(RayConnection):
    """A connection that is there."""

    def check(self, *, now: bool = False) -> None:
        """See `RayConnection.check`."""


def caught(error: Exception) -> RuntimeError:
    """An exception in an actor, as Ray hands it on."""
    wrapped: Any = exceptions.RayTaskError("work", f"ValueError: {error}", error)
    return wrapped.as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ActorDiedError(), ActorLost),
        (exceptions.OutOfMemoryError("the node ran out of memory"), ActorLost),
        (exceptions.WorkerCrashedError(), ActorLost),
        (exceptions.NodeDiedError("the node is gone"), ActorLost),
        (exceptions.ObjectLostError("ab" * 28, None, ""), CallFailed),
        (caught(ValueError("a mistake")), CallFailed),
    ],
)
def test_what_ray_gives_in_place_of_an_answer(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(reference: object) -> None:
        raise error

    actors: Any = RayActors.__new__(RayActors)
    actors._connection = Present("127.0.0.1:1", None)
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(kind) as found:
        actors.take("reference")
    if isinstance(found.value, CallFailed):
        mistake = isinstance(error, ValueError)
        assert isinstance(found.value.cause, ValueError) if mistake else found.value.cause is None
