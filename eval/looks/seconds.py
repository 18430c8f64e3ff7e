"""What several looks at a question cost: wall times of a run's chunks, and seconds per question from them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from envs.executors.base import Executor
from prompter.runs.jsonl import append_lines, drop_unfinished_line, read_lines
from prompter.runs.run_folder import RunFolder

SECONDS = "seconds.jsonl"
"""Wall times of a run's chunks; the only file of it that is not the same every time."""


class ChunkClock:
    """Wall times of one chunk that is looked at several times.

    Args:
        queries: questions in the chunk.

    `greedy` and `sampled` are the seconds of its completions.
    """

    def __init__(self, queries: int) -> None:
        self._queries = queries
        self.greedy = self.sampled = 0.0
        self._encode: dict[str, float] = {}
        self._decode: dict[str, float] = {}

    @contextmanager
    def segmenting(self, name: str, executor: Executor | None) -> Iterator[None]:
        """Time a segmenter's work on the chunk; what it encoded in that time is told apart."""
        counters = getattr(executor, "counters", None)
        encoded = 0.0 if counters is None else counters.encode_seconds
        started = time.perf_counter()
        yield
        self._encode[name] = 0.0 if counters is None else counters.encode_seconds - encoded
        self._decode[name] = time.perf_counter() - started - self._encode[name]

    def log(self, folder: RunFolder) -> None:
        """Add the chunk to the run's wall times."""
        path = folder.path / SECONDS
        drop_unfinished_line(path)
        line = {
            "queries": self._queries,
            "greedy": self.greedy,
            "sampled": self.sampled,
            "encode": self._encode,
            "decode": self._decode,
        }
        append_lines(path, [line])


def seconds_per_query(
    folder: RunFolder, name: str, numbers: Sequence[int], samples: int
) -> dict[str, Any] | None:
    """Seconds per question of the greedy answer and of each number of looks; None where none were kept.

    The images are encoded once, whatever the number. Completions and decodes were all made in one go of
    `samples`: a smaller number has its share of that.

    Args:
        folder: the run.
        name: the segmenter's.
        numbers: of looks.
        samples: sampled per question.

    Returns:
        `greedy`, `looks` (one per number, without the greedy answer), `encode`, and `queries` timed.
    """
    path = folder.path / SECONDS
    lines = list(read_lines(path)) if path.exists() else []
    lines = [line for line in lines if name in line["decode"]]
    queries = sum(line["queries"] for line in lines)
    if not queries:
        return None
    greedy, sampled = (sum(line[key] for line in lines) / queries for key in ("greedy", "sampled"))
    encode, decode = (sum(line[key][name] for line in lines) / queries for key in ("encode", "decode"))
    one = decode / (samples + 1)
    return {
        "greedy": greedy + encode + one,
        "looks": [encode + number * (one + sampled / samples) for number in numbers],
        "encode": encode,
        "queries": queries,
    }
