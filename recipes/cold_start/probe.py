"""How well a policy localises, measured without a segmenter: quick enough to run during training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from envs.boxes import pairwise_box_iou
from envs.masks import mask_to_box
from envs.oracle import target_masks
from envs.sample import SampleSource
from prompter.checkpoint import Checkpoint
from prompter.types import ParseFailure


@torch.inference_mode()
def probe(
    model: PreTrainedModel, policy: Checkpoint, source: SampleSource, *, samples: int, batch_size: int = 60
) -> dict[str, float]:
    """Answer the first `samples` questions (all, if there are fewer) greedily and compare with the targets.

    Returns:
        points_inside: share of prompts (points, or box centres) inside the target, over answers to
            questions that have one; box_iou: mean IoU of predicted boxes with their best target box;
        parse_failures: share of unreadable answers; empty_right, empty_wrong: share of questions
            without / with a target that were answered with an empty list; boxes: share of answers
            that use boxes.
    """
    samples = min(samples, len(source))
    inside: list[float] = []
    overlaps: list[float] = []
    empties: dict[bool, list[bool]] = {True: [], False: []}
    failures, with_box, answered = 0, 0, 0
    for start in range(0, samples, batch_size):
        chunk = [source[index] for index in range(start, min(samples, start + batch_size))]
        texts = _greedy(model, policy, [(sample.query, sample.load_image()) for sample in chunk])
        for sample, text in zip(chunk, texts, strict=True):
            answer = policy.parse(text, sample.image_wh)
            if isinstance(answer, ParseFailure):
                failures += 1
                continue
            masks = target_masks(sample)
            empties[not masks].append(answer.is_empty)
            if not masks or answer.is_empty:
                continue
            target = np.logical_or.reduce(masks)
            targets = [box for box in map(mask_to_box, masks) if box is not None]
            answered += 1
            with_box += any(instance.box is not None for instance in answer.instances)
            for instance in answer.instances:
                box = instance.box
                points = list(instance.positive_points)
                if box is not None:
                    points.append(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
                    overlaps.append(float(pairwise_box_iou([box], targets).max()))
                inside += [float(_hits(target, x, y)) for x, y in points]
    return {
        "points_inside": _mean(inside),
        "box_iou": _mean(overlaps),
        "parse_failures": failures / samples,
        "empty_right": _mean(empties[True]),
        "empty_wrong": _mean(empties[False]),
        "boxes": with_box / max(1, answered),
    }


def _hits(target: Any, x: float, y: float) -> bool:
    height, width = target.shape
    return bool(target[min(int(y), height - 1), min(int(x), width - 1)])


def _mean(values: Any) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0


def _greedy(model: Any, policy: Checkpoint, asked: list[tuple[str, Any]]) -> list[str]:
    processor = policy.processor
    texts = [policy.render(query) for query, _ in asked]
    inputs = processor(
        text=texts,
        images=[policy.model_image(image) for _, image in asked],
        return_tensors="pt",
        padding=True,
    )
    output = model.generate(**inputs, max_new_tokens=policy.settings.max_new_tokens, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)
