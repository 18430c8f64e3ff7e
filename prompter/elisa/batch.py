"""Questions about images with proposed masks, as tensors."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from prompter.checkpoint import Checkpoint
from prompter.elisa.vocabulary import base_model
from prompter.sampling.image_tokens import expand_pads, image_token_count


@dataclass(frozen=True)
class Question:
    """One question about one image.

    Args:
        query: text.
        image: PIL RGB at the size the model sees.
        image_key: identity of the image within a batch.
        masks: embeddings of its masks, float [masks, width]; see `prompter.elisa.features`.
        answer: token ids to learn, the end included; empty where the model is to answer.
    """

    query: str
    image: Image.Image = field(repr=False)
    image_key: str
    masks: Tensor = field(repr=False)
    answer: tuple[int, ...] = ()


class Collator:
    """Questions -> a batch, padded on the left, so that all answers end together.

    Args:
        policy: whose processor and chat it is.
        model: its weights, which may want token types.

    Returns of a call (a dict):
        inputs: what the model takes: input_ids, attention_mask [batch, length], the image processor's
            tensors (an image per row), and mm_token_type_ids where the model takes them.
        labels: int64 [batch, longest answer], -100 before shorter answers.
        masks: float32 [batch, most masks, width]; present: bool [batch, most masks].
    """

    def __init__(self, policy: Checkpoint, model: Any) -> None:
        self.policy = policy
        forward = type(base_model(model)).forward
        self._wants_types = "mm_token_type_ids" in inspect.signature(forward).parameters

    def __call__(self, questions: Sequence[Question]) -> dict[str, Any]:
        processor, tokenizer = self.policy.processor, self.policy.processor.tokenizer
        pad_image = tokenizer.get_vocab()[processor.image_token]
        rows = []
        for question in questions:
            prompt = tokenizer(self.policy.render(question.query))["input_ids"]
            count = image_token_count(processor, question.image.size)
            rows.append([*expand_pads(prompt, pad_image, [count]), *question.answer])
        length = max(map(len, rows))
        input_ids = torch.full((len(rows), length), int(tokenizer.pad_token_id))
        attended = torch.zeros_like(input_ids)
        labels = torch.full((len(rows), max(len(one.answer) for one in questions)), -100)
        most = max(1, *(len(one.masks) for one in questions))
        masks = torch.zeros(len(rows), most, questions[0].masks.shape[1])
        present = torch.zeros(len(rows), most, dtype=torch.bool)
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            input_ids[number, length - len(row) :] = torch.tensor(row)
            attended[number, length - len(row) :] = 1
            if question.answer:
                labels[number, labels.shape[1] - len(question.answer) :] = torch.tensor(question.answer)
            masks[number, : len(question.masks)] = question.masks
            present[number, : len(question.masks)] = True
        inputs = {"input_ids": input_ids, "attention_mask": attended, **self._pixels(questions)}
        if self._wants_types:
            inputs["mm_token_type_ids"] = (input_ids == pad_image).long()
        return {"inputs": inputs, "labels": labels, "masks": masks, "present": present}

    def _pixels(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """The image processor's tensors, an image per question; each distinct one is processed once."""
        places: dict[str, int] = {}
        images: list[Image.Image] = []
        for question in questions:
            if question.image_key not in places:
                places[question.image_key] = len(images)
                images.append(question.image)
        pixels = self.policy.processor.image_processor(images=images, return_tensors="pt")
        grids = pixels["image_grid_thw"]
        parts = pixels["pixel_values"].split(grids.prod(1).tolist())
        shown = [places[question.image_key] for question in questions]
        return {
            "pixel_values": torch.cat([parts[place] for place in shown]),
            "image_grid_thw": grids[shown],
        }


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch of `Collator` with all its tensors on `device`."""
    return {
        name: on_device(value, device) if isinstance(value, dict) else value.to(device)
        for name, value in batch.items()
    }
