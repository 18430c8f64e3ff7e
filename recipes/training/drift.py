"""How far a policy has come from the one that training began with, in a window's first prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recipes.training.ranks.gather import shards


def drift_from_base(trainer: Any, batch: Mapping[str, Any], rows: int) -> float | None:
    """Mean of log p(now) - log p(first policy) over the tokens of a window's first completions.

    They were sampled from the policy as it is now, so this estimates the KL divergence from the first one to
    it, in nats a token, at the temperature of sampling (the estimator k1 of Schulman, "Approximating KL
    divergence", 2020). One more forward pass of one prompt, with the adapters switched off.

    Args:
        trainer: of the run.
        batch: what TRL trains on, rows of a group in a row: `prompt_ids`, `completion_ids` and their masks
            [rows, tokens], `old_per_token_logps` [rows, completion tokens], pixels of one image a row.
        rows: the first so many of them.

    Returns:
        None where it cannot be had: all weights are trained, a model is divided among ranks, or TRL kept no
        log-probabilities.
    """
    from peft import PeftModel

    model = trainer.accelerator.unwrap_model(trainer.model)
    now = batch.get("old_per_token_logps")
    images = list(batch.get("num_images") or ())
    if not isinstance(model, PeftModel) or now is None or shards(model) is not None:
        return None
    if batch.get("pixel_values") is None or set(images) != {1}:
        return None
    grids = batch["image_grid_thw"][:rows]
    ids = [
        torch.cat([batch[f"prompt_{one}"], batch[f"completion_{one}"]], dim=1)[:rows]
        for one in ("ids", "mask")
    ]
    mask = batch["completion_mask"][:rows].bool()
    options = {
        "pixel_values": batch["pixel_values"][: int(grids.prod(-1).sum())],
        "image_grid_thw": grids,
        "num_images": images[:rows],
    }
    kinds = batch.get("mm_token_type_ids")
    if kinds is not None:
        options["mm_token_type_ids"] = kinds[:rows]
    with torch.no_grad(), model.disable_adapter():
        first, _, _ = trainer._get_per_token_logps_and_entropies(
            model, *ids, mask.shape[1], batch_size=rows, **options
        )
    difference = (now[:rows] - first)[mask].double()
    return float(difference.mean()) if len(difference) else None
