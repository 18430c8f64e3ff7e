"""Actors that serve segmentations: the same results as in one process, whatever dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from envs.executors import open_executor
from envs.executors.base import ExecutorFailure, Segmentation
from envs.executors.config import ExecutorConfig
from envs.executors.families import build_segmenter
from envs.executors.serving.local import LocalExecutor
from envs.executors.serving.pool import RayExecutor, SegmenterWorker, rendezvous_order
from envs.sample import RGB
from prompter.errors import UserError
from prompter.runs.actors import PoolDead
from prompter.types import Instance, PromptSet
from tests.fixtures.requests import requests

GROUP = 3


class SlowWorker(SegmenterWorker):
    """Slow enough to be killed at work; an image whose first value is 250 hangs, 251 raises."""

    def segment(self, image, requests, keep_instances, keep_logits):  # type: ignore[no-untyped-def]
        import ray

        first = int(ray.get(image[0])[0, 0, 0])
        if first == 250:
            time.sleep(3600)
        if first == 251:
            raise RuntimeError("an actor's own mistake")
        time.sleep(0.15)
        return super().segment(image, requests, keep_instances, keep_logits)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RayExecutor]]:
    monkeypatch.setattr("envs.executors.serving.pool.SegmenterWorker", SlowWorker)
    pools: list[RayExecutor] = []
    yield pools
    for pool in pools:
        pool.close()


def open_pool(opened: list[RayExecutor], **options: object) -> RayExecutor:
    pool = open_executor(ExecutorConfig(family="box", backend="ray", num_cpus=0.1, **options))
    assert isinstance(pool, RayExecutor)
    opened.append(pool)
    return pool


def image(seed: int, first: int = 0) -> RGB:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    pixels[0, 0, 0] = first
    return pixels


def step(count: int, seed: int = 0) -> tuple[list[RGB], list[PromptSet]]:
    """A batch of rollouts: a group of completions per image, all different."""
    images = [image(seed + i) for i in range(count)]
    prompts = [
        PromptSet(tuple(Instance(box=(i % 20, k, i % 20 + 9, k + 12 + g)) for k in range(g)))
        for i in range(count)
        for g in range(GROUP)
    ]
    return [one for one in images for _ in range(GROUP)], prompts


def undisturbed(images: list[RGB], prompts: list[PromptSet]) -> list[Segmentation | ExecutorFailure]:
    return LocalExecutor(build_segmenter(ExecutorConfig(family="box"))).segment(requests(images, prompts))


def assert_same(results: list, expected: list) -> None:
    assert len(results) == len(expected)
    for one, other in zip(results, expected, strict=True):
        assert isinstance(one, Segmentation)
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.predicted_ious, other.predicted_ious)


def kill(pool: RayExecutor, *slots: int) -> None:
    for slot in slots:
        pid = pool.process_ids()[slot]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


def test_routing_is_stable_when_an_actor_is_lost() -> None:
    keys = [str(n) for n in range(300)]
    orders = {key: rendezvous_order(key, 4) for key in keys}
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.values())
    firsts = [order[0] for order in orders.values()]
    assert min(firsts.count(slot) for slot in range(4)) > 40
    for key, order in orders.items():
        # With three slots, an image moves only if it belonged to the fourth.
        assert rendezvous_order(key, 3) == [slot for slot in order if slot != 3]


def in_background(
    pool: RayExecutor, images: list[RGB], prompts: list[PromptSet]
) -> Future[list[Segmentation | ExecutorFailure]]:
    """Segment in a thread, so that actors can be killed at work."""
    with_one = ThreadPoolExecutor(max_workers=1)
    future = with_one.submit(pool.segment, requests(images, prompts))
    with_one.shutdown(wait=False)
    return future


def test_a_killed_actor_changes_nothing_and_all_killed_stops(opened: list[RayExecutor]) -> None:
    pool = open_pool(opened, actors=2, max_restarts=2)
    images, prompts = step(8)
    expected = undisturbed(images, prompts)
    keys = [str(index // GROUP) for index in range(len(images))]
    assert_same(pool.segment(requests(images, prompts, keys)), expected)
    counters = pool.counters
    assert (counters.decodes, counters.failures, counters.restarts) == (len(prompts), 0, 0)
    assert counters.instances == sum(len(prompt_set) for prompt_set in prompts)

    future = in_background(pool, images, prompts)
    time.sleep(0.3)
    kill(pool, 0)
    assert_same(future.result(120), expected)
    assert (counters.restarts, counters.failures) == (1, 0)
    assert counters.retries >= 1

    kill(pool, 1)  # while idle: noticed before the next step
    assert_same(pool.segment(requests(images, prompts)), expected)
    assert counters.restarts == 2

    future = in_background(pool, images, prompts)
    time.sleep(0.3)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not future.done():  # as soon as one runs, it is killed
        for pid in pool.process_ids():
            if pid is not None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.05)
    with pytest.raises(PoolDead, match=r"2 actors .* 2 restarts are used up"):
        future.result(1)
    with pytest.raises(PoolDead):
        pool.segment(requests(images, prompts))


def test_hanging_and_failing_requests_fail_alone(opened: list[RayExecutor]) -> None:
    pool = open_pool(opened, actors=2, max_restarts=4, retries=1, timeout_seconds=3)
    images, prompts = step(4)
    expected = undisturbed(images, prompts)
    bad = [image(90, first=250), image(91, first=251), np.zeros((5, 5), np.uint8)]
    box = PromptSet((Instance(box=(1, 1, 9, 9)),))
    results = pool.segment(requests([*bad, *images], [box, box, box, *prompts]))
    assert_same(results[3:], expected)
    hung, failed, malformed = results[:3]
    assert isinstance(hung, ExecutorFailure)
    assert "in 2 tries: no answer in 3 s" in hung.message
    assert isinstance(failed, ExecutorFailure)
    assert "an actor's own mistake" in failed.message
    assert isinstance(malformed, ExecutorFailure)
    assert not malformed.retryable
    assert (pool.counters.failures, pool.counters.retries) == (3, 2)
    assert pool.counters.restarts == 2  # an exception costs no actor, a hang does
    assert pool.segment([]) == []


def test_a_segmenter_that_cannot_be_built_is_the_users_mistake(opened: list[RayExecutor]) -> None:
    with pytest.raises(UserError, match="needs `model`"):
        open_executor(ExecutorConfig(family="sam2", backend="ray", num_cpus=0.1))


def test_images_encoded_ahead_are_found_by_their_actors_whatever_dies(opened: list[RayExecutor]) -> None:
    pool = open_pool(opened, actors=2)
    images, prompts = step(6)
    pool.prefetch(iter(images[::GROUP]))
    assert_same(pool.segment(requests(images, prompts)), undisturbed(images, prompts))
    assert (pool.counters.encodes, pool.counters.cache_hits_memory) == (6, 0)
    ((began, ended),) = pool.take_prefetch_spans()
    assert began < ended <= time.perf_counter()
    pool.segment(requests(images, prompts))
    assert (pool.counters.encodes, pool.counters.cache_hits_memory) == (6, 6)
    images, prompts = step(6, seed=50)
    kill(pool, 0)
    pool.prefetch(iter(images[::GROUP]))
    assert_same(pool.segment(requests(images, prompts)), undisturbed(images, prompts))
    assert pool.counters.restarts == 1 and pool.counters.failures == 0
