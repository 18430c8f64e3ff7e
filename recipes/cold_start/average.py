"""An exponential average of a model's weights over the last steps of its training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Keeps `model`, a copy of a model whose weights are the average of the original's.

    The average begins with the weights at hand; its decay rises to `decay` over the first steps, so that
    where training began is soon forgotten.

    Args:
        source: the model that is trained.
        decay: what stays of the average at a step; 0.99 averages over about the last hundred.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.source, self.decay = source, decay
        self.model: Any = copy.deepcopy(source)
        self.updates = 0

    def resume(self, average: nn.Module, updates: int) -> None:
        """Go on from an average of so many updates."""
        self.model.load_state_dict(average.state_dict())
        self.updates = updates

    @torch.no_grad()
    def update(self) -> None:
        """Take the source's present weights in."""
        self.updates += 1
        kept = min(self.decay, self.updates / (self.updates + 9))
        for mine, theirs in zip(self.model.parameters(), self.source.parameters(), strict=True):
            mine.lerp_(theirs, 1 - kept)
