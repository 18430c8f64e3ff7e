"""Rows of like length go through the model together, without the padding that the longest row needs.

TRL pads a step's rows to the longest completion. Where most answers take 16 tokens and one runs to the
limit, that is most of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

ROWS = 32
"""Rows of one pass; fewer would repeat the encoding of images that several rows show."""

LogProbabilities = tuple[Tensor, Tensor | None, Tensor | None]


def by_length(
    compute: Callable[..., LogProbabilities],
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    pixel_values: Tensor,
    image_grid_thw: Tensor,
    mm_token_type_ids: Tensor | None = None,
    rows: int = ROWS,
) -> LogProbabilities:
    """Compute what `compute` would for all rows at once, in passes of rows of like length.

    Args:
        compute: TRL's `_get_per_token_logps_and_entropies` with the model already bound; returns
            log-probabilities [rows, logits_to_keep], entropies of that shape or None, and None.
        input_ids, attention_mask, mm_token_type_ids: [rows, length]; prompts are padded on the left,
            completions on the right.
        logits_to_keep: length of the completions.
        pixel_values, image_grid_thw: of the images, one per row, in the order of the rows.
        rows: most rows of one pass.

    Returns:
        As `compute`; zero where a row is padded.
    """
    prompt_length = input_ids.shape[1] - logits_to_keep
    prompts = attention_mask[:, :prompt_length].sum(1)
    completions = attention_mask[:, prompt_length:].sum(1)
    order = torch.argsort(prompts + completions, stable=True)
    patches = pixel_values.split(image_grid_thw.prod(-1).tolist())
    found: list[tuple[Tensor, Tensor | None]] = []
    for chosen in order.split(rows):
        longest = max(1, int(completions[chosen].max()))
        columns = slice(prompt_length - int(prompts[chosen].max()), prompt_length + longest)
        options: dict[str, Any] = {}
        if mm_token_type_ids is not None:
            options["mm_token_type_ids"] = mm_token_type_ids[chosen, columns]
        logps, entropies, _ = compute(
            input_ids[chosen, columns],
            attention_mask[chosen, columns],
            longest,
            pixel_values=torch.cat([patches[row] for row in chosen.tolist()]),
            image_grid_thw=image_grid_thw[chosen],
            num_images=[1] * len(chosen),
            **options,
        )
        missing = (0, logits_to_keep - longest)
        found.append((pad(logps, missing), None if entropies is None else pad(entropies, missing)))
    back = torch.argsort(order)
    all_logps = torch.cat([logps for logps, _ in found])[back]
    all_entropies = [entropies for _, entropies in found if entropies is not None]
    return all_logps, torch.cat(all_entropies)[back] if all_entropies else None, None
