"""What is done when memory runs out: the work is halved, down to one piece, and counted."""

from __future__ import annotations

import threading

import torch

_SAYS = ("out of memory", "can't allocate memory", "failed to allocate memory", "not enough memory")
"""What allocators say that have no exception of their own: PyTorch's on a CPU, ONNX Runtime's, CUDA's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAYS)


def release_memory() -> None:
    """Give back what a GPU's allocator keeps for later.

    Call it outside the `except` block: until that is left, the exception's traceback holds the tensors of the
    attempt that failed.
    """
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class MemoryWatch:
    """Counts how often memory ran out, from any thread.

    Attributes:
        times: so often.
    """

    def __init__(self) -> None:
        self.times = 0
        self._lock = threading.Lock()

    def ran_out(self) -> None:
        """Count, and `release_memory`."""
        with self._lock:
            self.times += 1
        release_memory()
