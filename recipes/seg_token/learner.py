"""A seg-token policy while it is trained: its losses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from envs.executors.base import Embedding
from envs.executors.decoding.promptable import Geometry
from envs.masks import Mask
from envs.oracle import interior_points
from envs.seg_token.model import SegTokenPolicy
from recipes.cold_start.data import cell_coverage
from recipes.cold_start.model import looking_layer, store_tied_once
from recipes.seg_token.attention import NotedAttention, noted_attention
from recipes.seg_token.config import SegTokenWeights
from recipes.seg_token.losses import attention_loss, bce_loss, dice_loss, look_loss, place_loss


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
        width = parts.model.policy_model.config.get_text_config().hidden_size
        self.place = nn.Linear(width, 4) if weights.place else None
        if self.place is not None:
            nn.init.zeros_(self.place.weight)
            nn.init.constant_(self.place.bias, 0.5)
        store_tied_once(self.model)

    def forward(self, batch: dict[str, Any], *, masks: bool = True) -> dict[str, Tensor]:
        """Compute all losses, those of masks only if asked to.

        Returns:
            `loss` (the weighted sum) and its parts: `text`; `bce` and `dice` where they have weight, and with
            them `choice` for several queries; `attention`, `look`, `place` and `align` where they have
            weight.
        """
        device = self.model.query_ids.device
        rows, positions = self.model.marks(batch)
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=self.in_bfloat16))
            noted = None
            if (self.weights.attention or self.weights.look) and len(rows):
                language: Any = self.model.policy_model.model.language_model
                layer = looking_layer(language.config)
                noted = stack.enter_context(
                    noted_attention(language, rows[:, 0], positions[:, 0], batch["attention_mask"], layer)
                )
            states = self.model.states(batch)
            losses = {"text": self._text_loss(states, batch["labels"])}
            if len(rows):
                asked = states[rows, positions]
                if self.place is not None:
                    losses["place"] = place_loss(self.place(asked[:, 0]).float(), batch["masks"])
                if self.weights.align:
                    losses["align"] = self._align_loss(asked, rows, batch)
                if masks and (self.weights.bce or self.weights.dice):
                    losses |= self._mask_losses(asked, rows, batch)
            if noted is not None:
                losses |= self._attention_losses(noted, rows, batch)
        total = losses["text"]
        for name, value in losses.items():
            if name != "text":
                total = total + getattr(self.weights, name, 1.0) * value
        return {"loss": total, **losses}

    def _text_loss(self, states: Tensor, labels: Tensor) -> Tensor:
        # Of a target's query tokens only the first is chosen when answering: the others follow it.
        told = (labels[:, 1:] != -100) & ~torch.isin(labels[:, 1:], self.model.query_ids[1:])
        head: Any = self.model.policy_model.get_output_embeddings()
        return F.cross_entropy(head(states[:, :-1][told]).float(), labels[:, 1:][told])

    def _mask_losses(self, asked: Tensor, rows: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of the masks decoded from the query tokens' states `asked` [targets, k, width]."""
        owners = batch["image_index"][rows[:, 0]].tolist()
        embeddings = self._parts.embeddings(batch["images"])
        wanted = [
            self._wanted(mask, batch["ignore"][row], embeddings[image])
            for mask, row, image in zip(batch["masks"], rows[:, 0].tolist(), owners, strict=True)
        ]
        losses, trained = {}, asked
        if self.model.chooser is not None:
            nearest = self._nearest(asked, owners, embeddings, wanted)
            losses["choice"] = F.cross_entropy(self.model.chooser(asked)[..., 0].float(), nearest)
            trained = self.model.one_of_k(asked, nearest)
        logits = self.model.decode(trained, owners, embeddings)
        pairs = [_mask_pair(one, *target) for one, target in zip(logits, wanted, strict=True)]
        bces, dices = zip(*pairs, strict=True)
        return {"bce": torch.cat(bces).mean(), "dice": torch.cat(dices).mean(), **losses}

    def _nearest(
        self,
        asked: Tensor,
        owners: Sequence[int],
        embeddings: Sequence[Embedding],
        wanted: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Which of the k masks of each target is nearest to it by the weighted losses, int64 [targets].

        Decoded without a graph, one target at a time: only the nearest one is decoded again to be trained, so
        that memory does not grow with k.
        """
        found = []
        with torch.no_grad():
            for target, owner in enumerate(owners):
                (logits,) = self.model.decode(asked[target : target + 1], [0], [embeddings[owner]])
                bce, dice = _mask_pair(logits, *wanted[target])
                found.append((self.weights.bce * bce + self.weights.dice * dice).argmin())
        return torch.stack(found)

    def _align_loss(self, asked: Tensor, rows: Tensor, batch: dict[str, Any]) -> Tensor:
        """Mean squared distance of projected embeddings from the tokens of points inside the targets.

        The token's components are of size 1, so that a distance of 1 is as wrong as can be.
        """
        wanted = [
            self.model.head.point_token(interior_points(mask, 1)[0], (mask.shape[1], mask.shape[0]))
            for mask in batch["masks"]
        ]
        tokens = torch.stack(wanted)[:, None]
        return F.mse_loss(self.model.projection(asked).float(), tokens.expand(-1, asked.shape[1], -1))

    def _attention_losses(
        self, noted: NotedAttention, rows: Tensor, batch: dict[str, Any]
    ) -> dict[str, Tensor]:
        """What supervises the attention from each `[SEG]`: SegEarth-R2's term, and the cold start's."""
        image_tokens = batch["mm_token_type_ids"][rows[:, 0]] == 1
        merge = self._parts.policy.processor.image_processor.merge_size
        foreground = torch.zeros_like(image_tokens)
        for target, row in enumerate(rows[:, 0].tolist()):
            grid = batch["image_grid_thw"][batch["image_index"][row], 1:] // merge
            cells = target_cells(batch["masks"][target], (int(grid[0]), int(grid[1])))
            foreground[target, image_tokens[target]] = torch.from_numpy(cells.flatten()).to(foreground.device)
        losses = {}
        if self.weights.attention:
            background = image_tokens & ~foreground
            losses["attention"] = attention_loss(noted.mean(), foreground, background).mean()
        if self.weights.look:
            losses["look"] = look_loss(noted.heads(), foreground).mean()
        return losses

    def _wanted(self, mask: Mask, ignore: Mask | None, embedding: Embedding) -> tuple[Tensor, Tensor]:
        """A target and the weight of each pixel, float32 [h, w], where the logits hold the image."""
        hw = used_logits(self.model.head.geometry(embedding))
        device = self.model.query_ids.device
        counted = np.ones(mask.shape, np.float32) if ignore is None else (~ignore).astype(np.float32)
        kept = [cv2.resize(one, hw[::-1], interpolation=cv2.INTER_AREA) for one in (mask * counted, counted)]
        shares = np.divide(kept[0], kept[1], out=np.zeros_like(kept[0]), where=kept[1] > 0)
        return torch.from_numpy(shares).to(device), torch.from_numpy(kept[1]).to(device)


def _mask_pair(logits: Tensor, mask: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """BCE and DICE loss, [k] each, of a target's k masks.

    Args:
        logits: [k, H, W], the image in their top-left [h, w].
        mask, counted: [h, w]; see `bce_loss`.
    """
    height, width = mask.shape
    seen = logits[:, :height, :width].float()
    wanted = mask.expand_as(seen)
    return bce_loss(seen, wanted, counted), dice_loss(seen, wanted, counted)


def used_logits(geometry: Geometry) -> tuple[int, int]:
    """(height, width) of the part of the logits, from the top-left corner, that holds the image."""
    return (
        max(1, round(geometry.used_hw[0] * geometry.low_hw[0] / geometry.padded_hw[0])),
        max(1, round(geometry.used_hw[1] * geometry.low_hw[1] / geometry.padded_hw[1])),
    )


def target_cells(mask: Mask, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at the resolution of the image's tokens: cells at least half of which it covers.

    A target that covers half of none, as small ones do, has the cell that it covers most of.

    Args:
        mask: bool [height, width], not empty.
        grid: (rows, columns).

    Returns:
        bool [rows, columns].
    """
    shares = cell_coverage([mask], grid)[0]
    return shares >= min(0.5, float(shares.max()))
