"""Every family of the table on a thin model of its true class: asked, sampled, scored, trained, saved.

Layers and processors are the true ones; widths are small and weights random. Where vLLM runs a family on
this CPU, two optimiser steps are made with one of its engines, else with transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig
from trl.trainer.utils import add_fused_lm_head

from prompter.chat import SamplingRequest
from prompter.checkpoint import SETTINGS_FILE, Checkpoint, load_policy, load_weights
from prompter.errors import UserError
from prompter.families import POLICY_FAMILIES, carries_state, has_experts
from prompter.runs.run_folder import RunFolder
from prompter.sampling import open_sampler
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.cpu_limits import cpu_options
from prompter.sampling.huggingface import HuggingFaceSampler
from prompter.sampling.image_tokens import image_token_count
from prompter.sampling.token_sampler import TokenSampler
from prompter.sampling.vllm_engine import VllmSampler
from prompter.types import Completion
from recipes.config import load_config
from recipes.grpo import train
from recipes.training.shared_prompts import shared_log_probabilities
from tests.fixtures.family_policies import save_family_policy
from tests.fixtures.packed_rows import KEPT, batch_of, packed, plainly
from tests.fixtures.reference import reference_logprobs
from tests.fixtures.tiny_policy import save_random_adapter
from tests.fixtures.toy_task import save_manifest
from tests.fixtures.training import write_config

STEPS = 2
ROUNDING = 1e-4
"""Largest mean difference of log-probabilities that float32's rounding makes here."""
HALF_ROUNDING = 0.08
"""The same for an engine that computes in bfloat16; about 0.03 is found, and 1.2 with another adapter."""
STATE_PROJECTIONS = {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"}
"""Linear layers of a layer that carries a state."""


class World(NamedTuple):
    policy: Checkpoint
    run: RunFolder
    backend: str
    sampler: TokenSampler  # of the run, kept open

    @property
    def recurrent(self) -> bool:
        """Whether three of four layers of the published model carry a state."""
        return self.policy.family.startswith("qwen3_5")


def backend_of(family: str) -> str:
    """What samples in the run: vLLM where it is installed and computes the family on this CPU."""
    bfloat16 = torch.cpu._is_avx512_bf16_supported()
    known = "moe" not in family and (bfloat16 or not family.startswith("qwen3_5"))
    return "vllm" if known and find_spec("vllm") is not None else "hf"


@pytest.fixture(scope="module", params=list(POLICY_FAMILIES))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp(request.param)
    policy = save_family_policy(root / "policy", request.param)
    data = {"name": "manifest", "options": {"path": str(save_manifest(root / "squares", 8))}}
    backend = backend_of(policy.family)
    path = write_config(
        root / "config.yaml",
        root / "policy",
        dataset=data,
        eval={"samples": 1},
        rewards={"tests.fixtures.family_policies:reward_of_text": 1.0},
        sampler={"backend": backend, "threads": 1, "kv_cache_gib": 0.1, "max_num_seqs": 16},
        trainer={
            "max_steps": STEPS,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 5e-3,
            "save_strategy": "no",
        },
    )
    kept: list[TokenSampler] = []

    def opening(*args: Any, **options: Any) -> TokenSampler:
        kept.append(open_sampler(*args, **options))
        return kept[0]

    kind: Any = VllmSampler if backend == "vllm" else HuggingFaceSampler
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prompter.sampling.open_sampler", opening)
        patch.setattr(kind, "close", lambda self: None)
        run = train(load_config(path))
    yield World(policy, run, backend, kept[0])
    kept[0].close()


def difference(
    model: Any, policy: Checkpoint, requests: list[SamplingRequest], groups: list[list[Completion]]
) -> float:
    """Mean |difference| of reported log-probabilities from those of a forward pass of `model`."""
    found = [
        np.abs(reference_logprobs(model, policy, request, one, 1.0) - np.array(one.logprobs))
        for request, group in zip(requests, groups, strict=True)
        for one in group
    ]
    return float(np.concatenate(found).mean())


def picture(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (64, 64), colour)


def test_it_is_asked_as_the_table_says(world: World) -> None:
    policy, known = world.policy, POLICY_FAMILIES[world.policy.family]
    model = AutoConfig.from_pretrained(policy.source)
    assert policy.frame_kind == known.frame
    assert (policy.family == "qwen2_5_vl") == (known.frame == "absolute")
    assert carries_state(model) == world.recurrent == ("enable_thinking" in known.template)
    assert has_experts(model) == policy.family.endswith("moe")
    assert image_token_count(policy.processor, policy.model_image(picture()).size) == 16
    assert cpu_options(model, "auto", "it")["dtype"] == ("bfloat16" if world.recurrent else "float32")


def test_a_thought_is_opened_or_not_as_the_template_is_told(world: World, tmp_path: Path) -> None:
    """One setting for trainer, sampler and evaluation; it stays with the checkpoint."""
    policy = world.policy
    options = {"enable_thinking": False}
    if not world.recurrent:
        with pytest.raises(UserError, match=r"sets 'enable_thinking', which .* does not use"):
            load_policy(policy.source, {"template_options": options})
        assert not policy.thought_opened
        return
    assert policy.thought_opened and policy.render("ships").endswith("<think>\n")
    without = load_policy(policy.source, {"template_options": options})
    assert not without.thought_opened and without.render("ships").endswith("</think>\n\n")
    request = without.request("ships", picture())
    sampler = open_sampler(without, SamplerConfig(backend="hf"), model=load_weights(without))
    asked = sampler.processor.tokenizer.decode(sampler.prompt_ids(request))
    assert asked.endswith("</think>\n\n")
    without.save_protocol(tmp_path)
    AutoConfig.from_pretrained(policy.source).save_pretrained(tmp_path)
    assert json.loads((tmp_path / SETTINGS_FILE).read_text())["template_options"] == options
    assert load_policy(tmp_path).render("ships") == without.render("ships")
    with pytest.raises(UserError, match="Did you mean 'enable_thinking'"):
        load_policy(policy.source, {"template_options": {"enable_thinkin": True}})
    with pytest.raises(UserError, match="set wherever a prompt is rendered"):
        load_policy(policy.source, {"template_options": {"add_generation_prompt": False}})


def test_it_answers_alone_as_in_a_batch_with_the_log_probabilities_of_a_forward_pass(world: World) -> None:
    policy = world.policy
    model: Any = load_weights(policy, dtype=torch.float32)
    sampler = open_sampler(policy, SamplerConfig(backend="hf"), model=model)
    queries = ["the largest building", "all of the small ships beside the pier"]
    requests = [
        policy.request(query, picture(colour)) for query, colour in zip(queries, ("red", "blue"), strict=True)
    ]
    settings = SamplingSettings(max_new_tokens=12, temperature=0.0)
    together = sampler.sample(requests, settings, logprobs=True)
    alone = [sampler.sample([one], settings)[0] for one in requests]
    assert [group[0].token_ids for group in together] == [group[0].token_ids for group in alone]
    assert len({group[0].token_ids for group in alone}) == 2
    assert difference(model, policy, requests, together) < ROUNDING
    assert difference(model, policy, requests[::-1], together) > 0.1, "the comparison must be able to fail"


def test_prompts_are_packed_where_that_changes_nothing(world: World) -> None:
    """Layers with a state run from one completion into the next: there the plain path is taken."""
    model: Any = load_weights(world.policy, dtype=torch.float32)
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    batch = batch_of(world.policy, [0, 0, 1, 0])
    rows = dict(batch)
    given = {name: rows.pop(name) for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    accelerator = SimpleNamespace(unwrap_model=lambda one: one, autocast=torch.no_grad)
    score = partial(shared_log_probabilities, accelerator, model, *rows.values(), KEPT, num_images=[1] * 4)
    with torch.no_grad():
        plain = plainly(model, batch)[0]
        shared = score(**given)
        if world.recurrent:
            assert shared is None
            assert (packed(model, batch)[0] - plain).abs().max() > 0.1, "packing would have been wrong"
            # The first completion behind a prompt is right even so.
            torch.testing.assert_close(packed(model, batch)[0][[0, 2]], plain[[0, 2]], rtol=0, atol=1e-3)
        else:
            assert shared is not None
            torch.testing.assert_close(shared[0], plain, rtol=1e-4, atol=ROUNDING)


def test_sampler_and_trainer_agree_before_and_after_a_step(world: World) -> None:
    records = world.run.read_metrics("train")
    assert [record["step"] for record in records] == [1, 2]
    half = world.recurrent and world.backend == "vllm"
    for record in records:
        gap = record["sampling/sampling_logp_difference/mean"]
        print(f"{world.policy.family} {world.backend} step {record['step']}: {gap:.2e}")
        assert gap < (HALF_ROUNDING if half else ROUNDING)
        assert record["sampler_version"] == record["step"] - 1
        assert record["grad_norm"] > 0


def test_engines_follow_an_adapter_of_every_module_that_is_adapted(world: World, tmp_path: Path) -> None:
    """And one that moves a single kind of projection in layers with a state is heeded, whichever it is."""
    if world.backend != "vllm":
        pytest.skip("vLLM does not compute this family on a CPU, or is not installed")
    from peft import PeftModel
    from safetensors.torch import load_file, save_file

    policy, sampler = world.policy, world.sampler
    requests = [policy.request("all ships", picture("red")), policy.request("a pier", picture("blue"))]
    settings = SamplingSettings(max_new_tokens=12, n=4, seed=1)
    folder = save_random_adapter(policy, tmp_path / "all", seed=0)
    weights = load_file(folder / "adapter_model.safetensors")
    kinds = ["all", *(sorted(STATE_PROJECTIONS) if world.recurrent else ())]
    for version, kind in enumerate(kinds, start=10):
        if kind != "all":
            still = {name: value * (f".{kind}." in name) for name, value in weights.items()}
            shutil.copytree(folder, tmp_path / kind)
            save_file(still, tmp_path / kind / "adapter_model.safetensors", {"format": "pt"})
        sampler.sync_adapter(tmp_path / kind, version)
        groups = sampler.sample(requests, settings, logprobs=True)
        base: Any = load_weights(policy, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(load_weights(policy, dtype=torch.float32), tmp_path / kind)
        far, near = (difference(model, policy, requests, groups) for model in (base, adapted))
        print(
            f"{policy.family}, adapter on {kind}: {near:.1e} from the adapted model, {far:.1e} from its base"
        )
        assert near < (HALF_ROUNDING if world.recurrent else ROUNDING) and far > 2 * near


def test_a_trained_policy_is_saved_and_opened(world: World) -> None:
    """What changed are the modules that its family's adapters are for, each kind of them."""
    trained = load_policy(world.run.checkpoints_dir / "final")
    assert trained.settings.model_dump(exclude={"frame"}) == world.policy.settings.model_dump(
        exclude={"frame"}
    )
    before = load_weights(world.policy, dtype=torch.float32).state_dict()
    after = load_weights(trained, dtype=torch.float32).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kinds = {name.split(".")[-2] for name in changed}
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    mlp = {"gate_proj", "up_proj", "down_proj"}
    state = STATE_PROJECTIONS if world.recurrent else set()
    # Experts stay frozen; Qwen3.5's mixture has one expert that every token takes, of linear layers.
    dense = mlp if world.recurrent or not world.policy.family.endswith("moe") else set()
    assert kinds == attention | dense | state
    assert all("language_model" in name for name in changed)


def test_vllm_says_what_it_cannot_compute_on_a_cpu(world: World) -> None:
    model = AutoConfig.from_pretrained(world.policy.source)
    if not world.recurrent:
        assert cpu_options(model, "float32", "it") == {"dtype": "float32"}
        return
    assert cpu_options(model, "bfloat16", "it")["enable_prefix_caching"] is False
    with pytest.raises(UserError, match=r"sampler\.dtype is float32, but it has layers that carry a state"):
        cpu_options(model, "float32", "it")
