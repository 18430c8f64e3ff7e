"""What a machine can do at most, and what the parts of a training step need of it.

A part's limit is its floating-point operations over the measured rate of a large matrix product in its
type; sampling's, one token after the other, is also bound by reading all weights once per token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices that are multiplied to find the peak."""

_COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
"""Larger than any cache."""


@dataclass(frozen=True)
class Machine:
    """What a device reached.

    Args:
        flops: floating-point operations per second of a large matrix product, a multiply-add as two.
        bandwidth: bytes per second that are read.
    """

    flops: float
    bandwidth: float


def measure_machine(device: str, dtype: torch.dtype = torch.float32, rounds: int = 3) -> Machine:
    """Time a matrix product and a reading of memory on a device; the fastest round counts."""
    kind = torch.device(device).type
    side, size = _SIDE[kind], _COPY_BYTES[kind]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    long = torch.ones(size // 4, device=device)
    product = min(_seconds(lambda: left @ right, device) for _ in range(rounds + 1))
    reading = min(_seconds(long.sum, device) for _ in range(rounds + 1))
    return Machine(2.0 * side**3 / product, size / reading)


def flops_of(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions that `work` makes PyTorch do.

    It runs in one thread, because other threads' operations are not seen.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        torch.set_num_threads(threads)
    return int(counter.get_total_flops())


def synchronise(device: str) -> None:
    """Wait until a device has done what it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def _seconds(work: Callable[[], Any], device: str) -> float:
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started
