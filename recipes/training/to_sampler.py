"""What is trained on its way to the sampler: adapters as a folder, or all weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel

from prompter.runs.disk import full_disk_told
from prompter.sampling.base import Sampler
from prompter.sampling.weights import merged_weights
from recipes.training.ranks.gather import give_adapters, give_weights
from recipes.training.ranks.world import Ranks


def bring(ranks: Ranks, model: Any, sampler: Sampler, version: int, adapters: Path, *, merged: bool) -> None:
    """Let the sampler sample a model as it is now.

    Args:
        ranks: all call this.
        model: what is trained, unwrapped: a PEFT model, or one of which all weights are trained.
        sampler: of rank 0; None on the others.
        version: of the policy; each is brought once.
        adapters: folder for versions of the adapters; but the newest are removed.
        merged: give all weights with the adapters merged into them, and not the adapters.
    """
    if not isinstance(model, PeftModel):
        give_weights(ranks, model, lambda weights: sampler.sync_weights(weights, version))
        return
    if merged:
        ranks.first(lambda: sampler.sync_weights(merged_weights(model), version))
        return
    folder = adapters / f"version-{version}"
    with full_disk_told(folder):
        give_adapters(ranks, model, folder, lambda saved: sampler.sync_adapter(saved, version))
    # The engine may still read the folder of the version it serves, never an older one.
    for old in adapters.iterdir():
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
