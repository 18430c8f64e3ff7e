"""Prompts made from the ground truth: what a perfect policy would say.

Used as supervision by the cold start, as the ceiling by `prompter ceiling`, and as a baseline by
the evaluator. All prompts are in the image frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from envs.masks import Mask, mask_to_box
from envs.sample import Sample
from prompter.types import Instance, Point, PromptSet


def interior_points(mask: Mask, count: int) -> tuple[Point, ...]:
    """Choose points well inside a mask.

    The first is the pixel farthest from the background (maximum of the Euclidean distance
    transform, the image's border counting as background); each further one maximises the smaller of
    its depth and half its distance to those already chosen, so that points spread out and stay inside.

    Args:
        mask: bool [height, width], not empty.
        count: how many points.

    Returns:
        (x, y) pixel centres; fewer than `count` if the mask has fewer pixels.

    Raises:
        ValueError: if the mask is empty.
    """
    if not mask.any():
        raise ValueError("an empty mask has no interior points")
    padded = np.pad(mask.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask)
    score = depth[rows, columns].astype(np.float64)
    points: list[Point] = []
    for _ in range(min(count, rows.size)):
        best = int(np.argmax(score))
        points.append((float(columns[best]) + 0.5, float(rows[best]) + 0.5))
        apart = np.hypot(columns - columns[best], rows - rows[best]) / 2
        score = np.minimum(score, apart)
    return tuple(points)


def reading_order(masks: Sequence[Mask]) -> list[Mask]:
    """Sort non-empty masks by the left, then the upper edge of their boxes; drop empty ones."""
    boxed = [(mask_to_box(mask), mask) for mask in masks]
    kept = [(box, mask) for box, mask in boxed if box is not None]
    return [mask for _, mask in sorted(kept, key=lambda item: item[0][:2])]


def oracle_prompts(masks: Sequence[Mask], *, box: bool, points: int) -> PromptSet:
    """Prompt each mask with its tight box and/or interior points; empty masks give nothing.

    Args:
        masks: one bool [height, width] per target object, in the order of the answer.
        box: whether to give the box.
        points: how many interior points; 0 for none (then `box` must be True).
    """
    instances = []
    for mask in masks:
        tight = mask_to_box(mask)
        if tight is not None:
            instances.append(Instance(tight if box else None, interior_points(mask, points)))
    return PromptSet(tuple(instances))


def target_masks(sample: Sample) -> list[Mask]:
    """The masks of a sample's objects, or the connected components of its target if none are told apart."""
    masks = sample.instance_masks()
    if masks or sample.target is None:
        return masks
    count, labels = cv2.connectedComponents(sample.target_mask().astype(np.uint8), connectivity=8)
    return [labels == number for number in range(1, count)]
