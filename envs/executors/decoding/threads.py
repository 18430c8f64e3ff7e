"""Work on a CPU side by side in threads that compute alone, instead of together on each operation.

A decoder's operations take some hundred microseconds, so threads that share every one of them spend a
fifth of their time waiting for each other (measured on two cores). Pieces of work that do not depend
on each other, such as the prompts of several images, go faster one to a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply a function to items side by side, each in a thread that computes alone.

    There are as many threads as PyTorch would use for one operation (`torch.get_num_threads()`). With
    one, and within such a thread, items are worked on one after the other. Inference mode is the caller's.

    Args:
        function: must be safe to run in several threads. An exception of it is raised here.
        items: any number.

    Returns:
        The results, in the order of the items.
    """
    threads = torch.get_num_threads()
    if threads < 2 or len(items) < 2:
        return [function(item) for item in items]
    inference = torch.is_inference_mode_enabled()

    def work(item: Item) -> Result:
        with torch.inference_mode(inference):
            return function(item)

    return list(_pool(threads).map(work, items))


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads for which PyTorch's number of threads is 1; made once for each `threads`."""
    with _lock:
        if threads not in _pools:
            pool = ThreadPoolExecutor(threads, thread_name_prefix="compute-alone")
            together = threading.Barrier(threads + 1)
            for _ in range(threads):
                pool.submit(_compute_alone, together)
            together.wait()
            # The number is a thread's own, but the last one set is also what a new thread starts with.
            torch.set_num_threads(threads)
            _pools[threads] = pool
        return _pools[threads]


def _compute_alone(together: threading.Barrier) -> None:
    torch.get_num_threads()  # a thread that has not asked would take the default at its first operation
    torch.set_num_threads(1)
    together.wait()


def _after_fork() -> None:
    """A forked process has none of its parent's threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)
