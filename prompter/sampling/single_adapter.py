"""LoRA in vLLM on a CPU when one adapter serves all requests, as it does here: plain matrix products.

vLLM's own CPU path allows another adapter for every token and copies the adapter's matrices once per
token to do so, which costs most of the sampling time, and gigabytes in the prefill of a real model.
Imported by vLLM, by name, while an engine is built (see `one_adapter_for_all`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


class SingleAdapterProducts(PunicaWrapperCPU):
    """Applies the engine's one adapter to all tokens of a step, or to none.

    Shapes: tokens x [tokens, width]; stacked matrices [1, 1, rank, width] and [1, 1, width, rank].
    """

    def _apply_shrink(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
        """Write y[:, :rank] = scale * x @ A^T; y [tokens, rank] comes as zeros."""
        if self._is_idle():
            return
        matrix = w_t_all[0].flatten(end_dim=-2)
        y[:, : matrix.shape[0]] = scale * (x.to(y.dtype) @ matrix.T.to(y.dtype))

    def _apply_expand(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        """Add x @ B^T to the columns of y [tokens, widths] that start at y_offset."""
        if self._is_idle():
            return
        matrix = w_t_all[0].flatten(end_dim=-2)
        target = y[:, y_offset : y_offset + y_slice_size]
        product = x.to(y.dtype) @ matrix.T.to(y.dtype)
        if add_inputs:
            target += product
        else:
            target.copy_(product)

    def _is_idle(self) -> bool:
        """Whether this step's requests want the policy without its adapter."""
        return int(self.token_lora_indices[0]) < 0


@contextmanager
def one_adapter_for_all() -> Iterator[None]:
    """Engines built in this block multiply as above."""
    platform = type(current_platform)
    before = platform.__dict__["get_punica_wrapper"]
    name = f"{SingleAdapterProducts.__module__}.{SingleAdapterProducts.__qualname__}"
    platform.get_punica_wrapper = classmethod(lambda cls: name)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        platform.get_punica_wrapper = before  # type: ignore[method-assign]
