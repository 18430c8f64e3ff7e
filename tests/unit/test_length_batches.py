"""Passes of rows of like length give what one padded pass gives, and each row its own images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recipes.length_batches import by_length

PROMPT, KEPT = 5, 7


class Model:
    """Scores that depend on a row's own tokens and image, whatever its padding; remembers its passes."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def __call__(
        self, ids: torch.Tensor, mask: torch.Tensor, keep: int, *, num_images: list[int], **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        self.shapes.append((ids.shape[0], ids.shape[1]))
        assert num_images == [1] * len(ids)
        grids, pixels = options["image_grid_thw"], options["pixel_values"]
        images = torch.stack([part.sum() for part in pixels.split(grids.prod(-1).tolist())])
        kinds = options["mm_token_type_ids"]
        running = ((ids + kinds) * mask).cumsum(1).double() * images[:, None] * mask
        return running[:, -keep:], -running[:, -keep:], None


def batch(seed: int, count: int = 21) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, PROMPT + 1, (count,), generator=generator)
    completions = torch.randint(1, KEPT + 1, (count,), generator=generator)
    columns = torch.arange(PROMPT + KEPT)
    mask = (columns >= PROMPT - prompts[:, None]) & (columns < PROMPT + completions[:, None])
    grids = torch.tensor([[1, 2, 2], [1, 4, 2]])[torch.randint(0, 2, (count,), generator=generator)]
    return {
        "input_ids": torch.randint(1, 90, mask.shape, generator=generator),
        "attention_mask": mask.long(),
        "pixel_values": torch.rand(int(grids.prod(-1).sum()), 3, generator=generator),
        "image_grid_thw": grids,
        "mm_token_type_ids": torch.randint(0, 2, mask.shape, generator=generator),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [1, 4, 32])
def test_passes_by_length_equal_one_pass(seed: int, rows: int) -> None:
    given, model = batch(seed), Model()
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    whole, whole_entropies, _ = model(ids, mask, KEPT, num_images=[1] * len(ids), **given)
    logps, entropies, _ = by_length(model, ids, mask, KEPT, rows=rows, **given)
    torch.testing.assert_close(logps, whole)
    assert entropies is not None
    torch.testing.assert_close(entropies, whole_entropies)


def test_short_rows_are_not_padded_to_the_longest() -> None:
    given, model = batch(0), Model()
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    by_length(model, ids, mask, KEPT, rows=4, **given)
    widths = [width for _, width in model.shapes]
    assert sum(rows for rows, _ in model.shapes) == len(ids)
    assert min(widths) < max(widths) <= PROMPT + KEPT
