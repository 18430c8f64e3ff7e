"""All weights of a policy on their way from the trainer to engines: names, parcels, and who takes them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from prompter.errors import UserError
from prompter.sampling.config import SamplerConfig

if TYPE_CHECKING:
    import torch

PARCEL_BYTES = 512 * 2**20
"""Size from which a parcel is closed; a single larger tensor makes a larger parcel."""


class PackedTensor(NamedTuple):
    """A tensor as raw bytes: NumPy, by which Ray shares memory, has no bfloat16.

    Attributes:
        name: of the parameter, as transformers has it.
        dtype: PyTorch's name of it, such as "bfloat16".
        shape: of the tensor.
        content: uint8 [bytes], row-major.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Any


def named_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters of a transformers model by name, tied ones once, in the order of its layers.

    They are the model's own tensors, detached, on its device: whoever keeps them copies them.
    """
    for name, parameter in model.named_parameters():
        yield name, parameter.detach()


def merged_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of a PEFT model with its active LoRA adapters added, as `named_weights` of a model without any.

    The model stays as it is: what an adapter changes is computed as it is looked at.
    """
    base = model.get_base_model()
    layers = {name: module for name, module in base.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in named_weights(base):
        owner, inside, rest = name.partition(".base_layer.")
        if not inside:
            if not any(name.startswith(f"{layer}.") for layer in layers):
                yield name, parameter
            continue
        layer = layers[owner]
        value = parameter
        if rest == "weight":
            for adapter in layer.active_adapters:
                value = value + layer.get_delta_weight(adapter).detach().to(value.dtype)
        yield f"{owner}.{rest}", value


def pack(
    weights: Iterable[tuple[str, torch.Tensor]], parcel_bytes: int = PARCEL_BYTES
) -> Iterator[list[PackedTensor]]:
    """Parcels of at least `parcel_bytes` bytes, and the rest; contents may share the tensors' memory."""
    import torch

    parcel: list[PackedTensor] = []
    size = 0
    for name, tensor in weights:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy()
        parcel.append(PackedTensor(name, str(tensor.dtype).removeprefix("torch."), (*tensor.shape,), content))
        size += content.nbytes
        if size >= parcel_bytes:
            yield parcel
            parcel, size = [], 0
    if parcel:
        yield parcel


def unpack(parcel: Iterable[PackedTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a parcel by name, on the parcel's memory: they must not be written to."""
    import torch

    for name, dtype, shape, content in parcel:
        with warnings.catch_warnings():
            # Ray's memory is read-only, which PyTorch warns of.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            flat = torch.from_numpy(content)
        yield name, flat.view(getattr(torch, dtype)).reshape(shape)


def check_takes_weights(config: SamplerConfig) -> None:
    """Raise UserError if a config's engines cannot be given new weights while they run."""
    if config.backend != "hf" and config.tensor_parallel_size > 1:
        raise UserError(
            "all weights go to the engines (policy.lora is null, or sampler.sync merged), but one of sampler."
            f"tensor_parallel_size {config.tensor_parallel_size} cannot be given new ones: take 1, or send "
            "adapters"
        )
