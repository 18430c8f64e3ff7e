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

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from prompter.checkpoint import Checkpoint
from prompter.errors import UserError
from recipes.cold_start.config import AuxiliaryWeights
from recipes.cold_start.small_policy import number_token_ids


class ColdStartModel(nn.Module):
    """A Qwen3-VL policy with the auxiliary heads of the cold start.

    The vision tower runs once per distinct image, however many questions a batch asks about it. The
    language model takes the sequences in parts of like length, so that few short ones are padded to the
    length of the longest; the losses are those of the whole batch.

    Args:
        model: the policy's weights.
        policy: its processor and protocol.
        weights: weights of the auxiliary losses.
        bfloat16: multiply matrices in bfloat16 (weights, sums and losses stay float32).
        parts: in how many parts the language model takes a batch.
        no_target_weight: how much the tokens weigh of answers that name no object.
    """

    number_ids: torch.Tensor
    number_values: torch.Tensor
    number_targets: torch.Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        policy: Checkpoint,
        weights: AuxiliaryWeights,
        *,
        bfloat16: bool = False,
        parts: int = 1,
        no_target_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.policy_model = model
        self.weights = weights
        self.in_bfloat16, self.parts = bfloat16, parts
        self.no_target_weight = no_target_weight
        if bfloat16:
            # torch's fused attention on CPUs runs backward in bfloat16 five times slower than plain products.
            model.set_attn_implementation("eager")
        store_tied_once(self)
        text = model.config.text_config
        side = policy.settings.image.side
        if side is None:
            raise ValueError("the cold start needs a policy that sees square images of one size (image.side)")
        grid = side // policy.factor
        self.middle_layer = looking_layer(text) - 1
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

    def load_heads(self, folder: str) -> None:
        """Take the auxiliary heads over from a state of the trainer, not the policy's weights.

        Raises:
            UserError: if there is none, or it is of another size of policy or image.
        """
        try:
            state = load_file(Path(folder) / "model.safetensors")
            mine = {name: value for name, value in state.items() if not name.startswith("policy_model.")}
            self.load_state_dict(mine, strict=False)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"init_heads {folder!r}: {str(error).splitlines()[0]}") from None

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Compute all losses of a batch made by `recipes.cold_start.data.Collator`.

        Returns:
            `loss` (the weighted sum) and the parts `text`, `number`, `place`, `target`, `extent`, `look`.
        """
        core = self.policy_model.model
        images, chosen = len(batch["image_grid_thw"]), batch["image_index"]
        with self._precision(chosen.device):
            vision = core.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
        merged = vision.pooler_output.view(images, -1, vision.pooler_output.shape[-1])
        deepstack = [feature.view(merged.shape) for feature in vision.deepstack_features]
        order = batch["attention_mask"].sum(1).argsort(stable=True)
        told = []
        for rows in order.chunk(self.parts):
            with self._precision(chosen.device):
                told.append(self._tell(batch, rows, merged, deepstack))
        answers, targets, weights, looked, looks = zip(*told, strict=True)
        losses = self._answer_losses(torch.cat(answers).float(), torch.cat(targets), torch.cat(weights))
        losses.update(self._cell_losses(merged.float(), torch.cat(looked)[order.argsort()].float(), batch))
        mass = torch.cat(looks)
        losses["look"] = -(mass + 1e-4).log().mean() if len(mass) else mass.sum()
        losses["loss"] = (
            losses["text"]
            + losses["number"]
            + self.weights.place * losses["place"]
            + self.weights.target * losses["target"]
            + self.weights.extent * losses["extent"]
            + self.weights.look * losses["look"]
        )
        return losses

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.in_bfloat16)

    def _tell(
        self, batch: dict[str, Any], rows: torch.Tensor, merged: torch.Tensor, deepstack: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the language model over some sequences of a batch, cut to the longest of them.

        Args:
            batch: see `recipes.cold_start.data.Collator`.
            rows: int64 [n], which sequences.
            merged: [images, cells, width], the vision tower's tokens; deepstack: the same of inner layers.

        Returns:
            The hidden states [answered, width] that tell the next token of an answer, that token and its
            weight, both [answered]; the image tokens' hidden states [n, cells, width] halfway through; the
            share of attention [asking, heads] that `_looking` measures.
        """
        core = self.policy_model.model
        length = int(batch["attention_mask"][rows].sum(1).max())
        ids, attended, kinds, labels, instance = (
            batch[name][rows, :length]
            for name in ("input_ids", "attention_mask", "mm_token_type_ids", "labels", "instance")
        )
        shown = batch["image_index"][rows]
        cells = merged.shape[1]
        image_mask = kinds.bool()
        embeddings = core.get_input_embeddings()(ids)
        width = embeddings.shape[-1]
        embeddings = embeddings.masked_scatter(
            image_mask[..., None].expand_as(embeddings), merged[shown].to(embeddings.dtype)
        )
        positions = core.compute_3d_position_ids(
            input_ids=ids,
            inputs_embeds=embeddings,
            image_grid_thw=batch["image_grid_thw"][shown],
            attention_mask=attended,
            mm_token_type_ids=kinds,
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
                attention_mask=attended,
                visual_pos_masks=image_mask,
                deepstack_visual_embeds=[
                    one[shown].reshape(-1, width).to(embeddings.dtype) for one in deepstack
                ],
                use_cache=False,
            ).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        answered = labels[:, 1:] != -100
        objects = batch["first_object"].diff()[rows]
        weights = torch.where(objects > 0, 1.0, self.no_target_weight)[:, None].expand_as(answered)[answered]
        mass = self._looking(
            looking, *seen[0], image_mask, labels, instance, batch["first_object"][rows], batch["coverage"]
        )
        return (
            hidden[:, :-1][answered],
            labels[:, 1:][answered],
            weights,
            middle[0][image_mask].view(len(rows), cells, width),
            mass,
        )

    def _answer_losses(
        self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Losses of the tokens `targets` [n] told by `hidden` [n, width]: coordinates and all others.

        `weights` [n] are those of the others.
        """
        logits = self.policy_model.lm_head(hidden)
        log_probabilities = F.log_softmax(logits, dim=-1)
        values = self.number_values[targets]
        is_number = values >= 0
        plain = -log_probabilities[~is_number].gather(1, targets[~is_number, None])
        soft = self.number_targets[values[is_number]]
        smooth = -(soft * log_probabilities[is_number][:, self.number_ids]).sum(1)
        count = max(1, targets.numel())
        return {"text": (plain[:, 0] * weights[~is_number]).sum() / count, "number": smooth.sum() / count}

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

    def _looking(
        self,
        attention: nn.Module,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        image_mask: torch.Tensor,
        labels: torch.Tensor,
        instance: torch.Tensor,
        first_object: torch.Tensor,
        coverage: torch.Tensor,
    ) -> torch.Tensor:
        """The attention that half of the heads give the object whose coordinate comes next.

        Args:
            attention: the layer that is to look; hidden [n, length, width]: what enters it.
            rotary: its position embeddings.
            image_mask: bool [n, length]; labels, instance: int64 [n, length], see `Collator`.
            first_object: int64 [n], where each sequence's objects begin in `coverage` [objects, cells].

        Returns:
            [asking tokens, heads], shares of one; without tokens whose object covers no cell.
        """
        layer: Any = attention
        labels, instance = labels[:, 1:], instance[:, 1:]
        asks = (self.number_values[labels.clamp(min=0)] >= 0) & (labels != -100) & (instance >= 0)
        rows, positions = torch.nonzero(asks, as_tuple=True)
        heads = layer.config.num_attention_heads // 2
        if not len(rows):
            return hidden.float().sum() * hidden.new_zeros((0, heads), dtype=torch.float32)
        shape = (*hidden.shape[:-1], -1, layer.head_dim)
        queries = layer.q_norm(layer.q_proj(hidden).view(shape)).transpose(1, 2)
        keys = layer.k_norm(layer.k_proj(hidden).view(shape)).transpose(1, 2)
        queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
        scores = torch.einsum("nhd,nhtd->nht", queries[rows, :heads, positions], keys[:, :heads][rows])
        order = torch.arange(hidden.shape[1], device=hidden.device)
        hidden_from = order[None, :] > positions[:, None]
        chances = (scores.float() * layer.scaling).masked_fill(hidden_from[:, None], -torch.inf).softmax(-1)
        objects = first_object[rows] + instance[rows, positions]
        on_object = torch.zeros(len(rows), hidden.shape[1])
        on_object[image_mask[rows]] = (coverage[objects] > 0.15).float().flatten()
        return (chances * on_object[:, None]).sum(-1)[on_object.any(1)]


def looking_layer(text: Any) -> int:
    """Number of the layer half of whose heads look at an object; image tokens tell of theirs before it.

    Args:
        text: config of a language model of at least two layers.
    """
    return max(0, int(text.num_hidden_layers) - 3) + 1


def store_tied_once(module: Any) -> None:
    """Let a module's state hold its `policy_model`'s tied embeddings once; both names are filled from it."""
    if module.policy_model.config.tie_word_embeddings:
        module.register_state_dict_post_hook(_drop_tied)
        module.register_load_state_dict_pre_hook(_restore_tied)


_HEAD, _EMBEDDING = "policy_model.lm_head.weight", "policy_model.model.language_model.embed_tokens.weight"


def _drop_tied(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """One tensor under two names cannot be stored."""
    del state[prefix + _HEAD]


def _restore_tied(_module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    if prefix + _EMBEDDING in state:
        state[prefix + _HEAD] = state[prefix + _EMBEDDING]
