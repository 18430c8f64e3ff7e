"""QLoRA's base: a frozen policy whose linear layers hold 4 bits a weight (NF4, arXiv 2305.14314).

bitsandbytes is an extra, imported where a policy is quantised and nowhere else.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from prompter.errors import UserError
from prompter.families import has_experts

UNQUANTISED = ["lm_head", "model.visual"]
"""Full names of what stays as it was; "visual" alone names nothing, and the tower would be quantised."""

NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Bytes of a quantised weight: 4 bits, and of each block of 64 a scale of one byte, 256 of which share a
float32."""


def check_nf4(model: Any, source: str) -> None:
    """Refuse to quantise a model to NF4 where that cannot be done.

    Args:
        model: transformers' configuration of it.
        source: where it comes from, for the message.

    Raises:
        UserError: if bitsandbytes is not installed, or most of the model is no linear layer.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "policy.quantise nf4 needs bitsandbytes, which is not installed: install prompter-rl[qlora], or "
            "leave policy.quantise out"
        )
    if has_experts(model):
        raise UserError(
            f"policy.quantise nf4 quantises linear layers, but the experts of {source} are none: hardly any "
            "memory would be saved. Leave policy.quantise out"
        )


def nf4_options(dtype: Any, device: str) -> dict[str, Any]:
    """Options of `from_pretrained` that quantise a model while it is loaded, onto `device`.

    Args:
        dtype: as in `load_weights`; products are computed in it, in bfloat16 for "auto".
        device: "cpu", "cuda" or "cuda:1".
    """
    import torch
    from transformers import BitsAndBytesConfig

    named = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    scheme = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if named == "auto" else named,
        llm_int8_skip_modules=UNQUANTISED,
    )
    return {"quantization_config": scheme, "device_map": {"": device}}


def is_quantised(model: Any) -> bool:
    """Whether a transformers model, or the base of a PEFT model, was loaded quantised."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(getattr(base, "is_quantized", False))


def gap_warning(backend: str) -> str:
    """What a run on a quantised base has to say at its start; `backend` as in `SamplerConfig`."""
    sampled = (
        "the sampler shares them, but the policy that is saved is the unquantised one with the trained "
        "adapters, which answers a little differently"
        if backend == "hf"
        else "engines sample the unquantised policy with the trained adapters, so that sampler and trainer "
        "differ; the importance ratio corrects what sampling/sampling_logp_difference shows"
    )
    return f"policy.quantise nf4: adapters are trained on 4-bit weights; {sampled}."
