"""Memory of this process: what it used at most, and whether what it no longer uses is handed back."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path
from typing import Any

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_AT_MOST = 2**31 - 1


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MB (10^6 bytes)."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def reset_peak_memory() -> None:
    """Let the kernel forget the highest memory so far (Linux); elsewhere the peak is the process's."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def give_back_memory() -> None:
    """Hand freed memory back to the system, so that what comes next is not added to it (GNU libc only)."""
    gc.collect()
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def keep_freed_memory() -> bool:
    """Let what is freed stay with this process, from here on, until `give_back_memory` (GNU libc only).

    A segmenter's encoder makes and frees tensors of tens of megabytes, the same ones for every image. The C
    library hands each back to the system, and the next one is new pages, which the system clears one by one
    at their first touch: more than a quarter of the time that MobileSAM's encoder takes on a CPU. A process
    with MobileSAM is about 300 MB larger for it. What is free at the end of the heap goes back from 2 GiB on.

    Returns:
        Whether the C library could be told.
    """
    # Large blocks come from the heap, which is kept, and not from mappings of their own, which are not.
    # Threads share that heap: one of their own could not hold such blocks.
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _AT_MOST), (_ARENA_MAX, 1))
    option = _of_c_library("mallopt")
    return option is not None and all(option(name, value) == 1 for name, value in wanted)


def _of_c_library(name: str) -> Any:
    """A function of the C library; None where it has none of this name, or cannot be found so."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return getattr(library, name, None)
