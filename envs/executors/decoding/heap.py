"""Memory that was freed stays with the process, so that the next image finds it.

A segmenter's encoder makes and frees tensors of tens of megabytes, the same ones for every image. The C
library hands each back to the operating system, and the next one is new pages, which the system clears one
by one at their first touch: a third of the time that MobileSAM's encoder takes on a CPU.
"""

from __future__ import annotations

import ctypes
from functools import cache

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_AT_MOST = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, from here on and in all of this process.

    What is free at the end of the heap is handed back from 2 GiB on. With MobileSAM a process is about
    300 MB larger than without.

    Returns:
        Whether it was told so: only glibc can be, which Linux has, except for Alpine.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or a system where none is found so
        return False
    # Large blocks come from the heap, which is kept, and not from mappings of their own, which are not.
    # Threads share that heap: one of their own could not hold such blocks.
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _AT_MOST), (_ARENA_MAX, 1))
    return all(mallopt(option, value) == 1 for option, value in wanted)
