"""Segmenters in Ray actors, with the same `segment` as the one in this process.

All prompts on one image are one request. A request goes to the actor that its image's content names
(rendezvous hashing), so that a cached embedding is found again, and the choice for other images
stays when an actor is lost. Requests that fail are tried on the next actor in the image's order.
Because a request is decoded the same way by whichever actor serves it, losing an actor changes no
result. What happens to actors that die or hang is said in `prompter.runs.actors`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from envs.executors.base import (
    Executor,
    ExecutorCounters,
    ExecutorFailure,
    Segmentation,
    SegmentRequest,
    by_image,
    image_problem,
)
from envs.executors.config import ExecutorConfig
from envs.executors.serving.local import LocalExecutor
from envs.executors.serving.prefetch import Prefetcher
from envs.sample import RGB, content_hash
from prompter.runs.actors import ActorPool, Call, PooledActor
from prompter.runs.ray_runtime import ensure_ray
from prompter.types import PromptSet

START_SECONDS = 600.0
"""Longest that an actor may take to start: it may have to fetch its weights."""


IMAGES_AHEAD = 8
"""Images per actor that are sent to be encoded ahead at a time."""


class SegmenterWorker(PooledActor):
    """What runs in an actor: a `LocalExecutor`."""

    def __init__(self, config: ExecutorConfig, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._executor = LocalExecutor.from_config(config)

    def keep(self, image: list[Any], lot: int) -> ExecutorCounters:
        """Encode one image of a lot ahead; `image` is a list holding its reference."""
        before = self._executor.counters.copy()
        self._executor.keep([ray.get(image[0])], lot)
        return self._executor.counters.since(before)

    def segment(
        self,
        image: list[Any],
        requests: list[tuple[PromptSet, NDArray[np.float32] | None]],
        keep_instances: bool,
        keep_logits: bool,
    ) -> tuple[list[Segmentation | ExecutorFailure], ExecutorCounters]:
        """Serve all prompts (and mask prompts) on one image; `image` is a list holding its reference."""
        pixels: RGB = ray.get(image[0])
        before = self._executor.counters.copy()
        results = self._executor.segment(
            [SegmentRequest(pixels, prompts, mask_prompt=mask) for prompts, mask in requests],
            keep_instances=keep_instances,
            keep_logits=keep_logits,
        )
        return results, self._executor.counters.since(before)


def rendezvous_order(key: str, slots: int) -> list[int]:
    """Slot numbers by falling preference for a key (highest random weight, Thaler and Ravishankar 1998)."""
    weights = [hashlib.blake2b(f"{key}/{n}".encode(), digest_size=8).digest() for n in range(slots)]
    return sorted(range(slots), key=lambda n: weights[n], reverse=True)


class RayExecutor(Executor):
    """Several actors, each with the segmenter a config names. See `segment`.

    Args:
        config: `actors`, `num_cpus`, `num_gpus`, `threads`, `timeout_seconds`, `retries`,
            `max_restarts` and `queue_depth` concern the pool, all else the segmenter.

    Raises:
        UserError: if the segmenter or its weights are not to be had, or Ray is too small for the actors.
        InfrastructureError: if an actor cannot be started.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        ensure_ray()
        self.config, self.name = config, config.name
        self.counters = ExecutorCounters()
        self._lock = threading.Lock()
        threads = config.threads or max(1, int(config.num_cpus))
        self._pool = ActorPool(
            SegmenterWorker,
            (config.model_copy(update={"backend": "local"}), threads),  # the same, but never a pool again
            config,
            ("actors", f"executor {self.name!r}", "executor"),
            # One pool of threads per actor and no more: two that spin against each other slow both manyfold.
            environment={"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            start_seconds=START_SECONDS,
            retries=config.retries,
            queue_depth=config.queue_depth,
        )
        self._pool.wait_ready()
        self._prefetcher = Prefetcher(self._keep, f"segmenter {self.name}")

    def segment(
        self,
        requests: Sequence[SegmentRequest],
        *,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """Return one result per request, in order, as `LocalExecutor.segment` does.

        An actor that dies, or takes longer than `timeout_seconds` for one request (it is then
        killed), is replaced while restarts are left. What it was serving is tried again elsewhere up
        to `retries` times, and then comes back as `ExecutorFailure`; what it had not begun only
        moves. An exception inside an actor counts as a failed try, and the actor stays.

        Raises:
            PoolDead: if no actor is left and none may be started again.
        """
        results: list[Segmentation | ExecutorFailure] = [ExecutorFailure("not served")] * len(requests)
        calls: list[tuple[list[int], Call]] = []
        self._prefetcher.wait()
        with self._lock:
            for image, indices in by_image(requests):
                if (problem := image_problem(image)) is not None:
                    self._fail(results, indices, ExecutorFailure(problem, retryable=False))
                    continue
                own = [(requests[i].prompts, requests[i].mask_prompt) for i in indices]
                order = self._order(image)
                arguments = ([self._pool.machinery.put(image)], own, keep_instances, keep_logits)
                calls.append((indices, Call("segment", arguments, order)))
            try:
                self._pool.check_health()
                self._pool.run([call for _, call in calls])
            finally:
                self.counters.restarts, self.counters.retries = self._pool.restarts, self._pool.retried
            for indices, call in calls:
                if call.failure is not None:
                    sentence = f"no actor could serve this image in {call.tries} tries: {call.failure}"
                    self._fail(results, indices, ExecutorFailure(sentence))
                    continue
                answers, counters = call.answer
                self.counters.add(counters)
                for index, answer in zip(indices, answers, strict=True):
                    results[index] = answer
        return results

    def prefetch(self, images: Iterable[RGB]) -> None:
        """See `Executor.prefetch`; each image goes to the actor that `segment` will ask."""
        self._prefetcher.start(images)

    def take_prefetch_spans(self) -> list[tuple[float, float]]:
        """See `Executor.take_prefetch_spans`."""
        return self._prefetcher.take_spans()

    def _keep(self, images: Iterable[RGB], lot: int) -> None:
        """Encode images in their actors. A call that failed is left for `segment` to make again."""
        sound = (image for image in images if image_problem(image) is None)
        # A few at a time, so that the object store holds few images and closing waits for few.
        while part := list(islice(sound, IMAGES_AHEAD * self.config.actors)):
            calls = [
                Call("keep", ([self._pool.machinery.put(image)], lot), self._order(image)) for image in part
            ]
            with self._lock:
                try:
                    self._pool.run(calls)
                finally:
                    self.counters.restarts, self.counters.retries = self._pool.restarts, self._pool.retried
                for call in calls:
                    if call.failure is None:
                        self.counters.add(call.answer)

    def _order(self, image: RGB) -> list[int]:
        return rendezvous_order(content_hash(image), self.config.actors)

    def _fail(
        self, results: list[Segmentation | ExecutorFailure], indices: list[int], failure: ExecutorFailure
    ) -> None:
        self.counters.failures += len(indices)
        for index in indices:
            results[index] = failure

    def process_ids(self) -> list[int | None]:
        """See `ActorPool.process_ids`; for monitoring."""
        return self._pool.process_ids()

    def close(self) -> None:
        """End the actors. Safe to call twice."""
        self._prefetcher.close()
        self._pool.close()
