"""One thread in which an executor encodes images before anybody asks for masks on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from envs.sample import RGB


class Prefetcher:
    """Encodes one lot of images at a time, in the order the lots were given.

    Args:
        encode: encodes images and keeps the embeddings, given the images, to be read one after the other,
            and the lot's number.
        name: of the thread.
    """

    def __init__(self, encode: Callable[[Iterable[RGB], int], None], name: str) -> None:
        self._encode, self._name = encode, name
        self._thread: ThreadPoolExecutor | None = None
        self._lots: list[Future[None]] = []
        self._spans: list[tuple[float, float]] = []
        self._count = 0
        self._closed = False

    def start(self, images: Iterable[RGB]) -> None:
        """Begin with another lot when those before are done; returns at once."""
        if self._closed:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._count += 1
        self._lots.append(self._thread.submit(self._work, images, self._count))

    def wait(self) -> None:
        """Return when all lots are done; raise what one of them raised."""
        lots, self._lots = self._lots, []
        for lot in lots:
            lot.result()

    def take_spans(self) -> list[tuple[float, float]]:
        """Begin and end (`time.perf_counter`) of each lot that was finished since the last call."""
        taken, self._spans = self._spans, []
        return taken

    def close(self) -> None:
        """Let the thread end after the image it is at. Safe to call twice."""
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._lots = []

    def _work(self, images: Iterable[RGB], lot: int) -> None:
        started = time.perf_counter()
        try:
            self._encode((image for image in images if not self._closed), lot)
        finally:
            self._spans.append((started, time.perf_counter()))
