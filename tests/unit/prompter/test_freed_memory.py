"""Freed memory stays with a process that asks for it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from prompter.runs.memory import keep_freed_memory

BLOCK = 100_000_000

PROGRAM = f"""
import ctypes, resource, sys
from prompter.runs.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def once():
    block = libc.malloc({BLOCK})
    ctypes.memset(block, 1, {BLOCK})
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that five blocks, one after the other, were given anew."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_a_block_as_large_as_one_before_is_given_its_pages() -> None:
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        assert not keep_freed_memory()
        return
    kept = faults("keep")
    assert kept < 100
    assert faults("leave") > 100 + 10 * kept


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False
