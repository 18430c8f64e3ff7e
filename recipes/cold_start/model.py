"""The cold start's losses for a Qwen3-VL policy trained from scratch.

Besides the next-token loss there are five auxiliary terms, on heads that are thrown away afterwards:

- *place*: each merged vision token must tell its own cell (it has to carry its place before any
  coordinate can be read off it);
- *target*: halfway through the language model each image token must tell how much of its cell is
  target, given the question before it (dense: every cell of every sample teaches);
- *extent*: there, a token on a target must tell the coordinates of its object (box and interior
  point), read off by a linear map and the number tokens' own embeddings, so that an answer only has
  to look at the token and copy;
- *look*: in the next layer, half of the attention heads must look at the object's cells while a
  coordinate of it is being written (SegEarth-R2's spatial attention supervision);
- coordinates are trained against a narrow Gaussian around the right number instead of one number, as
  being 3 off is not as wrong as being 300 off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from prompter.checkpoint import Checkpoint
from recipes.cold_start.config import AuxiliaryWeights
from recipes.cold_start.small_policy import number_token_ids


class ColdStartModel(nn.Module):
    """A Qwen3-VL policy with the auxiliary heads of the cold start.

    The vision tower runs once per distinct image, however many questions a batch asks about it.

    Args:
        model: the policy's weights.
        policy: its processor and protocol.
        weights: weights of the auxiliary losses.
    """

    number_ids: torch.Tensor
    number_values: torch.Tensor
    number_targets: torch.Tensor

    def __init__(self, model: PreTrainedModel, policy: Checkpoint, weights: AuxiliaryWeights) -> None:
        super().__init__()
        self.policy_model = model
        self.weights = weights
        text = model.config.text_config
        grid = model.model.visual.num_grid_per_side // model.config.vision_config.spatial_merge_size
        self.middle_layer = max(0, text.num_hidden_layers - 3)
        self.place_head = nn.Linear(text.hidden_size, grid * grid)
        self.target_head = nn.Linear(text.hidden_size, 1)
        self.extent_head = nn.Linear(text.hidden_size, 6 * text.hidden_size)
        ids = number_token_ids(policy.processor.tokenizer)
        if ids is None:
            raise ValueError("the cold start's number loss needs a tokenizer with one token per coordinate")
        self.register_buffer("number_ids", torch.tensor(ids), persistent=False)
        values = torch.full((len(policy.processor.tokenizer),), -1)
        values[self.number_ids] = torch.arange(len(ids))
        self.register_buffer("number_values", values, persistent=False)
        offsets = torch.arange(len(ids))
        spread = max(weights.number_spread, 1e-3)
        kernel = torch.exp(-0.5 * ((offsets[:, None] - offsets[None, :]) / spread) ** 2)
        self.register_buffer("number_targets", kernel / kernel.sum(1, keepdim=True), persistent=False)

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Compute all losses of a batch made by `recipes.cold_start.data.Collator`.

        Returns:
            `loss` (the weighted sum) and the parts `text`, `number`, `place`, `target`, `extent`, `look`.
        """
        core = self.policy_model.model
        vision = core.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
        images = len(batch["image_grid_thw"])
        chosen = batch["image_index"]
        merged = vision.pooler_output.view(images, -1, vision.pooler_output.shape[-1])
        cells = merged.shape[1]
        image_mask = batch["mm_token_type_ids"].bool()
        embeddings = core.get_input_embeddings()(batch["input_ids"])
        width = embeddings.shape[-1]
        embeddings = embeddings.masked_scatter(
            image_mask[..., None].expand_as(embeddings), merged[chosen].to(embeddings.dtype)
        )
        deepstack = [
            feature.view(images, cells, width)[chosen].reshape(-1, width)
            for feature in vision.deepstack_features
        ]
        positions = core.compute_3d_position_ids(
            input_ids=batch["input_ids"],
            inputs_embeds=embeddings,
            image_grid_thw=batch["image_grid_thw"][chosen],
            attention_mask=batch["attention_mask"],
            mm_token_type_ids=batch["mm_token_type_ids"],
        )
        middle: list[torch.Tensor] = []
        layer = core.language_model.layers[self.middle_layer]
        looking = core.language_model.layers[self.middle_layer + 1].self_attn
        seen: list[tuple[torch.Tensor, Any]] = []
        hooks = [
            layer.register_forward_hook(lambda _module, _inputs, output: middle.append(output)),
            looking.register_forward_pre_hook(
                lambda _module, _inputs, given: seen.append(
                    (given["hidden_states"], given["position_embeddings"])
                ),
                with_kwargs=True,
            ),
        ]
        try:
            hidden = core.language_model(
                inputs_embeds=embeddings,
                position_ids=positions,
                attention_mask=batch["attention_mask"],
                visual_pos_masks=image_mask,
                deepstack_visual_embeds=deepstack,
                use_cache=False,
            ).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        losses = self._answer_losses(hidden, batch["labels"])
        looked = middle[0][image_mask].view(len(chosen), cells, width).float()
        losses.update(self._cell_losses(merged.float(), looked, batch))
        losses["look"] = self._look_loss(looking, *seen[0], image_mask, batch)
        losses["loss"] = (
            losses["text"]
            + losses["number"]
            + self.weights.place * losses["place"]
            + self.weights.target * losses["target"]
            + self.weights.extent * losses["extent"]
            + self.weights.look * losses["look"]
        )
        return losses

    def _answer_losses(self, hidden: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        answered = labels[:, 1:] != -100
        targets = labels[:, 1:][answered]
        logits = self.policy_model.lm_head(hidden[:, :-1][answered]).float()
        log_probabilities = F.log_softmax(logits, dim=-1)
        values = self.number_values[targets]
        is_number = values >= 0
        plain = -log_probabilities[~is_number].gather(1, targets[~is_number, None])
        soft = self.number_targets[values[is_number]]
        smooth = -(soft * log_probabilities[is_number][:, self.number_ids]).sum(1)
        count = max(1, targets.numel())
        return {"text": plain.sum() / count, "number": smooth.sum() / count}

    def _soft_numbers(self, hidden: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Cross-entropy [n] of hidden states [n, width] with coordinates [n] over all coordinates."""
        embeddings = self.policy_model.lm_head.weight[self.number_ids].float()
        normalised = F.rms_norm(hidden, hidden.shape[-1:])
        return -(self.number_targets[numbers] * F.log_softmax(normalised @ embeddings.T, -1)).sum(-1)

    def _cell_losses(
        self, merged: torch.Tensor, looked: torch.Tensor, batch: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        images, cells, width = merged.shape
        own = torch.arange(cells, device=merged.device).repeat(images)
        place = F.cross_entropy(self.place_head(merged).flatten(0, 1), own)
        first = batch["first_object"].tolist()
        rows, coverage = [], []
        for row in range(len(looked)):
            mine = batch["coverage"][first[row] : first[row + 1]]
            coverage.append(mine.sum(0).clamp(max=1) if len(mine) else mine.new_zeros(cells))
            rows += [row] * len(mine)
        wanted = torch.stack(coverage)
        # Targets cover few cells: without the weight, "nothing anywhere" is a comfortable answer.
        target = F.binary_cross_entropy_with_logits(
            self.target_head(looked)[..., 0], wanted, weight=1 + 4 * wanted
        )
        objects, where = torch.nonzero(batch["coverage"] > 0.3, as_tuple=True)
        extent = looked.sum() * 0
        if len(objects):
            hidden = looked[torch.tensor(rows)[objects], where]
            told = self.extent_head(hidden).view(-1, width)
            extent = self._soft_numbers(told, batch["numbers"][objects].flatten()).mean()
        return {"place": place, "target": target, "extent": extent}

    def _look_loss(
        self,
        attention: nn.Module,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        image_mask: torch.Tensor,
        batch: dict[str, Any],
    ) -> torch.Tensor:
        """-log of the attention that half of the heads give the object whose coordinate comes next."""
        layer: Any = attention
        labels, instance = batch["labels"][:, 1:], batch["instance"][:, 1:]
        asks = (self.number_values[labels.clamp(min=0)] >= 0) & (labels != -100) & (instance >= 0)
        rows, positions = torch.nonzero(asks, as_tuple=True)
        if not len(rows):
            return hidden.sum() * 0
        heads = layer.config.num_attention_heads // 2
        shape = (*hidden.shape[:-1], -1, layer.head_dim)
        queries = layer.q_norm(layer.q_proj(hidden).view(shape)).transpose(1, 2)
        keys = layer.k_norm(layer.k_proj(hidden).view(shape)).transpose(1, 2)
        queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
        scores = torch.einsum("nhd,nhtd->nht", queries[rows, :heads, positions], keys[:, :heads][rows])
        order = torch.arange(hidden.shape[1], device=hidden.device)
        hidden_from = order[None, :] > positions[:, None]
        chances = (scores.float() * layer.scaling).masked_fill(hidden_from[:, None], -torch.inf).softmax(-1)
        objects = batch["first_object"][rows] + instance[rows, positions]
        on_object = torch.zeros(len(rows), hidden.shape[1])
        on_object[image_mask[rows]] = (batch["coverage"][objects] > 0.15).float().flatten()
        mass = (chances * on_object[:, None]).sum(-1)
        counted = on_object.any(1)
        return -(mass[counted] + 1e-4).log().mean()
