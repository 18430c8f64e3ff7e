"""The whole of a seg-token policy: language model, projection, head; saved and loaded as one folder."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from envs.executors.base import Embedding
from envs.executors.serving.local import LocalExecutor
from envs.sample import RGB
from envs.seg_token.build_head import build_head
from envs.seg_token.heads import MaskHead
from envs.seg_token.settings import SETTINGS_FILE, WEIGHTS_FILE, SegTokenSettings, read_settings
from prompter.chat_batch import repeated_images
from prompter.checkpoint import Checkpoint, load_policy, load_weights
from prompter.errors import UserError
from prompter.runs.files import atomic_folder, atomic_write
from prompter.seg_tokens import query_ids

MOST_PROMPTS = 32
"""Prompts that a head decodes at once: SAM's decoder keeps maps of 4 MB and more for each."""


class SegTokenModel(nn.Module):
    """A Qwen-VL model, the projection of its `[SEG]` states, and a mask head.

    The projection is LISA's: two linear layers with a ReLU between them, from the last layer's hidden state
    (after the final norm) of each query token, where it stands as input, to the head's prompt space.

    Args:
        policy_model: the policy's weights.
        head: the mask head.
        ids: token ids of one target's query tokens.
    """

    query_ids: Tensor

    def __init__(self, policy_model: PreTrainedModel, head: MaskHead, ids: Sequence[int]) -> None:
        super().__init__()
        self.policy_model = policy_model
        self.head = head
        width = policy_model.config.get_text_config().hidden_size
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, head.width))
        self.chooser = nn.Linear(width, 1) if len(ids) > 1 else None
        self.register_buffer("query_ids", torch.tensor(list(ids)), persistent=False)
        self._takes_types = "mm_token_type_ids" in inspect.signature(type(policy_model).forward).parameters

    def states(self, batch: Mapping[str, Any]) -> Tensor:
        """Last hidden states [chats, length, width] of a batch of `prompter.chat_batch.chat_batch`."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")} | repeated_images(
            dict(batch)
        )
        if self._takes_types:
            inputs["mm_token_type_ids"] = batch["mm_token_type_ids"]
        core: Any = self.policy_model.model
        return core(**inputs, use_cache=False).last_hidden_state

    def marks(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Where the answers' query tokens are: rows and positions, int64 [targets, k] each, in order."""
        found = torch.isin(batch["input_ids"], self.query_ids) & (batch["labels"] != -100)
        rows, positions = torch.nonzero(found, as_tuple=True)
        k = len(self.query_ids)
        return rows.view(-1, k), positions.view(-1, k)

    def decode(self, states: Tensor, images: Sequence[int], embeddings: Sequence[Embedding]) -> list[Tensor]:
        """Decode targets' masks.

        Args:
            states: [targets, k, width] hidden states of the query tokens.
            images: of each target its image's place in `embeddings`.
            embeddings: of the images.

        Returns:
            Of each target its logits [k, h, w], on its image as `MaskHead.geometry` says.
        """
        prompts = self.projection(states)
        logits: list[Tensor | None] = [None] * len(prompts)
        for number, embedding in enumerate(embeddings):
            mine = [target for target, image in enumerate(images) if image == number]
            if mine:
                parts = prompts[mine].flatten(0, 1).split(MOST_PROMPTS)
                decoded = torch.cat([self.head(embedding, part) for part in parts])
                for target, one in zip(mine, decoded.unflatten(0, (len(mine), -1)), strict=True):
                    logits[target] = one
        return [one for one in logits if one is not None]

    def chosen(self, states: Tensor) -> Tensor:
        """Which of the k masks of each target is taken, int64 [targets], by `states` [targets, k, width]."""
        if self.chooser is None:
            return torch.zeros(len(states), dtype=torch.long, device=states.device)
        return self.chooser(states)[..., 0].argmax(1)

    @staticmethod
    def one_of_k(states: Tensor, which: Tensor) -> Tensor:
        """The states [targets, 1, width] of query `which` (int64 [targets]) of [targets, k, width]."""
        return states[torch.arange(len(states), device=states.device), which][:, None]

    def own_state(self) -> dict[str, Tensor]:
        """What is not the language model's: projection, chooser, and the head's decoder if it is trained."""
        trained = any(parameter.requires_grad for parameter in self.head.parameters())
        parts: dict[str, nn.Module | None] = {"projection": self.projection, "chooser": self.chooser}
        if trained:
            parts["head"] = self.head
        return {
            f"{part}.{name}": value.detach().cpu().contiguous()
            for part, module in parts.items()
            if module is not None
            for name, value in module.state_dict().items()
        }


@dataclass(frozen=True)
class SegTokenPolicy:
    """A seg-token policy with all it needs.

    Args:
        policy: how it is asked, with its processor.
        model: the weights.
        settings: what it is made of.
        executor: the frozen image encoder with its cache of embeddings.
    """

    policy: Checkpoint
    model: SegTokenModel
    settings: SegTokenSettings
    executor: LocalExecutor

    def embeddings(self, images: Sequence[RGB]) -> list[Embedding]:
        """Embeddings of distinct images ([height, width, 3] uint8 RGB), cached; on the model's device."""
        device = self.model.query_ids.device
        return [
            Embedding(
                {name: torch.as_tensor(value).to(device) for name, value in one.tensors.items()},
                one.image_wh,
                one.input_hw,
            )
            for one in self.executor.embeddings(images)
        ]


def open_encoder(settings: SegTokenSettings) -> LocalExecutor:
    """Open the frozen segmenter of a seg-token policy in this process.

    Raises:
        UserError: if it is asked for in actors, its weights are not to be had, or they are not those that the
            policy was trained with.
    """
    if settings.executor.backend != "local":
        raise UserError("a seg-token policy needs its segmenter in this process: executor.backend local.")
    executor = LocalExecutor.from_config(settings.executor)
    found = executor.segmenter.fingerprint
    if settings.encoder and found != settings.encoder:
        raise UserError(
            f"this policy was trained with the embeddings of another image encoder than executor "
            f"{executor.name!r} has ({settings.encoder} there, {found} here): give the same weights, as the "
            f"option executor.model."
        )
    return executor


def save_seg_token(
    folder: Path,
    parts: SegTokenPolicy,
    *,
    weights: Iterable[tuple[str, Tensor]] | None = None,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a seg-token policy as a checkpoint folder; what was there under that name is replaced.

    The folder is the language model's own checkpoint (which transformers and vLLM load) with two files more.

    Args:
        folder: where.
        parts: what to save.
        weights: the language model's, by name, with adapters merged into them; None takes its own.
        extra: writes what else belongs into the folder.
    """
    # Where this machine computes and keeps embeddings is no part of a policy.
    executor = parts.settings.executor.model_copy(update={"device": "auto", "cache_dir": None})
    settings = parts.settings.model_copy(
        update={"encoder": parts.executor.segmenter.fingerprint, "executor": executor}
    )
    with atomic_folder(folder) as unfinished:
        state = None if weights is None else {name: value.contiguous() for name, value in weights}
        parts.model.policy_model.save_pretrained(unfinished, state_dict=state)
        parts.policy.save_protocol(unfinished)
        save_file(parts.model.own_state(), unfinished / WEIGHTS_FILE)
        with atomic_write(unfinished / SETTINGS_FILE) as handle:
            json.dump(settings.model_dump(mode="json"), handle, indent=2)
        if extra is not None:
            extra(unfinished)


def load_seg_token(
    folder: Path,
    *,
    executor: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> SegTokenPolicy:
    """Load a checkpoint that `save_seg_token` wrote, in evaluation mode.

    Args:
        folder: of the checkpoint.
        executor: fields of `ExecutorConfig` in the place of the checkpoint's.
        overrides: settings of the policy that replace the checkpoint's own.
        dtype, device: of the language model; projection and head are float32.

    Raises:
        UserError: if a part is missing or does not fit the others.
    """
    settings = read_settings(folder, executor)
    policy = load_policy(folder, dict(overrides or {}))
    opened = open_encoder(settings)
    model = load_weights(policy, dtype=dtype, device=device)
    ids = query_ids(policy.processor.tokenizer, settings.queries)
    parts = SegTokenModel(model, build_head(opened, settings.head), ids).to(device)
    load_own_state(parts, folder)
    return SegTokenPolicy(policy, parts.eval().requires_grad_(False), settings, opened)


def take_over_state(model: SegTokenModel, folder: Path) -> list[str]:
    """Load of a checkpoint's projection, chooser and head what has the same name and shape in a model.

    Returns:
        What the checkpoint has and the model has not, or otherwise.

    Raises:
        UserError: if the file is missing or damaged.
    """
    path = folder / WEIGHTS_FILE
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    own = model.state_dict()
    fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fits, strict=False)
    return sorted(set(state) - set(fits))


def load_own_state(model: SegTokenModel, folder: Path) -> None:
    """Load projection, chooser and head of a checkpoint into a model.

    Raises:
        UserError: if the file is missing, damaged, or of another shape.
    """
    path = folder / WEIGHTS_FILE
    try:
        state = load_file(path)
        trained = any(parameter.requires_grad for parameter in model.head.parameters())
        wanted = {
            name
            for name in model.state_dict()
            if not name.startswith(("policy_model.",) if trained else ("policy_model.", "head."))
        }
        if wanted != set(state):
            raise ValueError(f"see {min(wanted ^ set(state))!r}")
        model.load_state_dict(state, strict=False)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} does not hold the projection and head of this policy: {str(error).splitlines()[0]}"
        ) from None
