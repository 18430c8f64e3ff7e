"""Signals end a run between windows: at once where nothing would be lost, else when the window is done."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from prompter.errors import RunStopped
from recipes.training.stopping import StopBetweenWindows, StopRequest


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_on_the_spot_where_nothing_is_lost(number: signal.Signals) -> None:
    with StopRequest() as stop, pytest.raises(RunStopped) as stopped, stop.at_once():
        send(number)
        signal.pause()
    assert stopped.value.signal_name == stop.signal_name == number.name


def test_a_signal_within_compiled_code_stops_too_and_that_codes_own_error_is_told() -> None:
    """Ray's `wait` turns what a handler raises in it into a SystemError."""

    def wait(*, signalled: bool) -> None:
        try:
            if signalled:
                send(signal.SIGTERM)
                signal.pause()
        except RunStopped as stopped:
            raise SystemError("returned a result with an exception set") from stopped
        raise SystemError("its own")

    with StopRequest() as stop, pytest.raises(RunStopped, match="SIGTERM"), stop.at_once():
        wait(signalled=True)
    with StopRequest() as stop, pytest.raises(SystemError, match="its own"), stop.at_once():
        wait(signalled=False)


def test_elsewhere_it_is_remembered_said_and_raised_at_the_next_chance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with StopRequest() as stop:
        send(signal.SIGTERM)
        assert stop.signal_name == "SIGTERM"
        assert "SIGTERM: this window of rollouts is finished" in capsys.readouterr().err
        with pytest.raises(RunStopped), stop.at_once():
            raise AssertionError("work went on")


def test_a_second_signal_is_not_ignored() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest():
        send(signal.SIGINT)
        send(signal.SIGINT)


def test_handlers_are_put_back_and_other_threads_hear_nothing() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    changed: list[bool] = []

    def enter() -> None:
        with StopRequest():
            changed.append(signal.getsignal(signal.SIGTERM) != before[0])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert changed == [False]


def test_a_window_is_finished_before_training_ends() -> None:
    stop = StopRequest()
    callback = StopBetweenWindows(stop, window=4)

    def after(step: int) -> tuple[bool, bool]:
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        callback.on_step_end(None, SimpleNamespace(global_step=step), control)
        return control.should_save, control.should_training_stop

    assert after(8) == (False, False)
    stop.signal_name = "SIGTERM"
    assert [after(step) for step in (9, 10, 11)] == [(False, False)] * 3
    assert after(12) == (True, True)


def test_a_window_that_outlasts_the_grace_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("recipes.training.stopping.time.monotonic", lambda: clock[0])
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    with StopRequest(grace_seconds=5) as stop:
        callback = StopBetweenWindows(stop, window=4)
        assert not stop.overdue
        send(signal.SIGTERM)
        clock[0] += 4
        callback.on_substep_end(None, None, control)
        callback.on_step_end(None, SimpleNamespace(global_step=5), control)
        clock[0] += 2
        for step_or_part in (callback.on_step_end, callback.on_substep_end):
            with pytest.raises(RunStopped):
                step_or_part(None, SimpleNamespace(global_step=6), control)
        assert not control.should_save
        callback.on_step_end(None, SimpleNamespace(global_step=8), control)
    assert control.should_save, "at its end a window is saved, however late"


def test_without_a_grace_time_a_window_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest() as stop:
        send(signal.SIGTERM)
        monkeypatch.setattr("recipes.training.stopping.time.monotonic", lambda: 1e12)
        assert not stop.overdue
