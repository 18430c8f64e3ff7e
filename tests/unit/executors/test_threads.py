"""Threads that compute alone: order, errors, modes, and numbers of threads that stay as they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from envs.executors.decoding.threads import parallel_map


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Other tests may have left another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_items() -> None:
    def work(item: int) -> int:
        time.sleep(0.001 * (7 - item % 7))
        return item * item

    assert parallel_map(work, range(40)) == [item * item for item in range(40)]


def test_items_run_side_by_side_in_threads_that_compute_alone() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def work(item: int) -> tuple[str, int]:
        meeting.wait()  # returns only once a second thread is here
        return threading.current_thread().name, torch.get_num_threads()

    found = parallel_map(work, range(2))
    assert len({name for name, _ in found}) == 2
    assert {threads for _, threads in found} == {1}


def test_other_threads_keep_their_number() -> None:
    before = torch.get_num_threads()
    parallel_map(str, range(4))
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == before
    assert torch.get_num_threads() == before


def test_inference_mode_is_the_callers() -> None:
    def work(_: int) -> bool:
        return torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert parallel_map(work, range(3)) == [True] * 3
    assert parallel_map(work, range(3)) == [False] * 3


def test_within_such_a_thread_nothing_is_shared_again() -> None:
    def inner(_: int) -> str:
        return threading.current_thread().name

    def outer(_: int) -> bool:
        return set(parallel_map(inner, range(3))) == {threading.current_thread().name}

    assert all(parallel_map(outer, range(4)))


def test_an_error_reaches_the_caller() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("item 3")
        return item

    with pytest.raises(ValueError, match="item 3"):
        parallel_map(work, range(6))
    assert parallel_map(work, range(3)) == [0, 1, 2]  # the threads go on working
