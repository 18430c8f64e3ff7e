"""The losses of a seg-token policy's masks and of its attention, each as its paper writes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.masks import Mask, mask_to_box


def bce_loss(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Binary cross-entropy, a mean over the counted pixels of each mask (LISA, equation 4).

    Args:
        logits, targets: [n, h, w]; targets in [0, 1].
        counted: [h, w], weight of each pixel.

    Returns:
        [n].
    """
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * counted).flatten(1).sum(1) / counted.sum().clamp(min=1e-6)


def dice_loss(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """One minus the DICE coefficient of probabilities and target; arguments and result as `bce_loss`."""
    chances = (logits.sigmoid() * counted).flatten(1)
    wanted = (targets * counted).flatten(1)
    return 1 - (2 * (chances * wanted).sum(1) + 1e-3) / (chances.sum(1) + wanted.sum(1) + 1e-3)


def attention_loss(attention: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """SegEarth-R2's spatial attention supervision (section 4.1, both equations).

    With a the mean attention over the background, minus the logarithm of the mean over the foreground of
    (attention - a) squared. As written there: attention *below* the background's mean lowers it as well.

    Args:
        attention: [n, tokens], from `[SEG]`, a mean over layers and heads.
        foreground, background: bool [n, tokens], image tokens on the target, at least one of each row, and
            image tokens off it; a is 0 where there are none.

    Returns:
        [n].
    """
    inside, outside = foreground.to(attention.dtype), background.to(attention.dtype)
    mean = (attention * outside).sum(1) / outside.sum(1).clamp(min=1)
    distance = ((attention - mean[:, None]).square() * inside).sum(1) / inside.sum(1)
    return -(distance + torch.finfo(torch.float32).tiny).log()


def look_loss(attention: Tensor, foreground: Tensor) -> Tensor:
    """The cold start's supervision: half of a layer's heads have to look at the target.

    Minus the logarithm of the share of their attention that is on it, a mean over those heads.

    Args:
        attention: [n, heads, tokens], from `[SEG]`, shares of one.
        foreground: bool [n, tokens], image tokens on the target.

    Returns:
        [n].
    """
    mass = (attention[:, : attention.shape[1] // 2] * foreground[:, None]).sum(-1)
    return -(mass + 1e-4).log().mean(-1)


def place_loss(told: Tensor, masks: Sequence[Mask]) -> Tensor:
    """How far told boxes are from the targets': a smooth L1 distance, ten at a whole image's side.

    Args:
        told: [n, 4], middle (x, y) and size (width, height) in sides of the image, of each target.
        masks: of the targets, bool [height, width] each, none of them empty.

    Returns:
        A scalar, mean over targets and numbers.
    """
    wanted = []
    for mask in masks:
        box = mask_to_box(mask)
        if box is None:
            raise ValueError("a target without a pixel has no place")
        x1, y1, x2, y2 = box
        height, width = mask.shape
        wanted.append(((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height))
    return 10 * F.smooth_l1_loss(told, torch.tensor(wanted, device=told.device), beta=0.05)
