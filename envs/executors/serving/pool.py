"""Segmenters in Ray actors, with the same `segment` as the one in this process.

All prompts on one image are one request. A request goes to the actor that its image's content names
(rendezvous hashing), so that a cached embedding is found again, and the choice for other images
stays when an actor is lost. Requests that fail are tried on the next actor in the image's order.
Because a request is decoded the same way by whichever actor serves it, losing an actor changes no
result. Everything about failures is in `RayExecutor.segment`'s docstring.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from envs.executors.base import (
    Executor,
    ExecutorCounters,
    ExecutorFailure,
    Segmentation,
    check_lengths,
    image_problem,
    number_images,
)
from envs.executors.config import ExecutorConfig
from envs.executors.serving.local import LocalExecutor
from envs.sample import RGB, content_hash
from prompter.errors import InfrastructureError, UserError
from prompter.runs.ray_runtime import ensure_ray
from prompter.types import PromptSet

START_SECONDS = 600.0
"""Longest that an actor may take to start: it may have to fetch its weights."""

POLL_SECONDS = 0.5
"""How often timeouts are looked at while nothing arrives."""


class ExecutorPoolDead(InfrastructureError):
    """Every actor is gone and none may be started again. Nothing that was saved before is touched."""


class SegmenterWorker:
    """What runs in an actor: a `LocalExecutor`."""

    def __init__(self, config: ExecutorConfig, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._executor = LocalExecutor.from_config(config)

    def pid(self) -> int:
        """Operating system's number of this process; also the sign that the actor is ready."""
        return os.getpid()

    def segment(
        self,
        image: list[Any],
        prompts: list[PromptSet],
        mask_prompts: list[NDArray[np.float32] | None] | None,
        keep_instances: bool,
        keep_logits: bool,
    ) -> tuple[list[Segmentation | ExecutorFailure], ExecutorCounters]:
        """Serve all prompts on one image; `image` is a list holding its object reference."""
        pixels: RGB = ray.get(image[0])
        before = self._executor.counters.copy()
        results = self._executor.segment(
            [pixels] * len(prompts),
            prompts,
            mask_prompts=mask_prompts,
            keep_instances=keep_instances,
            keep_logits=keep_logits,
        )
        return results, self._executor.counters.since(before)


@dataclass
class _Request:
    """All prompts on one image, and how often they were tried."""

    image: Any
    order: list[int]
    indices: list[int]
    prompts: list[PromptSet]
    mask_prompts: list[NDArray[np.float32] | None] | None
    attempts: int = 0
    last_error: str = ""


@dataclass
class _Slot:
    """A place for an actor, which outlives it."""

    number: int
    actor: Any = None
    starting: Any = None
    """Reference that resolves when the actor is ready, while it starts."""
    started_at: float = 0.0
    pid: int | None = None
    gone: bool = False
    """The actor died and may not be replaced."""
    waiting: deque[_Request] = field(default_factory=deque)
    in_flight: dict[Any, _Request] = field(default_factory=dict)
    busy_since: float = 0.0
    """When the actor began with the oldest request in flight."""


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
        UserError: if the segmenter or its weights are not to be had, or no actor starts.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        ensure_ray()
        self.config, self.name = config, config.name
        self.counters = ExecutorCounters()
        self._restarts_left = config.max_restarts
        self._slots = [_Slot(number) for number in range(config.actors)]
        self._lock = threading.Lock()
        self._closed = False
        threads = config.threads or max(1, int(config.num_cpus))
        # One pool of threads per actor and no more: two that spin against each other slow both down manyfold.
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        options = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus, "max_restarts": 0}
        remote = ray.remote(SegmenterWorker).options(**options, runtime_env={"env_vars": environment})
        # Inside the actor the same config, but never a pool again.
        self._start_actor = lambda: remote.remote(config.model_copy(update={"backend": "local"}), threads)
        try:
            for slot in self._slots:
                self._start(slot)
            for slot in self._slots:
                slot.pid = ray.get(slot.starting, timeout=START_SECONDS)
                slot.starting = None
        except GetTimeoutError:
            self.close()
            raise UserError(
                f"the executor pool did not start in {START_SECONDS:.0f} s: Ray may lack the resources for "
                f"{config.actors} actors with {config.num_cpus} CPUs and {config.num_gpus} GPUs each."
            ) from None
        except RayError as error:
            self.close()
            cause = getattr(error, "cause", None)
            if isinstance(cause, UserError):
                raise cause from None
            raise UserError(f"an executor actor could not start: {_last_line(error)}") from None

    def segment(
        self,
        images: Sequence[RGB],
        prompts: Sequence[PromptSet],
        image_keys: Sequence[str] | None = None,
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """Return one result per prompt set, in order, as `LocalExecutor.segment` does.

        An actor that dies, or takes longer than `timeout_seconds` for one request (it is then
        killed), is replaced while restarts are left. What it was serving is tried again elsewhere up
        to `retries` times, and then comes back as `ExecutorFailure`; what it had not begun only
        moves. An exception inside an actor counts as a failed try, and the actor stays.

        Raises:
            ExecutorPoolDead: if no actor is left and none may be started again.
            ValueError: if the sequences differ in length.
        """
        check_lengths(images, prompts=prompts, image_keys=image_keys, mask_prompts=mask_prompts)
        with self._lock:
            if self._closed:
                raise ExecutorPoolDead(f"the pool of executor {self.name!r} is closed")
            results: list[Segmentation | ExecutorFailure] = [ExecutorFailure("not served")] * len(prompts)
            requests = self._requests(images, prompts, image_keys, mask_prompts, results)
            self.check_health()
            for request in requests:
                self._enqueue(request)
            try:
                while any(slot.waiting or slot.in_flight for slot in self._slots):
                    self._send((keep_instances, keep_logits))
                    self._receive(results)
            finally:
                for slot in self._slots:  # not empty only when something above raised
                    slot.waiting.clear()
                    slot.in_flight.clear()
            return results

    def actor_pids(self) -> list[int | None]:
        """Process number of each actor that runs, None for one that starts or is gone; for monitoring."""
        return [None if slot.gone or slot.starting is not None else slot.pid for slot in self._slots]

    def check_health(self) -> None:
        """Ask every idle actor for a sign of life; replace the dead ones while restarts are left.

        Raises:
            ExecutorPoolDead: if no actor is left.
        """
        pings = {slot.number: slot.actor.pid.remote() for slot in self._slots if self._is_idle(slot)}
        deadline = time.monotonic() + self.config.timeout_seconds
        for number, ping in pings.items():
            try:
                ray.get(ping, timeout=max(0.0, deadline - time.monotonic()))
            except (RayActorError, GetTimeoutError) as error:
                self._lose(self._slots[number], _last_line(error))
        self._raise_if_dead("")

    def close(self) -> None:
        """End the actors. Safe to call twice."""
        self._closed = True
        for slot in self._slots:
            if slot.actor is not None and ray.is_initialized():
                ray.kill(slot.actor, no_restart=True)
            slot.actor, slot.gone = None, True

    @staticmethod
    def _is_idle(slot: _Slot) -> bool:
        return not slot.gone and slot.starting is None and not slot.in_flight

    def _requests(
        self,
        images: Sequence[RGB],
        prompts: Sequence[PromptSet],
        image_keys: Sequence[str] | None,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None,
        results: list[Segmentation | ExecutorFailure],
    ) -> list[_Request]:
        """One request per distinct image, put into the object store once; bad images are answered."""
        which, distinct = number_images(images, image_keys)
        members: list[list[int]] = [[] for _ in distinct]
        for index, number in enumerate(which):
            members[number].append(index)
        requests = []
        for image, indices in zip(distinct, members, strict=True):
            problem = image_problem(image)
            if problem is not None:
                self.counters.failures += len(indices)
                for index in indices:
                    results[index] = ExecutorFailure(problem, retryable=False)
                continue
            requests.append(
                _Request(
                    image=ray.put(image),
                    order=rendezvous_order(content_hash(image), len(self._slots)),
                    indices=indices,
                    prompts=[prompts[i] for i in indices],
                    mask_prompts=None if mask_prompts is None else [mask_prompts[i] for i in indices],
                )
            )
        return requests

    def _enqueue(self, request: _Request, avoid: int | None = None) -> None:
        """Queue a request at the first slot of its order that runs, else that starts, else `avoid`."""
        living = [self._slots[number] for number in request.order if not self._slots[number].gone]
        if not living:
            self._raise_if_dead(request.last_error)
        # A stable sort: the image's own order decides among equals.
        living.sort(key=lambda slot: (slot.number == avoid, slot.starting is not None))
        living[0].waiting.append(request)

    def _send(self, keep: tuple[bool, bool]) -> None:
        """Hand waiting requests to ready actors, a few at a time each."""
        for slot in self._slots:
            while slot.waiting and slot.starting is None and len(slot.in_flight) < self.config.queue_depth:
                request = slot.waiting.popleft()
                if not slot.in_flight:
                    slot.busy_since = time.monotonic()
                reference = slot.actor.segment.remote(
                    [request.image], request.prompts, request.mask_prompts, *keep
                )
                slot.in_flight[reference] = request

    def _receive(self, results: list[Segmentation | ExecutorFailure]) -> None:
        """Wait for one answer, start or timeout, and deal with all that have come."""
        owners = {reference: slot for slot in self._slots for reference in slot.in_flight}
        owners |= {slot.starting: slot for slot in self._slots if slot.starting is not None}
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=POLL_SECONDS)
        for reference in ready:
            slot = owners[reference]
            if reference == slot.starting:
                self._finish_start(slot)
            elif reference in slot.in_flight:
                self._finish_request(slot, reference, results)
        now = time.monotonic()
        for slot in self._slots:
            if slot.in_flight and now - slot.busy_since > self.config.timeout_seconds:
                self._lose(slot, f"no answer in {self.config.timeout_seconds:g} s", results)
            elif slot.starting is not None and now - slot.started_at > START_SECONDS:
                self._lose(slot, f"no start in {START_SECONDS:.0f} s", results)

    def _finish_start(self, slot: _Slot) -> None:
        try:
            slot.pid = ray.get(slot.starting)
            slot.starting = None
        except RayError as error:
            self._lose(slot, _last_line(error))

    def _finish_request(
        self, slot: _Slot, reference: Any, results: list[Segmentation | ExecutorFailure]
    ) -> None:
        request = slot.in_flight[reference]
        try:
            answers, counters = ray.get(reference)
        except RayActorError as error:
            self._lose(slot, _last_line(error), results)
            return
        except RayError as error:
            del slot.in_flight[reference]
            self._retry(request, slot.number, _last_line(error), results)
        else:
            del slot.in_flight[reference]
            self.counters.add(counters)
            for index, answer in zip(request.indices, answers, strict=True):
                results[index] = answer
        slot.busy_since = time.monotonic()

    def _lose(
        self, slot: _Slot, reason: str, results: list[Segmentation | ExecutorFailure] | None = None
    ) -> None:
        """An actor is dead or to be given up: replace it if restarts are left, and pass its requests on."""
        ray.kill(slot.actor, no_restart=True)
        slot.actor, slot.starting, slot.pid = None, None, None
        held, slot.in_flight = list(slot.in_flight.values()), {}
        waiting, slot.waiting = list(slot.waiting), deque()
        if self._restarts_left > 0:
            self._restarts_left -= 1
            self.counters.restarts += 1
            self._start(slot)
        else:
            slot.gone = True
        # Actors serve in order, so only the oldest request can have been the cause; the others merely move.
        for position, request in enumerate(held):
            request.last_error = reason
            if position == 0 and results is not None:
                self._retry(request, slot.number, reason, results)
            else:
                self._enqueue(request, avoid=slot.number)
        for request in waiting:
            request.last_error = reason
            self._enqueue(request)

    def _start(self, slot: _Slot) -> None:
        slot.actor = self._start_actor()
        slot.starting = slot.actor.pid.remote()
        slot.started_at = time.monotonic()

    def _retry(
        self, request: _Request, failed: int, reason: str, results: list[Segmentation | ExecutorFailure]
    ) -> None:
        """Queue a failed request elsewhere, or answer it with a failure when its tries are used up."""
        request.attempts += 1
        request.last_error = reason
        if request.attempts <= self.config.retries:
            self.counters.retries += 1
            self._enqueue(request, avoid=failed)
            return
        self.counters.failures += len(request.indices)
        failure = ExecutorFailure(f"no actor could serve this image in {request.attempts} tries: {reason}")
        for index in request.indices:
            results[index] = failure

    def _raise_if_dead(self, reason: str) -> None:
        if all(slot.gone for slot in self._slots):
            raise ExecutorPoolDead(
                f"all {len(self._slots)} actors of executor {self.name!r} are gone and its "
                f"{self.config.max_restarts} restarts are used up" + (f" (last: {reason})" if reason else "")
            )


def _last_line(error: BaseException) -> str:
    """The last line of an error's text: Ray puts a traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
