"""The pool of engines on engines that compute nothing: however a call is cut, its samples are the same."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prompter.chat import SamplingRequest
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.ray_pool import RayVllmPool, share_bounds
from prompter.sampling.simulated import SimulatedEngines
from prompter.types import Completion
from tests.unit.prompter.test_sampling_tokens import PAD, SIDE, Processor

PROMPTS = 23


def sampled(engine: int, method: str, arguments: Sequence[Any]) -> list[list[Completion]]:
    """What an engine samples hangs on a prompt's tokens and its seed."""
    prompts, settings, _, _ = arguments
    return [
        [Completion("", (prompt.token_ids[-1], prompt.seed + j), None, "stop") for j in range(settings.n)]
        for prompt in prompts
    ]


def pool_of(config: SamplerConfig, seed: int = 0) -> tuple[RayVllmPool, list[int]]:
    """A pool whose engines take random times, now and then a very long one; and the sizes of its shares."""
    rng = np.random.default_rng(seed)
    sizes: list[int] = []

    def seconds(engine: int, method: str, arguments: Sequence[Any]) -> float:
        sizes.append(len(arguments[0]))
        return float(rng.lognormal(1.0, 1.0)) * (50 if rng.random() < 0.1 else 1)

    policy: Any = SimpleNamespace(processor=Processor(), source="nowhere")
    machinery = SimulatedEngines(seconds, sampled, own_clock=lambda: 0.0)
    return RayVllmPool(policy, config, machinery=machinery), sizes


def requests_of(count: int = PROMPTS) -> list[SamplingRequest]:
    image = Image.new("RGB", (SIDE, SIDE))
    return [SamplingRequest([PAD, 100 + k], image, "one") for k in range(count)]  # type: ignore[list-item]


@pytest.mark.parametrize("engines", [1, 2, 5])
@pytest.mark.parametrize("share", [None, 1, 4, PROMPTS])
def test_neither_engines_nor_shares_change_a_sample(engines: int, share: int | None) -> None:
    settings = SamplingSettings(n=4, seed=7)
    expected = pool_of(SamplerConfig(actors=1, share_prompts=PROMPTS))[0].sample(requests_of(), settings)
    assert len({one.token_ids for group in expected for one in group}) == 4 * PROMPTS
    pool, sizes = pool_of(SamplerConfig(actors=engines, max_num_seqs=12, share_prompts=share), engines)
    assert pool.sample(requests_of(), settings) == expected
    assert pool.shipped_images == 1
    wanted = min(share or 3, -(-PROMPTS // engines))
    assert max(sizes) <= wanted and min(sizes) >= wanted - 2
    assert sum(sizes) == PROMPTS + pool.repeated_prompts, "no prompt but a slow one is sampled twice"
    finished = [one for part in pool.sample_in_parts(requests_of(), settings) for one in part]
    assert sorted(place for place, _ in finished) == list(range(PROMPTS))
    assert [group for _, group in sorted(finished, key=lambda one: one[0])] == expected
    counters = pool.counters()
    assert counters["engine_restarts"] == counters["resampled_prompts"] == 0


def test_slow_shares_do_occur_above_and_are_counted() -> None:
    pool, _ = pool_of(SamplerConfig(actors=5, share_prompts=1))
    for seed in range(4):
        pool.sample(requests_of(), SamplingSettings(n=1, seed=seed))
    assert pool.repeated_prompts > 0
    assert 0 < pool.counters()["late_shares"] <= pool.counters()["repeated_prompts"] == pool.repeated_prompts


@pytest.mark.parametrize(
    ("prompts", "completions", "fields", "bounds"),
    [
        (0, 4, {}, [0]),
        (5, 3, {"actors": 2}, [0, 2, 5]),  # one share would fill an engine, but there are two
        (16, 16, {}, [0, 4, 8, 12, 16]),
        (16, 100, {}, list(range(17))),  # a group larger than an engine
        (3, 1, {"actors": 8}, [0, 1, 2, 3]),
        (10, 8, {"share_prompts": 4}, [0, 3, 6, 10]),
    ],
)
def test_a_call_is_cut_so_that_every_engine_is_filled(
    prompts: int, completions: int, fields: dict[str, Any], bounds: list[int]
) -> None:
    assert share_bounds(prompts, completions, SamplerConfig(**fields)) == bounds
