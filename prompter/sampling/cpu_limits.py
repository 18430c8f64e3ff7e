"""What vLLM 0.31 can do on a CPU with the layers of a model, as options of an engine."""

from __future__ import annotations

from typing import Any

from prompter.errors import UserError
from prompter.families import carries_state


def cpu_options(model: Any, dtype: str, source: str) -> dict[str, Any]:
    """The type an engine on a CPU computes in, and what has to be switched off for it.

    Layers that carry a state (Qwen3.5's linear attention) exist for bfloat16 alone ("CPU GDN attention
    requires BF16", vllm/model_executor/layers/mamba/ops/cpu/gdn_attention.py), and their state can be kept
    between prompts only with chunked prefill (vllm/model_executor/models/config.py), which crashes on a CPU
    with a seed. So the sampled distribution is bfloat16's there, some 0.03 from the trainer's
    log-probabilities on average, which the importance ratio corrects and `sampling_logp_difference` shows.

    Args:
        model: transformers' configuration of it.
        dtype: as in `SamplerConfig`.
        source: where the model comes from, for the message.

    Raises:
        UserError: if another type is asked for than there is.
    """
    if not carries_state(model):
        return {"dtype": "float32" if dtype == "auto" else dtype}
    if dtype not in ("auto", "bfloat16"):
        raise UserError(
            f"sampler.dtype is {dtype}, but {source} has layers that carry a state from token to token, and "
            "vLLM computes those in bfloat16 alone on a CPU: take auto or bfloat16, or sampler.backend hf"
        )
    return {"dtype": "bfloat16", "enable_prefix_caching": False}
