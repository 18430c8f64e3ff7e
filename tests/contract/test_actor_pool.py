"""The core of every pool of actors: who is replaced, what is tried again, what is counted and said."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import ray

from prompter.errors import InfrastructureError, UserError
from prompter.runs.actors import ActorPool, Call, PoolDead, PooledActor
from prompter.runs.placement import Placement
from prompter.runs.ray_runtime import ensure_ray


@dataclass
class Config:
    actors: int = 1
    num_cpus: float = 0.1
    num_gpus: float = 0
    placement: Placement = "pack"
    max_restarts: int = 3
    timeout_seconds: float | None = None


class Worker(PooledActor):
    """Does as told, each mischief once: the folder remembers it beyond an actor's life."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for error in (UserError, ValueError):
            if (folder / error.__name__).exists():
                raise error("the wires\nare loose")

    def once(self, number: int, mischief: str) -> tuple[int, int]:
        """Return (number, this process), after the mischief if it was not done for this number before."""
        marker = self.folder / f"{mischief}-{number}"
        if marker.exists():
            return number, os.getpid()
        marker.touch()
        return self.always(number, mischief)

    def always(self, number: int, mischief: str = "") -> tuple[int, int]:
        """The same, with the mischief every time."""
        if mischief == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mischief == "hang":
            time.sleep(3600)
        if mischief == "raise":
            raise KeyError(f"number {number}")
        return number, os.getpid()


Open = Callable[..., ActorPool]


@pytest.fixture
def open_pool(tmp_path: Path) -> Iterator[Open]:
    ensure_ray()
    pools = []

    def opened(**options: Any) -> ActorPool:
        config = Config(
            **{field.name: options.pop(field.name) for field in fields(Config) if field.name in options}
        )
        words = ("hands", "the test", "hands")
        pools.append(ActorPool(Worker, (tmp_path,), config, words, environment={}, **options))
        return pools[-1]

    yield opened
    for pool in pools:
        pool.close()
        pool.close()


def numbers(calls: list[Call]) -> list[int]:
    return [call.answer[0] for call in calls]


def test_a_killed_actor_is_replaced_and_its_call_made_again(open_pool: Open) -> None:
    pool = open_pool(actors=2)
    calls = [Call("once", (n, "die" if n == 1 else "")) for n in range(6)]
    pool.run(calls)
    assert numbers(calls) == list(range(6))
    assert [call.tries for call in calls] == [0, 1, 0, 0, 0, 0]
    assert (pool.restarts, pool.retried) == (1, 1)
    pool.wait_ready()
    first, second = pool.process_ids()
    assert first and second and first != second

    os.kill(first, signal.SIGKILL)  # idle, so that only asking shows it
    time.sleep(0.2)
    pool.check_health()
    pool.wait_ready()
    assert (pool.restarts, pool.retried) == (2, 1)
    assert first not in pool.process_ids() and pool.process_ids()[1] == second
    pool.close()
    with pytest.raises(PoolDead, match="the hands of the test have been ended"):
        pool.check_health()


def test_a_hung_actor_is_killed_and_what_it_had_not_begun_only_moves(open_pool: Open) -> None:
    pool = open_pool(retries=0, queue_depth=3, timeout_seconds=1.0)
    calls = [Call("always", (n, "hang" if n == 1 else "")) for n in range(4)]
    pool.run(calls)
    assert calls[1].failure == "no answer in 1 s" and calls[1].answer is None
    assert [call.tries for call in calls] == [0, 1, 0, 0]
    assert numbers([calls[0], *calls[2:]]) == [0, 2, 3]
    assert (pool.restarts, pool.retried) == (1, 0)

    (pid,) = pool.process_ids()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # hangs while idle
    pool.check_health()
    assert pool.restarts == 2
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)


def test_a_call_that_kills_every_actor_fails_alone_or_ends_the_pool(open_pool: Open) -> None:
    limited = open_pool(retries=1, max_restarts=2)
    calls = [Call("always", (0, "die")), Call("always", (1,))]
    limited.run(calls)
    assert calls[0].tries == 2 and "worker process has died" in str(calls[0].failure)
    assert calls[1].answer[0] == 1
    assert (limited.restarts, limited.retried) == (2, 1)

    unlimited = open_pool(max_restarts=1)
    sentence = (
        "all 1 hands of the test are gone: the last died after 1 others had been replaced, "
        "and the 1 restarts are used up (hands.max_restarts; last: "
    )
    for _ in range(2):
        with pytest.raises(PoolDead, match=re.escape(sentence)):
            unlimited.run([Call("always", (0, "die"))])
        assert unlimited.restarts == 1


def test_the_actors_that_are_left_go_on(open_pool: Open) -> None:
    pool = open_pool(actors=2, max_restarts=0)
    pool.wait_ready()
    calls = [Call("once", (n, "die" if n == 0 else ""), order=[0, 1]) for n in range(4)]
    pool.run(calls)
    assert numbers(calls) == list(range(4))
    left = pool.process_ids()[1]
    assert pool.process_ids() == [None, left]
    assert {call.answer[1] for call in calls} == {left}
    assert (pool.restarts, pool.retried) == (0, 1)
    pool.check_health()


def test_calls_go_where_their_order_says_and_failed_ones_elsewhere(open_pool: Open) -> None:
    pool = open_pool(actors=3, retries=1, queue_depth=2)
    pool.wait_ready()
    pids = pool.process_ids()
    order = [2, 0, 1]
    calls = [Call("once", (n, "raise" if n == 3 else ""), order) for n in range(8)]
    pool.run(calls)
    assert [call.answer[1] for call in calls] == [pids[2]] * 3 + [pids[0]] + [pids[2]] * 4
    assert pool.process_ids() == pids
    assert (pool.restarts, pool.retried) == (0, 1)


def test_an_exception_fails_its_call_or_is_raised(open_pool: Open) -> None:
    patient = open_pool(retries=2)
    calls = [Call("always", (0, "raise")), Call("always", (1,))]
    patient.run(calls)
    assert (calls[0].failure, calls[0].tries) == ("KeyError: 'number 0'", 3)
    assert calls[1].answer[0] == 1
    assert (patient.restarts, patient.retried) == (0, 2)

    strict = open_pool(actors=2)
    with pytest.raises(KeyError, match="number 0"):
        strict.run([Call("always", (0, "raise")), Call("always", (1,)), Call("always", (2,))])
    after = [Call("always", (n,)) for n in range(3)]
    strict.run(after)
    assert numbers(after) == [0, 1, 2]
    assert (strict.restarts, strict.retried) == (0, 0)


def test_a_constructor_that_fails_at_first_is_a_mistake(open_pool: Open, tmp_path: Path) -> None:
    (tmp_path / "ValueError").touch()
    broken = open_pool(actors=2)
    with pytest.raises(
        InfrastructureError, match=r"hands of the test could not be started: ValueError: the wires are loose$"
    ):
        broken.run([Call("always", (0,))])
    assert broken.restarts == 0
    with pytest.raises(PoolDead, match="have been ended"):
        broken.run([Call("always", (0,))])

    (tmp_path / "ValueError").unlink()
    (tmp_path / "UserError").touch()
    with pytest.raises(UserError, match=r"^the wires are loose$"):
        open_pool().wait_ready()


def test_a_constructor_that_fails_later_uses_restarts_up(open_pool: Open, tmp_path: Path) -> None:
    pool = open_pool(max_restarts=2)
    pool.wait_ready()
    (tmp_path / "ValueError").touch()
    with pytest.raises(PoolDead, match=r"2 restarts are used up .*; last: ValueError: the wires are loose"):
        pool.run([Call("once", (0, "die"))])
    assert (pool.restarts, pool.retried) == (2, 1)


def test_an_actor_that_finds_no_room_is_not_waited_for_forever(open_pool: Open) -> None:
    open_pool().wait_ready()
    full = open_pool(num_cpus=ray.cluster_resources()["CPU"], start_seconds=1.0)
    with pytest.raises(InfrastructureError, match=r"could not be started: no start in 1 s, is Ray full\?"):
        full.wait_ready()
    assert full.restarts == 0


def test_a_pool_too_large_for_this_machine_is_refused(open_pool: Open) -> None:
    with pytest.raises(UserError, match=r"9 hands of hands.num_cpus 1000 need 9000 CPUs, but Ray has \d+"):
        open_pool(actors=9, num_cpus=1000)
    with pytest.raises(UserError, match=r"lower hands.actors or hands.num_gpus$"):
        open_pool(actors=9, num_gpus=1000)
