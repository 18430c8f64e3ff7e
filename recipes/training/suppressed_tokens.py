"""The trainer scores the distribution that is sampled: tokens that no sampler draws have no share in it.

Samplers never draw vision tokens (`prompter.sampling.token_sampler`). A trainer that scores the whole
vocabulary gives every token a probability too small by their share: by 3e-4 on average for the small
shipped policy, where rounding makes 5e-7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

BIAS = -100.0
"""Added to a suppressed token's logit, as vLLM is told to do. Not minus infinity, which makes an entropy
that is not a number."""


class _Whole(torch.Tensor):
    """A tensor that TRL may gather as it gathers shards: beside a sharded head it asks this of the bias."""

    # What is computed with it is a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def full_tensor(self) -> torch.Tensor:
        """Itself: every rank holds all of it."""
        return self.as_subclass(torch.Tensor)


def suppress_tokens(model: Any, token_ids: Sequence[int]) -> None:
    """Give a model's head a bias that rules out some tokens, in training and wherever else it is used.

    It is a buffer that no checkpoint holds; names of parameters stay.

    Args:
        model: a transformers model with a head without a bias, or a PEFT model around one.
        token_ids: the tokens.

    Raises:
        ValueError: if the head has a bias of its own.
    """
    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"the model's head ({type(head).__name__}) has a bias of its own")
    bias = torch.zeros(head.weight.shape[0], dtype=head.weight.dtype, device=head.weight.device)
    bias[list(token_ids)] = BIAS
    del head._parameters["bias"]
    head.register_buffer("bias", bias.as_subclass(_Whole), persistent=False)
