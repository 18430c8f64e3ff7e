"""The cold start's losses for a Qwen3-VL policy trained from scratch.

Besides the next-token loss there are four auxiliary terms, on heads that are thrown away afterwards:

- *place*: each merged vision token must tell its own cell (it has to carry its place before any
  coordinate can be read off it);
- *target*: halfway through the language model each image token must tell how much of its cell is
  target, given the question before it (spatial supervision in the spirit of SegEarth-R2's attention
  loss, but on the tokens themselves, which is dense: every cell of every sample teaches);
- *extent*: there, a token on the target must tell the box of its object;
- coordinates are trained against a narrow Gaussian around the right number instead of one number, as
  being 3 off is not as wrong as being 300 off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from prompter.config import StrictModel
from prompter.policy import Policy
from prompter.small_policy import number_token_ids


class AuxiliaryWeights(StrictModel):
    """Weights of the auxiliary losses beside the next-token loss (weight 1).

    `number_spread` is the Gaussian's standard deviation in coordinate units (0 to 1000).
    """

    place: float = 0.2
    target: float = 1.0
    extent: float = 1.0
    number_spread: float = 8.0


class ColdStartModel(nn.Module):
    """A Qwen3-VL policy with the auxiliary heads of the cold start.

    The vision tower runs once per distinct image, however many questions a batch asks about it.

    Args:
        model: the policy's weights.
        policy: its processor and protocol.
        weights: weights of the auxiliary losses.
    """

    def __init__(self, model: PreTrainedModel, policy: Policy, weights: AuxiliaryWeights) -> None:
        super().__init__()
        self.policy_model = model
        self.weights = weights
        text = model.config.text_config
        grid = model.model.visual.num_grid_per_side // model.config.vision_config.spatial_merge_size
        self.middle_layer = max(0, text.num_hidden_layers - 3)
        self.place_head = nn.Linear(text.hidden_size, grid * grid)
        self.target_head = nn.Linear(text.hidden_size, 1)
        self.extent_head = nn.Linear(text.hidden_size, 4)
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
        """Compute all losses of a batch made by `recipes.cold_start_data.Collator`.

        Returns:
            `loss` (the weighted sum) and the parts `text`, `number`, `place`, `target`, `extent`.
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
        hook = layer.register_forward_hook(lambda _module, _inputs, output: middle.append(output))
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
            hook.remove()
        losses = self._answer_losses(hidden, batch["labels"])
        looked = middle[0][image_mask].view(len(chosen), cells, width).float()
        losses.update(self._cell_losses(merged.float(), looked, batch["coverage"], batch["boxes"]))
        losses["loss"] = (
            losses["text"]
            + losses["number"]
            + self.weights.place * losses["place"]
            + self.weights.target * losses["target"]
            + self.weights.extent * losses["extent"]
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

    def _cell_losses(
        self, merged: torch.Tensor, looked: torch.Tensor, coverage: torch.Tensor, boxes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        images, cells, _ = merged.shape
        own = torch.arange(cells, device=merged.device).repeat(images)
        place = F.cross_entropy(self.place_head(merged).flatten(0, 1), own)
        # Targets cover few cells: without the weight, "nothing anywhere" is a comfortable answer.
        target = F.binary_cross_entropy_with_logits(
            self.target_head(looked)[..., 0], coverage, weight=1 + 4 * coverage
        )
        on_target = coverage > 0.25
        extent = (
            F.smooth_l1_loss(self.extent_head(looked[on_target]), boxes[on_target], beta=0.02)
            if on_target.any()
            else looked.sum() * 0
        )
        return {"place": place, "target": target, "extent": extent}
