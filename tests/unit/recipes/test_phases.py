"""Seconds by phase, and the events of a timeline, of one thread and of several."""

from __future__ import annotations

import threading
import time

import pytest

from recipes.training.phases import PhaseTimes


def test_phases_add_up_and_nest() -> None:
    times = PhaseTimes()
    for _ in range(2):
        with times("outer"), times("inner"):
            time.sleep(0.01)
    times.add("outer", 1.0)
    taken = times.take()
    assert set(taken) == {"outer", "inner"}
    assert taken["inner"] >= 0.02 and taken["outer"] >= 1.0 + taken["inner"] - 0.001
    assert times.take() == {}


def test_a_phase_that_raises_is_closed() -> None:
    times = PhaseTimes()
    with pytest.raises(KeyError), times("a"), times("b"):
        raise KeyError
    with times("c"):
        pass
    assert set(times.take()) == {"a", "b", "c"}


def test_events_say_when_and_by_whom() -> None:
    times = PhaseTimes()
    before = time.time()
    with times("sample", step=3):
        time.sleep(0.02)
    (event,) = times.take_events()
    assert (event.phase, event.who, event.step) == ("sample", "trainer", 3)
    assert before - 0.01 <= event.start_s <= event.end_s - 0.02 <= time.time()
    assert event.to_json().keys() == {"phase", "who", "start_s", "end_s", "step"}
    assert times.take_events() == [] and times.take().keys() == {"sample"}, "either is taken by itself"


def test_threads_share_one_and_each_phase_is_its_own_threads() -> None:
    times, together = PhaseTimes(), threading.Barrier(2)

    def work() -> None:
        with times("sample", 2):
            together.wait(timeout=10)  # both phases are open at once; the outer one began first
            with times("inner", 2):
                together.wait(timeout=10)

    thread = threading.Thread(target=work, name="rollouts")
    with times("optimise", 1):
        thread.start()
        together.wait(timeout=10)
        together.wait(timeout=10)
        thread.join()
    by_phase = {event.phase: event for event in times.take_events()}
    assert {phase: event.who for phase, event in by_phase.items()} == {
        "optimise": "trainer",
        "sample": "rollouts",
        "inner": "rollouts",
    }
    assert by_phase["optimise"].start_s <= by_phase["sample"].start_s <= by_phase["inner"].start_s
    assert by_phase["inner"].end_s <= by_phase["sample"].end_s <= by_phase["optimise"].end_s
