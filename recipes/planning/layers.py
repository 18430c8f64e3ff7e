"""What one layer of a model keeps and needs, found by running the true layer without its numbers.

The layer, with its adapters, runs forward and backward on PyTorch's fake tensors: shapes, types and
operations are the real ones, nothing is computed. What autograd saves and what is alive at most is added
up; three lengths give the constants of a quadratic. So it follows transformers and PEFT, whatever they do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recipes.planning.model import open_shape

LENGTHS = (192, 384, 768)


@dataclass(frozen=True)
class Curve:
    """Bytes by length: `fixed + linear * tokens + square * tokens**2`."""

    fixed: float
    linear: float
    square: float

    def __call__(self, tokens: float, rows: int = 1) -> float:
        """Bytes of so many rows of so many tokens."""
        return self.fixed + rows * (self.linear * tokens + self.square * tokens**2)

    @classmethod
    def through(cls, values: tuple[float, float, float]) -> Curve:
        """The curve through the values at `LENGTHS`."""
        (x0, x1, x2), (y0, y1, y2) = LENGTHS, values
        first, second = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
        square = (second - first) / (x2 - x0)
        linear = first - square * (x0 + x1)
        return cls(y0 - linear * x0 - square * x0**2, linear, square)


@dataclass(frozen=True)
class LayerCost:
    """Bytes of a layer by tokens.

    Args:
        saved: what its forward keeps for its backward, without its input and its parameters.
        peak: alive at most in forward and backward, without its parameters and their gradients.
        inference: alive at most in a forward without gradients.
    """

    saved: Curve
    peak: Curve
    inference: Curve


@dataclass(frozen=True)
class Training:
    """How a layer is trained.

    Args:
        dtype: type of its weights.
        autocast: type of autocast, or None.
        rank: of its adapters; None trains its weights.
        targets: modules that get adapters, as in PEFT; None is the project's own choice.
    """

    dtype: str
    autocast: str | None
    rank: int | None
    targets: str | tuple[str, ...] | None = None


@lru_cache(maxsize=64)
def text_layer(source: str, kind: str, training: Training) -> LayerCost:
    """The cost of a layer of the language model.

    Args:
        source: of the model, for `open_shape`.
        kind: "full_attention", or another of the config's `layer_types`.
        training: types and adapters.
    """
    shape = open_shape(source)
    inner = shape.model.model.language_model
    index = list(getattr(shape.text, "layer_types", None) or [kind]).index(kind)
    prefix = f"model.language_model.layers.{index}."
    hidden = int(shape.text.hidden_size)

    def build() -> Any:
        layer = type(inner.layers[index])(shape.text, index)
        if training.rank is not None:
            adapted = [
                name.removeprefix(prefix)
                for name in shape.adapted(_as_given(training.targets))
                if name.startswith(prefix)
            ]
            _freeze_and_adapt(layer, adapted, training.rank)
        return layer

    def call(layer: Any, tokens: int, x: torch.Tensor) -> Any:
        rotary = _on_fake_device(type(inner.rotary_emb)(shape.text), x.dtype)
        positions = torch.zeros(3, 1, tokens, dtype=torch.long)
        mask = None if kind == "linear_attention" else torch.ones(1, 1, tokens, tokens, dtype=torch.bool)
        return layer(
            x, position_embeddings=rotary(x, positions), attention_mask=mask, position_ids=positions[0]
        )

    return _cost(build, call, hidden, training)


@lru_cache(maxsize=64)
def vision_block(source: str, training: Training) -> LayerCost:
    """The cost of a block of the vision tower that sees the whole image, by patches.

    Args:
        source: of the model, for `open_shape`.
        training: types; `rank` is ignored: the tower is frozen, or all its weights are trained.
    """
    shape = open_shape(source)
    tower = shape.model.model.visual
    vision = tower.config
    width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
    head = width // int(vision.num_heads)

    def build() -> Any:
        return type(tower.blocks[0])(vision)

    def call(layer: Any, patches: int, x: torch.Tensor) -> Any:
        rotary = torch.zeros(patches, head)
        # An array: the block asks where images begin, and a fake tensor would not tell.
        return layer(
            x[0], cu_seqlens=np.array([0, patches]), position_embeddings=(rotary.cos(), rotary.sin())
        )

    return _cost(build, call, width, Training(training.dtype, training.autocast, None))


def _as_given(targets: str | tuple[str, ...] | None) -> str | list[str] | None:
    return list(targets) if isinstance(targets, tuple) else targets


def _freeze_and_adapt(layer: Any, names: list[str], rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    layer.requires_grad_(False)
    if names:
        inject_adapter_in_model(LoraConfig(r=rank, target_modules=names), layer)


def _cost(
    build: Callable[[], Any], call: Callable[[Any, int, torch.Tensor], Any], width: int, training: Training
) -> LayerCost:
    with torch.device("meta"):
        layer = build()
    dtype = getattr(torch, training.dtype)
    measured = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        _on_fake_device(layer, dtype)
        for tokens in LENGTHS:
            measured.append(_measure(layer, call, tokens, width, dtype, training.autocast))
    saved, peak, inference = (Curve.through(tuple(values)) for values in zip(*measured, strict=True))
    return LayerCost(saved, peak, inference)


def _measure(
    layer: Any, call: Any, tokens: int, width: int, dtype: torch.dtype, autocast: str | None
) -> tuple[float, float, float]:
    own = {_key(parameter) for parameter in layer.parameters()}
    autocasting = torch.autocast("cpu", getattr(torch, autocast or "bfloat16"), enabled=autocast is not None)
    x = torch.zeros(1, tokens, width, dtype=dtype, requires_grad=True)
    own.add(_key(x))
    # As from the second micro-batch on: what holds the gradients is there, and is counted with the model.
    for parameter in [*layer.parameters(), x]:
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            own.add(_key(parameter.grad))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if _key(tensor) not in own:
            kept[_key(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    layer.train()
    alive = Alive(own)
    with alive, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocasting:
            output = call(layer, tokens, x)
        output = output[0] if isinstance(output, tuple) else output
        output.sum().backward()
    for parameter in layer.parameters():
        parameter.grad = None
    del output, parameter
    layer.eval()
    # Keys are addresses: of what is freed there must be none.
    quiet = Alive({_key(tensor) for tensor in (*layer.parameters(), x)})
    with quiet, torch.no_grad(), autocasting:
        call(layer, tokens, x.detach())
    return float(sum(kept.values())), float(max(alive.peak, sum(kept.values()))), float(quiet.peak)


def _on_fake_device(module: Any, dtype: torch.dtype) -> Any:
    """Give a module built on the meta device fake tensors; adapters are float32, as PEFT has them."""
    for path, part in module.named_modules():
        chosen = torch.float32 if "lora_" in path else dtype
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                fresh = torch.empty(parameter.shape, dtype=chosen, device="cpu")
                part._parameters[name] = torch.nn.Parameter(fresh, requires_grad=parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return module


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Alive(TorchDispatchMode):
    """Adds up the bytes of storages that operations make, and takes off what is freed.

    Args:
        known: keys of storages that were there before.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = known
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage, key = leaf.untyped_storage(), _key(leaf)
                if key not in self._sizes and key not in self._known:
                    self._sizes[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, key)
        return result

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
