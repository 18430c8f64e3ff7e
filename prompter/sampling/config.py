"""What samples completions: the `sampler:` section of a config, and how to open one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from prompter.runs.config import StrictModel
from prompter.runs.placement import Placement

if TYPE_CHECKING:
    pass


class SamplerConfig(StrictModel):
    """What samples completions."""

    renamed: ClassVar[Mapping[str, str]] = {
        "kind": "backend",
        "engines": "actors",
        "timeout_s": "timeout_seconds",
    }

    backend: Literal["hf", "vllm", "ray"] = "ray"
    """`hf` (transformers, in this process), `vllm` (one engine, in this process) or `ray` (a pool of vLLM
    engines, each an actor)."""

    actors: int = Field(default=1, ge=1)
    """Number of engines in a pool."""

    num_cpus: float = Field(default=1, ge=0)
    """CPU cores that Ray reserves per engine; fractions share a core."""

    num_gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves per engine; fractions share a GPU."""

    placement: Placement = "pack"
    """Where a pool's actors go on a cluster: `pack` (Ray's own rule), `spread` over as many nodes as there
    are, `this-node` (the trainer's) or `other-nodes` (all but that)."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads of an engine; null is 1 for an engine of a pool and all cores otherwise. Two pools that
    spin on the same cores slow each other down manyfold, so pools, trainer and executor should add up
    to the cores."""

    sync: Literal["adapters", "merged"] = "adapters"
    """How vLLM engines follow adapters that are trained: they load the `adapters`, which are of the language
    model alone then; or they are given all weights with the adapters `merged` into them, as when all weights
    are trained. That sends more, and adapters may be anywhere, in the vision tower, too. `hf` follows either
    way."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that one engine spans."""

    max_model_len: int | None = Field(default=None, ge=1)
    """Tokens of prompt and answer together; null leaves room for the largest image, 1024 tokens of text
    and the longest answer."""

    max_num_seqs: int = Field(default=64, ge=1)
    """Completions that an engine samples at once."""

    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1)
    """Share of a GPU's memory that an engine takes."""

    kv_cache_gib: float = Field(default=1.0, gt=0)
    """GiB for keys and values of one engine on a CPU."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the sampled copy's weights; `auto` is float32 on a CPU, else what the checkpoint was
    saved in. vLLM on a CPU has bfloat16 alone for Qwen3.5, which `auto` then is."""

    enforce_eager: bool = False
    """Do not capture CUDA graphs: starts sooner, samples slower. Always so on a CPU."""

    batch_size: int = Field(default=64, ge=1)
    """Completions at once, `hf` only. In half precision greedy answers are sampled with prompts of their own
    length only; 1 makes them independent of the batch on every machine."""

    max_restarts: int = Field(default=3, ge=0)
    """How often engines may be replaced over the pool's life, all together; without one left a run ends."""

    timeout_seconds: float | None = Field(default=1800.0, gt=0)
    """Seconds after which an engine of a pool that is silent at one share counts as hung and is replaced;
    null waits for ever."""

    share_prompts: int | None = Field(default=None, ge=1)
    """Prompts that an engine of a pool is given at once; null is as many as fill it: `max_num_seqs` divided
    by the completions of each. The samples do not depend on it."""

    queue_depth: int = Field(default=2, ge=1)
    """Shares that an engine of a pool samples side by side: with two, it is full until the last has begun."""

    slow_factor: float | None = Field(default=4.0, gt=1)
    """A share that takes so many times as long as the median of its call (and 5 s) is given to an idle engine
    as well, and the first answer counts; null never does that."""
