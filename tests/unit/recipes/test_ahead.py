"""One window collected in a thread: what it gives, when it raises, and that a checkpoint can hold it."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from prompter.errors import RunStopped, UserError
from prompter.sampling.base import SamplingSettings
from recipes.training.ahead import FILE, THREAD, WindowAhead
from recipes.training.window import Window
from tests.fixtures.toy_task import Squares
from tests.unit.recipes.test_window import make_loop


def collected(indices: list[int], step: int) -> Window:
    loop, sampler, _ = make_loop("drop", max_resamples=1)
    sampler.version = step - 1
    return loop.collect(indices, step)


def test_a_window_is_collected_beside_and_taken_once() -> None:
    go_on, threads = threading.Event(), []

    def collect(indices: list[int], step: int) -> Window:
        threads.append(threading.current_thread().name)
        assert go_on.wait(timeout=10)
        return collected(indices, step)

    ahead = WindowAhead(collect)
    assert ahead.step is None and ahead.take([1, 2], 3) is None
    ahead.wait()  # nothing to wait for
    ahead.start([6, 1], 5)
    assert ahead.step == 5, "begun, and this thread goes on"
    with pytest.raises(RuntimeError, match="step 5 was not taken, and that of 6 is asked for"):
        ahead.start([1], 6)
    go_on.set()
    ahead.wait()
    ahead.check([6, 1], 5)
    assert ahead.step == 5, "what was waited for is still there, to be saved where a run is stopped"
    window = ahead.take([6, 1], 5)
    assert window is not None and [group.index for group in window.all_groups] == [6, 1]
    assert threads == [THREAD] and ahead.step is None and ahead.take([6, 1], 5) is None


def test_a_wait_that_a_signal_breaks_off_leaves_the_window_to_be_saved(tmp_path: Path) -> None:
    go_on = threading.Event()

    def collect(indices: list[int], step: int) -> Window:
        assert go_on.wait(timeout=10)
        return collected(indices, step)

    def heard(number: int, frame: object) -> None:
        raise RunStopped("SIGALRM")

    ahead, before = WindowAhead(collect), signal.signal(signal.SIGALRM, heard)
    try:
        ahead.start([6, 1], 5)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(RunStopped):
            ahead.check([6, 1], 5)
    finally:
        signal.signal(signal.SIGALRM, before)
    threading.Timer(0.1, go_on.set).start()
    ahead.save(tmp_path)
    assert (tmp_path / FILE).exists() and ahead.take([6, 1], 5) is not None


def test_a_window_for_other_questions_is_never_taken_for_these() -> None:
    ahead = WindowAhead(collected)
    ahead.start([6, 1], 5)
    with pytest.raises(RuntimeError, match=r"step 5 asks positions \[1, 6\]"):
        ahead.take([1, 6], 5)
    with pytest.raises(RuntimeError, match="step 6 asks"):
        ahead.take([6, 1], 6)
    assert ahead.take([6, 1], 5) is not None


def test_what_collecting_raises_is_raised_where_the_window_is_taken(tmp_path: Path) -> None:
    def collect(indices: list[int], step: int) -> Window:
        raise UserError("all engines are gone")

    ahead = WindowAhead(collect)
    ahead.start([1], 2)
    ahead.wait()
    ahead.save(tmp_path)
    assert list(tmp_path.iterdir()) == [], "what was trained can be saved all the same"
    for _ in range(2):
        with pytest.raises(UserError, match="all engines are gone"):
            ahead.take([1], 2)


def test_a_window_in_a_checkpoint_reads_back_equal(tmp_path: Path) -> None:
    ahead, again = WindowAhead(collected), WindowAhead(collected)
    ahead.save(tmp_path / "none")
    again.restore(tmp_path / "none", Squares(40), 5)
    assert again.step is None and not (tmp_path / "none").exists()
    ahead.start([6, 1, 8, 3], 5)
    ahead.save(tmp_path / "some")
    again.restore(tmp_path / "some", Squares(40), 5)
    first, second = ahead.take([6, 1, 8, 3], 5), again.take([6, 1, 8, 3], 5)
    assert first is not None and second is not None
    assert json.dumps(second.metrics) == json.dumps(first.metrics)
    assert json.dumps(second.rollouts) == json.dumps(first.rollouts)
    assert second.sampler_version == first.sampler_version == 4
    assert [group.index for group in second.groups] == [group.index for group in first.groups] == [6, 8]
    for one, other in zip(first.all_groups, second.all_groups, strict=True):
        assert (one.index, one.rewards) == (other.index, other.rewards)
        assert list(one.completions) == list(other.completions)
        assert second.samples[one.index].sample_id == first.samples[one.index].sample_id
    assert all(any(group is one for one in second.all_groups) for group in second.groups)


def test_a_file_that_is_no_window_is_refused(tmp_path: Path) -> None:
    ahead = WindowAhead(collected)
    ahead.start([6, 1], 5)
    ahead.save(tmp_path)
    with pytest.raises(UserError, match="it is for step 5, not for 7"):
        WindowAhead(collected).restore(tmp_path, Squares(40), 7)
    lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
    for damaged in (lines[:2], ["{}\n"], []):
        (tmp_path / FILE).write_text("".join(damaged))
        with pytest.raises(UserError, match="is no window of rollouts"):
            WindowAhead(collected).restore(tmp_path, Squares(40), 5)


def test_groups_of_256_are_cut_to_those_trained_on_at_one_encode() -> None:
    loop, _, _ = make_loop("drop", keep=8)
    loop.settings = SamplingSettings(max_new_tokens=64, n=256)
    window = loop.collect([6, 8], step=1)
    assert window.metrics["completions"] == len(window.rollouts) == 512, "all are recorded"
    assert window.metrics["executor"]["encodes"] == 2, "one encode an image, whatever n"
    assert window.metrics["executor"]["decodes"] == 512
    assert [len(group.completions) for group in window.groups] == [8, 8]
    for group in window.groups:
        assert len(group.rollouts) == 8
        assert [one.completion for one in group.rollouts] == [one.text for one in group.completions]
