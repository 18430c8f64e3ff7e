"""Muon for the matrices inside the layers, AdamW for everything else, as one optimiser.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of a
matrix; scaled to AdamW's step (Liu et al., 2025, arXiv 2502.16982, section 2.2) it takes AdamW's learning
rate and weight decay. Embeddings, heads, gains and biases are AdamW's, as both papers advise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MuonAndAdamW(torch.optim.Optimizer):
    """Both optimisers' parameter groups side by side, so that one schedule drives them.

    Args:
        named: the parameters that are trained, by name.
        lr: learning rate of all.
        weight_decay: of Muon's matrices and of AdamW's parameters with more than one dimension.
        betas: AdamW's.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        parameters = list(named)
        matrices = [value for name, value in parameters if is_layer_matrix(name, value)]
        others = [value for name, value in parameters if not is_layer_matrix(name, value)]
        self.muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = torch.optim.AdamW(
            [
                {"params": [value for value in others if value.ndim > 1], "weight_decay": weight_decay},
                {"params": [value for value in others if value.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=lr,
            betas=betas,
            fused=True,
        )
        super().__init__(parameters, {"lr": lr})
        self._share_groups()

    def _share_groups(self) -> None:
        """A schedule writes learning rates into these; they must be the very groups that step."""
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both; see `torch.optim.Optimizer.step`."""
        loss = None if closure is None else closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up both states."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()


def is_layer_matrix(name: str, value: torch.Tensor) -> bool:
    """Whether a parameter of a Qwen3-VL policy is a matrix inside a layer of either tower."""
    return value.ndim == 2 and any(part in name for part in (".layers.", ".blocks.", "merger"))
