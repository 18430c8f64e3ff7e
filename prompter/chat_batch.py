"""Chats with their answers as one batch of tensors, for training and for reading hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from prompter.checkpoint import Checkpoint


@dataclass(frozen=True)
class AnsweredChat:
    """One question about one image, with its answer.

    Args:
        image_key: equal exactly where the images are.
        image: PIL RGB at the size the model sees.
        query: the question.
        answer_ids: token ids of the answer, its end token included.
    """

    image_key: str
    image: Image.Image = field(repr=False)
    query: str
    answer_ids: Sequence[int]


def chat_batch(policy: Checkpoint, chats: Sequence[AnsweredChat]) -> dict[str, Any]:
    """Collate chats; each distinct image is processed once.

    Returns:
        input_ids, attention_mask, mm_token_type_ids: int64 [chats, length], right-padded.
        labels: int64 [chats, length], -100 outside the answers.
        pixel_values, image_grid_thw: of the distinct images, as the processor makes them.
        image_index: int64 [chats], which distinct image a chat shows.
    """
    import torch

    processor, tokenizer = policy.processor, policy.processor.tokenizer
    places: dict[str, int] = {}
    images: list[Image.Image] = []
    for chat in chats:
        if chat.image_key not in places:
            places[chat.image_key] = len(images)
            images.append(chat.image)
    pixels = processor.image_processor(images=images, return_tensors="pt")
    merge = processor.image_processor.merge_size**2
    rows, prompts = [], []
    for chat in chats:
        tokens = int(pixels["image_grid_thw"][places[chat.image_key]].prod()) // merge
        expanded = policy.render(chat.query).replace(processor.image_token, processor.image_token * tokens)
        prompt = list(tokenizer(expanded)["input_ids"])
        prompts.append(len(prompt))
        rows.append(prompt + list(chat.answer_ids))
    length = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, -100)
    for number, (row, prompt_length) in enumerate(zip(rows, prompts, strict=True)):
        input_ids[number, : len(row)] = torch.tensor(row)
        attention_mask[number, : len(row)] = 1
        labels[number, prompt_length : len(row)] = torch.tensor(row[prompt_length:])
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "mm_token_type_ids": (input_ids == processor.image_token_id).long(),
        "pixel_values": pixels["pixel_values"],
        "image_grid_thw": pixels["image_grid_thw"],
        "image_index": torch.tensor([places[chat.image_key] for chat in chats]),
    }


def repeated_images(batch: dict[str, Any]) -> dict[str, Any]:
    """`pixel_values` and `image_grid_thw` once for each chat of a batch, as transformers takes them."""
    import torch

    grids = batch["image_grid_thw"]
    parts = batch["pixel_values"].split(grids.prod(-1).tolist())
    order = batch["image_index"].tolist()
    return {
        "pixel_values": torch.cat([parts[number] for number in order]),
        "image_grid_thw": grids[batch["image_index"]],
    }
