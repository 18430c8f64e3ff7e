"""Each distinct image of a step is processed and encoded once, however many completions it has.

A group's completions share their image, and a step's prompts often share a scene. TRL hands the
image to the processor and to the vision tower once per completion. Where the tower is trained as well,
the gradients of an image's copies are added up, and one backward pass carries them through it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import BatchFeature


def sharing_processor(processor: Any) -> Any:
    """Copy a Hugging Face processor so that an image occurring several times in a call is processed once.

    The same PIL object counts as the same image. The copy is saved as the original would be.
    """
    inner = processor.image_processor

    class Sharing(type(inner)):  # type: ignore[misc]
        def __call__(self, images: Any, *args: Any, **options: Any) -> BatchFeature:
            flat = [image for one in images for image in (one if isinstance(one, list | tuple) else [one])]
            place: dict[int, int] = {}
            distinct: list[Any] = []
            for image in flat:
                if id(image) not in place:
                    place[id(image)] = len(distinct)
                    distinct.append(image)
            batch = super().__call__(distinct, *args, **options)
            if len(distinct) == len(flat):
                return batch
            order = [place[id(image)] for image in flat]
            grids = torch.as_tensor(batch["image_grid_thw"])
            patches = torch.as_tensor(batch["pixel_values"]).split(grids.prod(-1).tolist())
            batch["pixel_values"] = torch.cat([patches[number] for number in order])
            batch["image_grid_thw"] = grids[torch.tensor(order)]
            return batch

    # Its name is written into checkpoints, and looked up when they are opened.
    Sharing.__name__ = type(inner).__name__
    shared = copy.copy(processor)
    shared.image_processor = copy.copy(inner)
    shared.image_processor.__class__ = Sharing
    return shared


def share_vision(model: nn.Module) -> None:
    """Make a model's vision tower encode each distinct image of a call once; if frozen, without gradients.

    Only the tower's `forward` is replaced: names of modules and parameters, and so checkpoints, stay.
    Copies of an image share what dropout in the tower drops.
    """
    core: Any = model
    core = core.get_base_model() if hasattr(core, "get_base_model") else core
    tower = core.model.visual
    frozen = not any(parameter.requires_grad for parameter in tower.parameters())
    plain = tower.forward

    def shared(hidden_states: torch.Tensor, grid_thw: torch.Tensor, **options: Any) -> Any:
        sizes = grid_thw.prod(-1).tolist()
        numbers, order = equal_images(hidden_states.split(sizes), grid_thw)
        with torch.no_grad() if frozen else nullcontext():
            if len(numbers) == len(sizes):
                return plain(hidden_states, grid_thw=grid_thw, **options)
            parts = hidden_states.split(sizes)
            chosen = grid_thw[torch.tensor(numbers, device=grid_thw.device)]
            output = plain(torch.cat([parts[number] for number in numbers]), grid_thw=chosen, **options)
        patches = [sizes[number] for number in numbers]
        tokens = [count // int(tower.spatial_merge_size) ** 2 for count in patches]
        output.pooler_output = _repeat(output.pooler_output, tokens, order)
        output.last_hidden_state = _repeat(output.last_hidden_state, patches, order)
        if getattr(output, "deepstack_features", None) is not None:
            output.deepstack_features = [
                _repeat(feature, tokens, order) for feature in output.deepstack_features
            ]
        return output

    tower.forward = shared


def equal_images(parts: Sequence[torch.Tensor], grids: torch.Tensor) -> tuple[list[int], list[int]]:
    """Find equal images.

    Returns:
        The position of each distinct image, and for every image which of those it equals.
    """
    numbers: list[int] = []
    order: list[int] = []
    # Sums say which images are worth comparing; equality decides.
    candidates: dict[tuple[Any, ...], list[int]] = {}
    for number, part in enumerate(parts):
        key = (*grids[number].tolist(), float(part.double().sum()))
        for place in candidates.setdefault(key, []):
            if torch.equal(parts[numbers[place]], part):
                order.append(place)
                break
        else:
            candidates[key].append(len(numbers))
            order.append(len(numbers))
            numbers.append(number)
    return numbers, order


def _repeat(features: torch.Tensor, sizes: list[int], order: list[int]) -> torch.Tensor:
    parts = features.split(sizes)
    return torch.cat([parts[number] for number in order])
