"""The scheduling of every pool, on engines that compute nothing and a clock that skips the waiting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompter.runs.dispatch import Dispatcher
from prompter.runs.machinery import ActorLost, Call, CallFailed, PoolDead
from prompter.runs.placement import Placement
from prompter.sampling.simulated import SimulatedEngines


@dataclass
class Config:
    actors: int = 2
    num_cpus: float = 1
    num_gpus: float = 0
    placement: Placement = "pack"
    max_restarts: int = 3
    timeout_seconds: float | None = None


def number_of(engine: int, method: str, arguments: Sequence[Any]) -> int:
    """The answer to call k is k, whoever gives it."""
    return int(arguments[0])


def pool_of(
    seconds: Callable[[int, int], float],
    answer: Callable[[int, str, Sequence[Any]], Any] = number_of,
    *,
    queue_depth: int = 2,
    slow_factor: float | None = 4.0,
    side_by_side: bool = False,
    **config: Any,
) -> tuple[Dispatcher, SimulatedEngines]:
    """A pool whose engine e takes `seconds(e, k)` for call k."""
    machinery = SimulatedEngines(
        lambda engine, _, arguments: seconds(engine, int(arguments[0])), answer, own_clock=lambda: 0.0
    )
    words = ("engines", "the test", "test")
    options: Any = {"queue_depth": queue_depth, "slow_factor": slow_factor, "side_by_side": side_by_side}
    return Dispatcher(machinery, Config(**config), words, **options), machinery


def calls_of(count: int) -> list[Call]:
    return [Call("work", (k,)) for k in range(count)]


def answers(calls: Sequence[Call]) -> list[int]:
    return [call.answer for call in calls]


def test_a_slow_engine_takes_fewer_calls_and_nobody_waits_for_it() -> None:
    """Engine 0 needs 4 s a call, engine 1 needs 1 s: a fixed half each would take 40 s."""
    pool, machinery = pool_of(lambda engine, _: 4.0 if engine == 0 else 1.0)
    calls = calls_of(20)
    pool.run(calls)
    assert answers(calls) == list(range(20))
    assert machinery.now() <= 20.0  # 16 s, and what the slow one still holds at the end
    assert machinery.engines[0].busy < machinery.engines[1].busy * 2
    assert (pool.repeated, pool.late) == (0, 0)


def test_a_call_that_takes_far_longer_than_the_others_is_given_to_an_idle_engine_too() -> None:
    pool, machinery = pool_of(lambda engine, k: 500.0 if (engine, k) == (0, 0) else 2.0)
    calls = calls_of(10)
    pool.run(calls)
    assert answers(calls) == list(range(10))
    # Engine 1 does the rest in 18 s; then what engine 0 holds, which has been at it for longer than 8 s.
    assert machinery.now() == pytest.approx(20.0)
    assert [call.again for call in calls] == [1, 0, 1] + [0] * 7, "the slow one, and the one queued behind it"
    assert (pool.repeated, pool.late, pool.restarts) == (2, 0, 0)
    # The first engine still works on what nobody waits for; its answers are thrown away and counted.
    later = calls_of(400)
    pool.run(later)
    assert answers(later) == list(range(400))
    assert pool.late == 2
    assert machinery.engines[0].busy > 500.0, "and then it was given work again"


def test_no_call_is_slow_without_a_factor_or_before_some_seconds() -> None:
    slow = {"seconds": lambda engine, k: 50.0 if k == 0 else 2.0}
    pool, machinery = pool_of(**slow, slow_factor=None)
    pool.run(calls_of(6))
    assert (pool.repeated, machinery.now()) == (0, 52.0)
    pool, machinery = pool_of(lambda engine, k: 4.9 if k == 0 else 0.01, queue_depth=1)
    pool.run(calls_of(6))
    assert (pool.repeated, machinery.now()) == (0, pytest.approx(4.9))


def test_a_hung_engine_is_replaced_when_its_time_is_up_and_holds_nobody_before() -> None:
    hangs: list[int] = []

    def seconds(engine: int, k: int) -> float:
        if k == 1 and not hangs:
            hangs.append(engine)
            return math.inf
        return 2.0

    pool, machinery = pool_of(seconds, timeout_seconds=60.0)
    calls = calls_of(8)
    pool.run(calls)
    assert answers(calls) == list(range(8))
    assert machinery.now() < 20.0 and pool.timeouts == 0, "its calls were made elsewhere in the meantime"
    machinery._skipped += 100.0
    again = calls_of(3)
    pool.run(again)
    assert answers(again) == [0, 1, 2]
    assert (pool.restarts, pool.timeouts, pool.late) == (1, 1, 2)
    assert machinery.engines[hangs[0]].gone and len(machinery.engines) == 3


def test_a_hung_engine_that_is_alone_is_replaced_and_its_call_made_again() -> None:
    pool, machinery = pool_of(
        lambda engine, k: math.inf if (engine, k) == (0, 1) else 2.0, actors=1, timeout_seconds=60.0
    )
    calls = calls_of(4)
    pool.run(calls)
    assert answers(calls) == [0, 1, 2, 3]
    assert (pool.restarts, pool.timeouts, pool.retried) == (1, 1, 1)
    assert [call.tries for call in calls] == [0, 1, 0, 0]
    assert machinery.now() == pytest.approx(2.0 + 60.0 + 6.0)


def test_calls_are_yielded_as_they_finish_and_engines_work_on_meanwhile() -> None:
    pool, machinery = pool_of(lambda engine, k: [1.0, 9.0, 1.0, 1.0][k], queue_depth=1)
    seen = []
    for part in pool.in_parts(calls_of(4)):
        seen += [(call.answer, machinery.now()) for call in part]
        machinery._skipped += 3.0  # the caller takes its time
    # Calls 2 and 3 were sent before the caller had 0 and 2 in hand, and were there when it came back.
    assert [number for number, _ in seen] == [0, 2, 3, 1]
    assert [moment for _, moment in seen] == pytest.approx([1.0, 4.0, 7.0, 10.0])


def test_a_caller_that_leaves_early_waits_for_nothing_and_is_not_given_old_answers() -> None:
    pool, machinery = pool_of(lambda engine, k: 5.0)
    first = pool.in_parts(calls_of(10))
    assert answers(next(first)) == [0, 1]
    with pytest.raises(RuntimeError, match="have not finished an earlier call"):
        pool.run(calls_of(1))
    first.close()
    assert machinery.now() == pytest.approx(5.0)
    calls = calls_of(3)
    pool.run(calls)
    assert answers(calls) == [0, 1, 2]
    assert pool.late == 4, "two per engine were on their way"


def test_an_answer_lost_on_its_way_is_made_again_and_a_lost_engine_is_replaced() -> None:
    faults: list[Exception] = [CallFailed("its node is gone"), ActorLost("out of memory")]

    def answer(engine: int, method: str, arguments: Sequence[Any]) -> int:
        if arguments[0] in (2, 3) and faults:
            raise faults.pop(0)
        return int(arguments[0])

    pool, machinery = pool_of(lambda engine, k: 1.0, answer)
    calls = calls_of(6)
    pool.run(calls)
    assert answers(calls) == list(range(6))
    assert (pool.retried, pool.restarts) == (2, 1)
    assert not faults and sum(engine.gone for engine in machinery.engines) == 1


def test_what_a_late_copy_raises_is_nobodys_fault() -> None:
    def answer(engine: int, method: str, arguments: Sequence[Any]) -> int:
        if (engine, arguments[0]) == (0, 0):
            raise CallFailed("too late to matter", ValueError("too late to matter"))
        return int(arguments[0])

    pool, _ = pool_of(lambda engine, k: 100.0 if (engine, k) == (0, 0) else 1.0, answer)
    calls = calls_of(12)
    pool.run(calls)
    assert answers(calls) == list(range(12))
    pool.run(calls_of(200))
    assert pool.late == 2
    with pytest.raises(ValueError, match="too late to matter"):  # in time it is one
        pool_of(lambda engine, k: 1.0, answer)[0].run(calls_of(2))


def test_the_pool_is_dead_when_restarts_are_used_up() -> None:
    def answer(engine: int, method: str, arguments: Sequence[Any]) -> int:
        raise ActorLost("the power went")

    pool, machinery = pool_of(lambda engine, k: 1.0, answer, max_restarts=2)
    with pytest.raises(PoolDead, match=r"2 restarts are used up .*; last: the power went"):
        pool.run(calls_of(3))
    assert len(machinery.engines) == 4


@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.sampled_from([0.5, 1.0, 3.0, 40.0, "hangs", "dies", "lost"]), min_size=1, max_size=40),
)
def test_whatever_happens_every_call_is_answered_once(
    actors: int, queue_depth: int, side_by_side: bool, faults: list[float | str]
) -> None:
    """Each call's mischief happens the first time it is made."""
    met: set[int] = set()

    def first(k: int) -> float | str:
        return faults[k] if k not in met else 1.0

    def seconds(engine: int, k: int) -> float:
        what = first(k)
        return math.inf if what == "hangs" else 1.0 if isinstance(what, str) else what

    def answer(engine: int, method: str, arguments: Sequence[Any]) -> int:
        what = first(arguments[0])
        met.add(arguments[0])
        if what == "dies":
            raise ActorLost("died")
        if what == "lost":
            raise CallFailed("lost")
        return int(arguments[0])

    pool, _ = pool_of(
        seconds,
        answer,
        queue_depth=queue_depth,
        side_by_side=side_by_side,
        actors=actors,
        timeout_seconds=90.0,
        max_restarts=len(faults),
    )
    calls = calls_of(len(faults))
    yielded = [call.answer for part in pool.in_parts(calls) for call in part]
    assert sorted(yielded) == list(range(len(faults)))
    assert answers(calls) == list(range(len(faults)))


def test_actors_that_work_on_all_their_calls_at_once_lose_all_of_them() -> None:
    """And a call's time runs from when it was given, whatever was answered in between."""
    failed: list[int] = []

    def answer(engine: int, method: str, arguments: Sequence[Any]) -> int:
        if arguments[0] == 1 and not failed:
            failed.append(engine)
            raise ActorLost("the power went")
        return int(arguments[0])

    pool, _ = pool_of(lambda engine, k: 2.0, answer, side_by_side=True, actors=1, queue_depth=3)
    calls = calls_of(4)
    pool.run(calls)
    assert answers(calls) == [0, 1, 2, 3]
    # With call 0 answered, 1 to 3 are in flight when the engine is lost.
    assert ([call.tries for call in calls], pool.retried) == ([0, 1, 1, 1], 3)
    assert [call.seconds for call in calls] == [2.0, 2.0, 4.0, 6.0]
