"""What is known of each family of policies, and what follows from how a model is built.

The table says what no file of a checkpoint tells: which coordinates it answers, and where its authors
say so. What a checkpoint's own files do tell is read from them, so that it holds for families that are
not in the table, too: layers that carry a state (`carries_state`), experts (`has_experts`), and the
options of its chat template (`prompter.chat.template_variables`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prompter.coords import FrameKind

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Modules that LoRA adapts: the language model's linear layers, which vLLM can load as an adapter."""

_LINEAR_ATTENTION = r"in_proj_qkv|in_proj_z|in_proj_b|in_proj_a|out_proj"
"""Projections of a Gated DeltaNet layer (transformers' `Qwen3_5GatedDeltaNet`); three of four layers of a
Qwen3.5 have these in the place of `q_proj` to `o_proj`."""

STATE_TARGETS = LORA_TARGETS.removesuffix(")") + "|" + _LINEAR_ATTENTION + ")"
"""`LORA_TARGETS` for a language model with layers that carry a state."""


@dataclass(frozen=True)
class PolicyFamily:
    """What is known of a family beyond a checkpoint's files.

    Args:
        frame: the coordinates it speaks.
        source: who says so.
        template: what its chat templates do about a thought, and which of their options bear on it.
        lora_targets: what LoRA adapts by default, a regular expression over names of modules.
    """

    frame: FrameKind
    source: str
    template: str = "no thought, no options"
    lora_targets: str = LORA_TARGETS


_QWEN3_VL = PolicyFamily(
    "thousandths",
    "by the original sides: README of QwenLM/Qwen3-VL; maintainers in its issue 1659",
    "Instruct checkpoints open no thought, Thinking ones end every prompt in `<think>`; no options",
)
_QWEN3_5 = PolicyFamily(
    "thousandths",
    "a maintainer says it of this family and its successor in QwenLM/Qwen3.8-Flash-Next issue 4; of these "
    "families the one without a document of its own",
    "`enable_thinking`: true ends the prompt in `<think>`, false puts an empty thought there; not given, "
    "0.8B and 2B do as for false, larger ones as for true",
    STATE_TARGETS,
)

POLICY_FAMILIES: dict[str, PolicyFamily] = {
    "qwen2_vl": PolicyFamily(
        "thousandths",
        "the authors' data tool writes boxes as `round(x / width * 1000)`: `convert_to_qwen2vl_format` in "
        "QwenLM/Qwen3-VL, qwen-vl-finetune/tools/process_bbox.ipynb",
    ),
    "qwen2_5_vl": PolicyFamily(
        "absolute",
        "pixels of the image as it enters the model: the same notebook; a maintainer in QwenLM/Qwen3-VL "
        "issues 940 and 957",
    ),
    "qwen3_vl": _QWEN3_VL,
    "qwen3_vl_moe": _QWEN3_VL,
    "qwen3_5": _QWEN3_5,
    "qwen3_5_moe": _QWEN3_5,
}
"""Families that are trained and tested here, by a checkpoint's `model_type`.

A checkpoint that was fine-tuned may speak other coordinates: `prompter probe` asks it. Of a mixture of
experts the experts stay frozen: they are parameters of three dimensions and no linear layers, and vLLM
takes no adapter of such.
"""


def lora_targets(family: str) -> str:
    """What LoRA adapts in a model of this family by default; for a family not in the table, too."""
    known = POLICY_FAMILIES.get(family)
    return LORA_TARGETS if known is None else known.lora_targets


def carries_state(config: Any) -> bool:
    """Whether a model has layers that carry a state from token to token (Qwen3.5's linear attention).

    Such a layer heeds no attention mask, so completions cannot be packed behind one prompt
    (`recipes.training.shared_prompts`), and vLLM has other limits for it (`prompter.sampling.cpu_limits`).

    Args:
        config: transformers' configuration of the whole model, or of its text part.
    """
    return "linear_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())


def has_experts(config: Any) -> bool:
    """Whether a model's language model is a mixture of experts; `config` as for `carries_state`."""
    text = config.get_text_config()
    return any(getattr(text, name, None) for name in ("num_experts", "num_local_experts"))
