"""A seg-token policy while it is trained: its losses."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.executors.base import Embedding
from envs.executors.decoding.promptable import Geometry
from envs.masks import Mask
from envs.seg_token.model import SegTokenPolicy
from recipes.cold_start.model import store_tied_once
from recipes.seg_token.config import SegTokenWeights
from recipes.seg_token.losses import bce_loss, dice_loss


class SegTokenLearner(nn.Module):
    """The losses of a batch of `recipes.seg_token.data.SegCollator`.

    Masks are compared at the resolution of the head's logits, on the part of them that holds the image, with
    the target averaged over each of their pixels.

    Args:
        parts: the policy.
        weights: of the losses.
        bfloat16: multiply matrices in bfloat16.
    """

    def __init__(self, parts: SegTokenPolicy, weights: SegTokenWeights, *, bfloat16: bool = False) -> None:
        super().__init__()
        self.model = parts.model
        self._parts = parts
        self.weights, self.in_bfloat16 = weights, bfloat16
        store_tied_once(self.model)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute all losses.

        Returns:
            `loss` (the weighted sum) and its parts: `text`, `bce`, `dice`; `choice` with several queries.
        """
        device = self.model.query_ids.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.in_bfloat16):
            states = self.model.states(batch)
            losses = {"text": self._text_loss(states, batch["labels"])}
            rows, positions = self.model.marks(batch)
            if len(rows):
                losses |= self._mask_losses(states, rows, positions, batch)
        total = losses["text"]
        for name, value in losses.items():
            if name != "text":
                total = total + getattr(self.weights, name, 1.0) * value
        return {"loss": total, **losses}

    def _text_loss(self, states: Tensor, labels: Tensor) -> Tensor:
        told = labels[:, 1:] != -100
        head: Any = self.model.policy_model.get_output_embeddings()
        return F.cross_entropy(head(states[:, :-1][told]).float(), labels[:, 1:][told])

    def _mask_losses(
        self, states: Tensor, rows: Tensor, positions: Tensor, batch: dict[str, Any]
    ) -> dict[str, Tensor]:
        asked = states[rows, positions]
        owners = batch["image_index"][rows[:, 0]].tolist()
        embeddings = self._parts.embeddings(batch["images"])
        logits = self.model.decode(asked, owners, embeddings)
        bces, dices, nearest = [], [], []
        for target, (one, row, image) in enumerate(zip(logits, rows[:, 0].tolist(), owners, strict=True)):
            mask, counted = self._wanted(batch["masks"][target], batch["ignore"][row], embeddings[image])
            height, width = mask.shape
            seen = one[:, :height, :width].float()
            wanted = mask.expand_as(seen)
            bce, dice = bce_loss(seen, wanted, counted), dice_loss(seen, wanted, counted)
            best = int((self.weights.bce * bce + self.weights.dice * dice).detach().argmin())
            bces.append(bce[best])
            dices.append(dice[best])
            nearest.append(best)
        losses = {"bce": torch.stack(bces).mean(), "dice": torch.stack(dices).mean()}
        if self.model.chooser is not None:
            scores = self.model.chooser(asked)[..., 0].float()
            losses["choice"] = F.cross_entropy(scores, torch.tensor(nearest, device=scores.device))
        return losses

    def _wanted(self, mask: Mask, ignore: Mask | None, embedding: Embedding) -> tuple[Tensor, Tensor]:
        """A target and the weight of each pixel, float32 [h, w], where the logits hold the image."""
        hw = used_logits(self.model.head.geometry(embedding))
        device = self.model.query_ids.device
        counted = np.ones(mask.shape, np.float32) if ignore is None else (~ignore).astype(np.float32)
        kept = [cv2.resize(one, hw[::-1], interpolation=cv2.INTER_AREA) for one in (mask * counted, counted)]
        shares = np.divide(kept[0], kept[1], out=np.zeros_like(kept[0]), where=kept[1] > 0)
        return torch.from_numpy(shares).to(device), torch.from_numpy(kept[1]).to(device)


def used_logits(geometry: Geometry) -> tuple[int, int]:
    """(height, width) of the part of the logits, from the top-left corner, that holds the image."""
    return (
        max(1, round(geometry.used_hw[0] * geometry.low_hw[0] / geometry.padded_hw[0])),
        max(1, round(geometry.used_hw[1] * geometry.low_hw[1] / geometry.padded_hw[1])),
    )
