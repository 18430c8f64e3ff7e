"""The losses of a seg-token policy's masks and of its attention, each as its paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
