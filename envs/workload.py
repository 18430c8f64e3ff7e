"""Made-up rollouts on a dataset's images: what a policy in training would ask of a segmenter."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from envs.datasets import open_dataset
from envs.executors.base import SegmentRequest
from envs.masks import decode_rle, mask_to_box
from envs.sample import RGB
from prompter.errors import UserError
from prompter.types import Box, Instance, PromptSet

JITTER = 0.1
"""Corners are moved by up to this share of the box's sides, so that no two completions agree."""


@dataclass(frozen=True)
class Workload:
    """Images, and for each image the prompt sets of its completions."""

    images: list[RGB]
    prompts: list[list[PromptSet]]

    @property
    def completions(self) -> int:
        """Number of prompt sets."""
        return sum(len(group) for group in self.prompts)

    @property
    def instances(self) -> int:
        """Number of instances in all prompt sets."""
        return sum(len(prompt_set) for group in self.prompts for prompt_set in group)

    def first(self, images: int) -> Workload:
        """The part of the workload on its first images."""
        return Workload(self.images[:images], self.prompts[:images])

    def requests(self) -> list[SegmentRequest]:
        """A request for every completion, as a batch of rollouts gives them."""
        return [
            SegmentRequest(image, prompt_set)
            for image, group in zip(self.images, self.prompts, strict=True)
            for prompt_set in group
        ]


def make_workload(
    dataset: str,
    split: str,
    *,
    images: int,
    side: int,
    group: int,
    most_instances: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> Workload:
    """Rollouts such as a policy in training gives: every completion has its own, slightly wrong prompts.

    Args:
        dataset, split: where images and objects come from; `aerial-buildings` is cut into windows of
            `side`, other sets' images are resized to it.
        images: distinct images.
        side: their side in pixels.
        group: completions per image.
        most_instances: a completion has 1 to this many instances, boxes around jittered objects,
            every second one with a point inside as well.
        seed: makes the workload reproducible.
        options: the dataset's own.

    Raises:
        UserError: if the set has fewer usable images.
    """
    windows = {"window": side, "stride": 16} if dataset == "aerial-buildings" else {}
    source = open_dataset(dataset, split, **{**windows, **(options or {})})
    pixels: dict[str, RGB] = {}
    boxes: dict[str, set[Box]] = {}
    for sample in source:
        if sample.image_id not in pixels:
            if len(pixels) == images and all(len(found) for found in boxes.values()):
                break
            if len(pixels) == images:
                continue
            image = sample.load_image().convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            pixels[sample.image_id] = np.ascontiguousarray(np.asarray(image))
            boxes[sample.image_id] = set()
        scale = (side / sample.image_wh[0], side / sample.image_wh[1])
        for rle in sample.instances:
            box = mask_to_box(decode_rle(rle))
            if box is not None:
                scaled = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
                boxes[sample.image_id].add(scaled)
    if len(pixels) < images:
        raise UserError(
            f"{dataset}:{split} has {len(pixels)} distinct images, but --images asks for {images}."
        )
    generator = random.Random(seed)
    whole: Box = (side * 0.25, side * 0.25, side * 0.75, side * 0.75)
    prompts = [
        [
            _completion(sorted(boxes[name]) or [whole], generator.randint(1, most_instances), side, generator)
            for _ in range(group)
        ]
        for name in pixels
    ]
    return Workload(list(pixels.values()), prompts)


def _completion(boxes: Sequence[Box], count: int, side: int, generator: random.Random) -> PromptSet:
    """A prompt set around `count` of the boxes, with whole coordinates as policies write them."""
    instances = []
    for number in range(count):
        x1, y1, x2, y2 = boxes[generator.randrange(len(boxes))]
        reach = (JITTER * (x2 - x1) + 2, JITTER * (y2 - y1) + 2)
        moved = [v + generator.uniform(-1, 1) * reach[i % 2] for i, v in enumerate((x1, y1, x2, y2))]
        left, top = (round(min(max(v, 0), side - 2)) for v in moved[:2])
        right, bottom = max(left + 1, round(min(moved[2], side))), max(top + 1, round(min(moved[3], side)))
        inside = ((left + right) / 2, (top + bottom) / 2)
        points = (inside,) if number % 2 else ()
        instances.append(Instance(box=(left, top, right, bottom), positive_points=points))
    return PromptSet(tuple(instances))
