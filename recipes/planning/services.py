"""Memory of what serves the trainer: engines that sample, frozen segmenters, and the processes themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from envs.executors.config import ExecutorConfig
from prompter.policy import Policy
from prompter.sampling.config import SamplerConfig
from recipes.config import TrainConfig
from recipes.planning.layers import Training, text_layer, vision_block
from recipes.planning.model import BYTES, ModelShape, PromptTokens, engine_context
from recipes.planning.parts import GIB, Item
from recipes.planning.trainer import window_prompts

PROCESS_BASE = {"host": 1.45e9, "gpu": 0.9 * GIB}
"""What a process takes before it has done anything: on a host, Python with torch, transformers, TRL and their
libraries (measured); on a GPU, CUDA's context and libraries (assumed)."""

RAY_BASE = 0.7e9
"""Ray's own processes on one machine, and their part of shared memory (measured on two cores)."""

ENGINE_BASE = 1.5 * GIB
"""What vLLM takes of a GPU besides weights, keys and values: context, profiling step, graphs (assumed)."""


@dataclass(frozen=True)
class SegmenterSize:
    """A segmenter's size, found as a layer's is (`recipes.planning.layers`).

    Args:
        parameters: of encoder, prompt encoder and mask decoder.
        embedding: numbers that are kept of an image.
        workspace: bytes alive at most while one image is encoded in float32.
    """

    parameters: float
    embedding: float
    workspace: float


_SAM = 256 * 64 * 64
_SAM2 = 256 * 64 * 64 + 64 * 128 * 128 + 32 * 256 * 256

SEGMENTERS: Mapping[str, SegmenterSize] = {
    "mobile-sam": SegmenterSize(10.14e6, _SAM, 0.6e9),
    "vit_b": SegmenterSize(93.7e6, _SAM, 2.6e9),
    "vit_l": SegmenterSize(312.3e6, _SAM, 3.4e9),
    "vit_h": SegmenterSize(641.1e6, _SAM, 3.6e9),
    "hiera-tiny": SegmenterSize(31.4e6, _SAM2, 0.30e9),
    "hiera-small": SegmenterSize(38.5e6, _SAM2, 0.30e9),
    "hiera-base-plus": SegmenterSize(73.3e6, _SAM2, 0.32e9),
    "hiera-large": SegmenterSize(216.9e6, _SAM2, 0.42e9),
    "sam3": SegmenterSize(458.3e6, _SAM2, 2.0e9),
    "edgetam": SegmenterSize(13.9e6, _SAM2, 0.5e9),
    "onnx": SegmenterSize(38.9e6, _SAM2, 0.6e9),
    "box": SegmenterSize(0, 0, 0),
}
"""Name, as it stands in a family or a model -> size. Parameters of SAM 2 were counted on the package's own
configs, the others are their authors'; work space of SAM 2 was found so too, the others are estimates."""


def segmenter_size(config: ExecutorConfig) -> tuple[SegmenterSize, str]:
    """The size of a segmenter, and the name in `SEGMENTERS` it was taken from."""
    model = (config.model or "").lower().replace("_", "-")
    aliases = {"hiera-b+": "hiera-base-plus", "hiera-s": "hiera-small", "hiera-l": "hiera-large"}
    for short, name in aliases.items():
        if model.removesuffix(".pt").endswith(short):
            return SEGMENTERS[name], name
    for name, size in SEGMENTERS.items():
        if name.replace("_", "-") in model:
            return size, name
    if config.family in SEGMENTERS:
        return SEGMENTERS[config.family], config.family
    usual = {"segment-anything": "vit_h", "sam2": "hiera-large"}.get(config.family, "vit_h")
    return SEGMENTERS[usual], f"{usual}, assumed"


def segmenter_items(config: ExecutorConfig, images: int | None) -> list[Item]:
    """What a segmenter takes where it runs.

    Args:
        images: distinct images that it will see; None where that is not bounded.
    """
    size, known = segmenter_size(config)
    number = BYTES.get(config.dtype, 4)
    kept = {"float32": 4, "float16": 2, "int8": 1}[config.cache_dtype]
    if config.cache_dtype == "float32" and config.dtype == "bfloat16":
        kept = 2
    budget = config.cache_memory_mb * 1e6
    each = size.embedding * kept
    wanted = budget if images is None else min(budget, images * each)
    held = f"{math.floor(budget / each)} images at most" if each else "nothing to keep"
    if images is not None and images * each <= budget:
        held = f"{images} images"
    return [
        Item(
            "segmenter", size.parameters * number, f"{known}, {size.parameters / 1e6:.0f} M in {config.dtype}"
        ),
        Item("embeddings cache", wanted if each else 0.0, f"{held}, {each / 1e6:.1f} MB each"),
        Item(
            "encoding images",
            size.workspace * config.encode_batch * number / 4,
            f"{config.encode_batch} at a time",
            "segment",
        ),
    ]


def engine_items(
    config: TrainConfig,
    shape: ModelShape,
    policy: Policy,
    tokens: PromptTokens,
    completion: int,
    memory: float | None,
) -> list[Item]:
    """What a vLLM engine takes of each of its GPUs, or of a machine's memory.

    Args:
        memory: bytes of a GPU; None where it was not said, which then counts what the engine needs.
    """
    sampler = config.sampler
    cpu = engine_on_cpu(config)
    dtype = sampled_dtype(sampler, shape, cpu=cpu)
    number, span = BYTES[dtype], sampler.tensor_parallel_size
    weights = shape.parameters * number / span
    items = [Item("weights", weights, f"{dtype}{f' / {span} GPUs' if span > 1 else ''}")]
    if config.policy.lora is not None:
        adapters = shape.adapter_parameters(config.policy.lora.r, config.policy.lora.target_modules)
        items.append(Item("adapters", adapters * number / span, f"rank {config.policy.lora.r}"))
    token, state = shape.kv_bytes(dtype) / span, shape.state_bytes() / span
    sequence = sequence_tokens(config, policy, tokens, completion)
    if cpu:
        if shape.tied:
            head = shape.text.vocab_size * shape.text.hidden_size * number
            items.append(Item("packed head", head, "tied to the embedding, packed apart for a CPU"))
        held = sampler.kv_cache_gib * GIB
        items.append(Item("keys and values", held, f"sampler.kv_cache_gib: {held / token:,.0f} tokens"))
        return items
    if memory is None:
        wished = sampler.max_num_seqs * (sequence * token + state)
        items += [
            Item("vLLM itself", ENGINE_BASE, "assumed"),
            Item(
                "keys and values",
                wished,
                f"for {sampler.max_num_seqs} completions of {sequence} tokens; what it takes in fact is "
                "sampler.gpu_memory_utilization of the GPU (give --memory)",
            ),
        ]
        return items
    taken = sampler.gpu_memory_utilization * memory
    room = taken - sum(item.size for item in items) - ENGINE_BASE
    fitting = room / (sequence * token + state)
    items += [
        Item("vLLM itself", ENGINE_BASE, "assumed"),
        Item(
            "keys and values",
            max(0.0, room),
            f"the rest of {sampler.gpu_memory_utilization:g} of the GPU: {max(0, math.floor(fitting))} "
            f"completions of {sequence} tokens without shared prompts"
            if room > 0
            else f"none are left of {sampler.gpu_memory_utilization:g} of the GPU",
        ),
    ]
    return items


def engine_shortage(
    config: TrainConfig,
    shape: ModelShape,
    policy: Policy,
    tokens: PromptTokens,
    completion: int,
    memory: float,
) -> float:
    """Bytes that an engine's share of a GPU is short of holding one sequence of its full length; 0 or less
    if it is not."""
    items = engine_items(config, shape, policy, tokens, completion, memory)
    span = config.sampler.tensor_parallel_size
    dtype = sampled_dtype(config.sampler, shape, cpu=False)
    longest = config.sampler.max_model_len or engine_context(policy)
    one = longest * shape.kv_bytes(dtype) / span + shape.state_bytes() / span
    fixed = sum(item.size for item in items if item.name != "keys and values")
    return fixed + one - config.sampler.gpu_memory_utilization * memory


def sequence_tokens(config: TrainConfig, policy: Policy, tokens: PromptTokens, completion: int) -> int:
    """Tokens of prompt and answer together, at most."""
    longest = config.sampler.max_model_len or engine_context(policy)
    return min(longest, tokens.total + completion)


def engine_on_cpu(config: TrainConfig) -> bool:
    """Whether vLLM runs without a GPU: Ray shows an actor only the GPUs that it reserves."""
    if config.sampler.backend == "ray":
        return config.sampler.num_gpus == 0
    return bool(config.trainer.get("use_cpu"))


def sampled_dtype(sampler: SamplerConfig, shape: ModelShape, *, cpu: bool) -> str:
    """Type of an engine's weights."""
    if sampler.dtype != "auto":
        return sampler.dtype
    if cpu:
        return "bfloat16" if shape.recurrent else "float32"
    return shape.saved_dtype


def in_process_items(
    config: TrainConfig, shape: ModelShape, tokens: PromptTokens, completion: int, training: Training
) -> list[Item]:
    """What sampling with transformers takes besides the trained model (`sampler.backend: hf`)."""
    prompts = window_prompts(config)
    held_out = config.eval.samples or prompts
    rows = min(config.sampler.batch_size, max(prompts * int(config.trainer["num_generations"]), held_out))
    dtype = training.dtype
    length = tokens.total + completion
    cache = rows * (length * shape.kv_bytes(dtype) + shape.state_bytes())
    layer = max(
        text_layer(shape.source, kind, training).inference(tokens.total, rows) for kind in shape.layer_kinds
    )
    images = max(1, min(rows, max(prompts, held_out)))
    block = vision_block(shape.source, Training(dtype, None, None)).inference(tokens.patches * images)
    logits = rows * int(shape.text.vocab_size) * 4 * 6
    pixels = 2 * rows * tokens.patches * shape.pixel_values * 4
    return [
        Item("keys and values", cache, f"{rows} completions of {length} tokens", "sample"),
        Item("work space", max(layer, block, logits), "prefill of all prompts at once", "sample"),
        Item("pixels", pixels, f"of {rows} completions", "sample"),
    ]
