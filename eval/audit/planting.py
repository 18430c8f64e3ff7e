"""Faults put into labels on purpose, so that an audit's power is known before anybody reads its queue.

Which labels are changed, and how, follows from a seed alone. Masks are bool [height, width], image frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from envs.masks import RLE, Mask, decode_rle, encode_rle, iou, mask_to_box

Rng = np.random.Generator

DIFFERENT = 0.6
"""A planted label's IoU with the true one stays below this: a smaller change would be no fault."""


@dataclass(frozen=True)
class Label:
    """A label as planting needs it.

    Args:
        sample_id: of the query.
        image: key of its image.
        rle: its mask.
    """

    sample_id: str
    image: str
    rle: RLE


@dataclass(frozen=True)
class Planted:
    """A fault: its kind, of `FAULTS`, and the label it puts in place of the true one."""

    kind: str
    rle: RLE


def plant_faults(labels: Sequence[Label], share: float, seed: int) -> dict[str, Planted]:
    """Choose labels at random and spoil them, each kind of `FAULTS` equally often as far as labels allow.

    Args:
        labels: all labels of the split.
        share: how many of them to spoil, in (0, 1); at least one is.
        seed: of the draw.

    Returns:
        sample_id -> its fault.
    """
    rng = np.random.default_rng(seed)
    by_image: dict[str, list[Label]] = {}
    for label in labels:
        by_image.setdefault(label.image, []).append(label)
    wanted = max(1, round(share * len(labels)))
    planted: dict[str, Planted] = {}
    counts = dict.fromkeys(FAULTS, 0)
    for number in rng.permutation(len(labels)):
        if len(planted) == wanted:
            break
        label = labels[number]
        mask = decode_rle(label.rle)
        others = [decode_rle(one.rle) for one in by_image[label.image]]
        for kind in sorted(FAULTS, key=lambda name: counts[name]):  # the rarest so far first
            spoilt = FAULTS[kind](mask, others, rng)
            if spoilt is not None and iou(spoilt, mask) < DIFFERENT:
                planted[label.sample_id] = Planted(kind, encode_rle(spoilt))
                counts[kind] += 1
                break
    return planted


def another_object(mask: Mask, others: Sequence[Mask], rng: Rng) -> Mask | None:
    """The label of another query of the image that has little in common with this one."""
    if not mask.any():
        return None
    fit = [other for other in others if other.any() and iou(other, mask) < 0.2]
    return fit[int(rng.integers(len(fit)))] if fit else None


def shifted(mask: Mask, others: Sequence[Mask], rng: Rng) -> Mask | None:
    """The label moved by 0.4 to 0.9 of its box's sides, towards the middle of the image on each axis."""
    box = mask_to_box(mask)
    if box is None:
        return None
    height, width = mask.shape
    moves = []
    for low, high, side in ((box[0], box[2], width), (box[1], box[3], height)):
        towards = 1 if (low + high) / 2 < side / 2 else -1
        moves.append(towards * (high - low) * rng.uniform(0.4, 0.9))
    return _moved(mask, np.array([[1, 0, moves[0]], [0, 1, moves[1]]]))


def cut_off(mask: Mask, others: Sequence[Mask], rng: Rng) -> Mask | None:
    """The label without what lies beyond a random line, which takes 45 to 70 % of it."""
    rows, columns = np.nonzero(mask)
    if rows.size < 20:
        return None
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    kept = along >= np.quantile(along, rng.uniform(0.45, 0.7))
    result = np.zeros_like(mask)
    result[rows[kept], columns[kept]] = True
    return result if result.any() else None


def flipped(mask: Mask, others: Sequence[Mask], rng: Rng) -> Mask | None:
    """ "No target" in place of a target; a target of another query in place of "no target"."""
    if mask.any():
        return np.zeros_like(mask)
    fit = [other for other in others if other.any()]
    return fit[int(rng.integers(len(fit)))] if fit else None


def wrong_size(mask: Mask, others: Sequence[Mask], rng: Rng) -> Mask | None:
    """The label grown or shrunk about its centre of mass, 1.4 to 1.9 times along each side."""
    rows, columns = np.nonzero(mask)
    if rows.size < 20:
        return None
    scale = rng.uniform(1.4, 1.9)
    scale = scale if rng.random() < 0.5 else 1 / scale
    x, y = columns.mean(), rows.mean()
    return _moved(mask, np.array([[scale, 0, x * (1 - scale)], [0, scale, y * (1 - scale)]]))


def _moved(mask: Mask, matrix: np.ndarray) -> Mask | None:
    """Map a mask by an affine matrix [2, 3] from old to new (x, y); None if nothing of it stays in sight."""
    wh = (mask.shape[1], mask.shape[0])
    moved = cv2.warpAffine(mask.astype(np.uint8), matrix, wh, flags=cv2.INTER_NEAREST) != 0
    return moved if moved.any() else None


Fault = Callable[[Mask, Sequence[Mask], Rng], Mask | None]

FAULTS: Mapping[str, Fault] = {
    "another-object": another_object,
    "shifted": shifted,
    "cut-off": cut_off,
    "no-target-flipped": flipped,
    "wrong-size": wrong_size,
}
"""Kind of fault -> what spoils a label: from the mask, all labels of its image and a generator; None
where the label cannot be spoilt in this way."""
