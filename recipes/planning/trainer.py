"""Memory of one trainer rank: the model and what trains it, and what a step needs besides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.quantised import NF4_BYTES
from recipes.config import TrainConfig
from recipes.planning.layers import Training, text_layer, vision_block
from recipes.planning.model import BYTES, ModelShape, PromptTokens
from recipes.planning.parts import Item
from recipes.training.shared_prompts import MOST_COMPLETION_TOKENS, PASS_TOKENS

TRL_DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": None,
    "num_iterations": 1,
    "gradient_checkpointing": True,
    "bf16": None,
    "fp16": False,
    "optim": "adamw_torch_fused",
    "use_cpu": False,
    "fsdp": None,
    "deepspeed": None,
    "beta": 0.0,
    "max_completion_length": 512,
}
"""Defaults of the fields of TRL's `GRPOConfig` that decide memory, held by a test. Making a `GRPOConfig`
would refuse settings for GPUs on a machine without one, which is where one plans."""

HEAD_CHUNK, HEAD_TOKENS = 32768, 4096
"""Columns and rows of a tile of TRL's fused head (`trl.kernels.chunked_logprob`)."""

_HEAD_COPIES_ON_CPU = 8
"""float32 copies of a tile that its backward has at a time where there is no Triton."""


def setting(config: TrainConfig, key: str) -> Any:
    """A value of `trainer:`, TRL's own default where it is not given."""
    value = config.trainer.get(key)
    return TRL_DEFAULTS[key] if value is None else value


def on_cpu(config: TrainConfig) -> bool:
    """Whether the trainer runs without a GPU."""
    return bool(setting(config, "use_cpu"))


def rank_count(config: TrainConfig) -> int:
    """Number of trainer ranks."""
    ranks = getattr(config, "ranks", None)
    return 1 if ranks is None else int(ranks.count)


def group_size(config: TrainConfig) -> int:
    """Completions of a group that are trained on; `trainer.num_generations` are sampled."""
    return int(config.group.keep or config.trainer["num_generations"])


def window_rows(config: TrainConfig) -> int:
    """Completions that one rank trains on in a window."""
    steps = setting(config, "steps_per_generation") or setting(config, "gradient_accumulation_steps")
    return int(setting(config, "per_device_train_batch_size")) * int(steps)


def window_prompts(config: TrainConfig) -> int:
    """Prompts of a window, over all ranks."""
    return max(1, window_rows(config) * rank_count(config) // group_size(config))


def window_updates(config: TrainConfig) -> int:
    """Optimiser steps of one window, at least 1, as `recipes.training.checks.window_steps`."""
    updates = (setting(config, "steps_per_generation") or setting(config, "gradient_accumulation_steps")) * (
        setting(config, "num_iterations")
    )
    return max(1, int(updates) // int(setting(config, "gradient_accumulation_steps")))


def planned_completions(config: TrainConfig) -> int | None:
    """Completions that a whole run samples, of prompts drawn anew for want of spread none; None if its
    `trainer.max_steps` is not given."""
    steps = int(config.trainer.get("max_steps", 0))
    if steps <= 0:
        return None
    windows = -(-steps // window_updates(config))
    return windows * window_prompts(config) * int(config.trainer["num_generations"])


def trained_dtype(config: TrainConfig, shape: ModelShape) -> str:
    """Type of the trained copy's weights."""
    return shape.saved_dtype if config.policy.dtype == "auto" else config.policy.dtype


def autocast_dtype(config: TrainConfig) -> str | None:
    """Type of autocast; TRL takes bfloat16 where neither `bf16` nor `fp16` is given."""
    if setting(config, "fp16"):
        return "float16"
    given = config.trainer.get("bf16")
    return "bfloat16" if given is None or given else None


@dataclass(frozen=True)
class Sharding:
    """What is divided among ranks.

    Args:
        kind: "none", "ddp", "fsdp", or "zero1" to "zero3".
        ranks: number of ranks.
    """

    kind: str
    ranks: int

    @property
    def weights(self) -> int:
        """What the weights are divided by."""
        return self.ranks if self.kind in ("fsdp", "zero3") else 1

    @property
    def gradients(self) -> int:
        """What the gradients are divided by."""
        return self.ranks if self.kind in ("fsdp", "zero2", "zero3") else 1

    @property
    def optimiser(self) -> int:
        """What the optimiser's state is divided by."""
        return self.ranks if self.kind not in ("none", "ddp") else 1


def sharding(config: TrainConfig) -> Sharding:
    """How a config divides the model among its ranks.

    Raises:
        UserError: if the file of `trainer.deepspeed` cannot be read.
    """
    ranks = rank_count(config)
    deepspeed = setting(config, "deepspeed")
    if isinstance(deepspeed, str):
        try:
            deepspeed = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"trainer.deepspeed {deepspeed!r} cannot be read: {error}") from None
    if deepspeed:
        stage = int((deepspeed.get("zero_optimization") or {}).get("stage", 0))
        return Sharding(f"zero{stage}" if stage else "ddp", ranks)
    if setting(config, "fsdp"):
        return Sharding("fsdp", ranks)
    return Sharding("ddp" if ranks > 1 else "none", ranks)


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the model between two backward passes, on one rank.

    Args:
        rows: completions.
        images: distinct images, at most.
        packs: rows as they go through the model, and `length` their tokens.
        per_pass: packed rows of one pass.
        labelled: completion tokens.
    """

    rows: int
    images: int
    packs: int
    length: int
    per_pass: int
    labelled: int


def micro_batch(config: TrainConfig, prompt: int, completion: int, *, packed: bool) -> MicroBatch:
    """The largest micro-batch that a config can make.

    Args:
        prompt, completion: their tokens, the longest there are.
        packed: whether completions share their prompt (`recipes.training.shared_prompts`).
    """
    rows = int(setting(config, "per_device_train_batch_size"))
    prompts = min(rows, max(1, window_rows(config) // group_size(config)))
    if not packed:
        return MicroBatch(rows, prompts, rows, prompt + completion, rows, rows * completion)
    each = math.ceil(rows / prompts)
    per_pack = max(1, min(each, MOST_COMPLETION_TOKENS * prompt // max(1, completion)))
    packs = prompts * math.ceil(each / per_pack)
    length = prompt - 1 + per_pack * (completion + 1)
    return MicroBatch(
        rows, prompts, packs, length, max(1, min(packs, PASS_TOKENS // length)), rows * completion
    )


def model_items(config: TrainConfig, shape: ModelShape) -> list[Item]:
    """Weights, adapters, gradients, optimiser and copies of one rank."""
    dtype, auto = trained_dtype(config, shape), autocast_dtype(config)
    split, lora = sharding(config), config.policy.lora
    number = BYTES[dtype]
    by = f" / {split.ranks} ranks ({split.kind})"
    quantised = 0 if config.policy.quantise is None else shape.linear_parameters
    small = f", {quantised:,} of them in {config.policy.quantise}" if quantised else ""
    items = [
        Item(
            "weights",
            ((shape.parameters - quantised) * number + quantised * NF4_BYTES) / split.weights,
            f"{shape.parameters:,} in {dtype}{small}{by if split.weights > 1 else ''}",
        )
    ]
    if lora is None:
        trained, kept = shape.parameters, number
    else:
        trained, kept = shape.adapter_parameters(lora.r, lora.target_modules), 4
        items.append(Item("adapters", 4 * trained / split.weights, f"{trained:,} in float32, rank {lora.r}"))
    master = split.kind.startswith("zero") and kept < 4
    if master:
        items.append(Item("float32 masters", 4 * trained / split.optimiser, f"DeepSpeed's{by}"))
    states, per_state = _optimiser(str(setting(config, "optim")), 4 if master else kept)
    items += [
        Item(
            "optimiser",
            states * per_state * trained / split.optimiser,
            f"{setting(config, 'optim')}, {states:g} numbers a parameter{by if split.optimiser > 1 else ''}",
        ),
        Item(
            "gradients",
            kept * trained / split.gradients,
            f"of {trained:,}{by if split.gradients > 1 else ''}",
            "train",
        ),
    ]
    if split.kind == "ddp" and split.ranks > 1:
        items.append(Item("gradient buckets", kept * trained, "DDP's copy for the exchange", "train"))
    compute = BYTES[auto or dtype]
    if split.weights > 1:
        layer = max(
            sum(p.numel() for p in one.parameters()) for one in shape.model.model.language_model.layers
        )
        ends = sum(p.numel() for p in shape.model.get_input_embeddings().parameters()) * (
            1 if shape.tied else 2
        )
        items.append(
            Item("gathered weights", (2 * layer + ends) * compute, "two layers and the ends", "train")
        )
    elif lora is None and auto is not None and number == 4:
        items.append(
            Item("copies for autocast", trained * compute, f"{auto}, kept through a forward pass", "train")
        )
    if float(setting(config, "beta")) and lora is None:
        items.append(
            Item("reference model", shape.parameters * number / split.weights, "trainer.beta is not 0")
        )
    return items


def step_items(config: TrainConfig, shape: ModelShape, tokens: PromptTokens, completion: int) -> list[Item]:
    """What a training step needs besides the model, by its worst micro-batch."""
    dtype, auto = trained_dtype(config, shape), autocast_dtype(config)
    lora, cpu = config.policy.lora, on_cpu(config)
    number, compute = BYTES[dtype], BYTES[auto or dtype]
    checkpointing = bool(setting(config, "gradient_checkpointing"))
    batch = micro_batch(config, tokens.total, completion, packed=not shape.recurrent)
    hidden, vision = int(shape.text.hidden_size), shape.config.vision_config
    targets = None if lora is None else lora.target_modules
    training = Training(
        dtype,
        auto,
        None if lora is None else lora.r,
        tuple(targets) if isinstance(targets, list) else targets,
    )
    length, whole = batch.length, batch.packs * batch.length
    kept, work = 0.0, 0.0
    for kind, count in shape.layer_kinds.items():
        cost = text_layer(shape.source, kind, training)
        saved, peak = cost.saved(length, batch.per_pass), cost.peak(length, batch.per_pass)
        if checkpointing:
            kept += count * whole * hidden * number
            work = max(work, peak)
        else:
            passes = math.ceil(batch.packs / batch.per_pass)
            kept += count * (cost.saved(length, batch.packs) + (passes - 1) * cost.saved.fixed)
            work = max(work, peak - saved)
    trains_vision = lora is None or any("visual" in name.split(".") for name in shape.adapted(targets))
    depth = int(vision.depth)
    width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
    block = vision_block(shape.source, Training(dtype, auto, None))
    patches = tokens.patches
    images_a_pass = min(batch.images, batch.per_pass)
    looked = block.inference(patches * images_a_pass)
    if trains_vision:
        seen = batch.packs * patches
        kept += depth * (seen * width * number if checkpointing else block.saved(seen))
        looked = block.peak(images_a_pass * patches) - (
            0.0 if checkpointing else block.saved(images_a_pass * patches)
        )
    scored = math.ceil(batch.labelled * batch.per_pass / batch.packs)
    head = head_bytes(scored, hidden, int(shape.text.vocab_size), compute, cpu=cpu, trained=lora is None)
    workspace = {"a layer": work, "the vision tower": looked, "the head": head}
    largest = max(workspace, key=lambda name: workspace[name])
    rows = window_rows(config)
    pixels = 4 * tokens.patches * shape.pixel_values
    how = "inputs of the layers, the rest is computed again" if checkpointing else "no gradient checkpointing"
    return [
        Item(
            "activations",
            kept + 3 * whole * hidden * number,
            f"{batch.packs} x {length} tokens for {batch.rows} completions; {how}",
            "train",
        ),
        Item("work space", workspace[largest], f"{largest}, which needs most", "train"),
        Item(
            "pixels of the window",
            rows * pixels + batch.packs * pixels,
            f"{rows} completions of {pixels / 1e6:.1f} MB",
            "train",
        ),
    ]


def head_bytes(
    positions: int, hidden: int, vocabulary: int, compute: int, *, cpu: bool, trained: bool
) -> float:
    """What TRL's fused head needs at most for so many scored positions."""
    rows = min(positions, HEAD_TOKENS)
    tile = rows * min(HEAD_CHUNK, vocabulary)
    size = tile * compute + positions * hidden * (4 + 2 * compute)
    if cpu:
        size += 4 * _HEAD_COPIES_ON_CPU * tile + 4 * min(HEAD_CHUNK, vocabulary) * hidden
    return float(size + (4 * vocabulary * hidden if trained else 0))


def _optimiser(name: str, kept: int) -> tuple[float, float]:
    """States per parameter and bytes of each."""
    if "8bit" in name:
        return 2, 1
    if name.startswith("adafactor"):
        return 0.01, 4
    if name.startswith(("sgd", "lomo")):
        return 0, kept
    return (1, kept) if name.startswith(("lion", "rmsprop", "adagrad")) else (2, kept)
