"""A running average of the trained weights, which is what a run gives at its end.

Steps on few completions wander; their mean wanders less and forgets less of where it began (Polyak averaging;
for weights fine-tuned by reinforcement: WARP, arXiv:2406.16768). Training itself goes on from the weights as
they are: the average is never sampled from, but at the end evaluated and saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from prompter.errors import UserError

FILE = "average.safetensors"
"""In a checkpoint's folder: the averages by the parameters' names, float32."""


class WeightAverage(TrainerCallback):
    """Exponential average over windows: after each, `decay` of it stays and the rest is the present weights.

    It begins with the weights after the first window.

    Args:
        decay: in [0, 1); 0 keeps the present weights alone. None averages nothing.
        window: optimiser steps of a window.
    """

    def __init__(self, decay: float | None, window: int) -> None:
        self.decay, self.window = decay, window
        self._average: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See `TrainerCallback`: a window ends with this step, or the run does."""
        if state.global_step % self.window == 0 or state.global_step == state.max_steps:
            self.update(model)

    @torch.no_grad()
    def update(self, model: Any) -> None:
        """Take the present weights of a model's trained parameters into the average."""
        if self.decay is None:
            return
        for name, parameter in _trained(model):
            now = parameter.detach().float()
            if name in self._average:
                self._average[name].lerp_(now, 1 - self.decay)
            else:
                self._average[name] = now.clone()

    @torch.no_grad()
    def put_into(self, model: Any) -> None:
        """Give a model's trained parameters their averages; nothing if there are none."""
        for name, parameter in _trained(model) if self._average else ():
            parameter.copy_(self._average[name].to(parameter.dtype))

    def save(self, folder: Path) -> None:
        """Write the averages into a checkpoint's folder."""
        if self._average:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: one.cpu().contiguous() for name, one in self._average.items()}, folder / FILE)

    def restore(self, folder: Path, model: Any) -> None:
        """Go on with the averages that `save` wrote into a checkpoint's folder.

        Raises:
            UserError: if they are missing, or not those of this model's parameters.
        """
        if self.decay is None:
            return
        trained = dict(_trained(model))
        path = folder / FILE
        found = load_file(path) if path.exists() else {}
        if found.keys() != trained.keys():
            raise UserError(
                f"{folder} holds no averages of the trained weights: its run did not average. Leave "
                "average.decay out to resume it, or begin another run"
            )
        self._average = {name: found[name].to(parameter.device) for name, parameter in trained.items()}


def _trained(model: Any) -> list[tuple[str, Any]]:
    """Trained parameters by name, whatever wraps the model among ranks."""
    inner = getattr(model, "module", model)
    return [(name, one) for name, one in inner.named_parameters() if one.requires_grad]
