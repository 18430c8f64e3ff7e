"""A policy that brings its own masks: `[SEG]` tokens in its answers, decoded by its mask head.

A sampler draws the text, as for any checkpoint; then one forward pass over question and answer reads the
hidden states of the `[SEG]` tokens, as in training. So whatever samples (transformers or vLLM) need not
hand hidden states out. Evaluated with the executor `own-masks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from envs.executors.decoding.upsample import mask_upsampler
from envs.masks import Mask
from envs.rollouts import image_key, make_requests
from envs.sample import RGB, Sample
from envs.seg_token.model import SegTokenPolicy, load_seg_token
from eval.answerers.sam3 import answer_from_masks
from prompter.chat_batch import AnsweredChat, chat_batch
from prompter.checkpoint import resolve_source
from prompter.errors import UserError
from prompter.runs.config import StrictModel, describe_validation_error
from prompter.sampling import open_sampler
from prompter.sampling.base import Sampler, SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.seg_tokens import MarkedTargets, marked_text, read_marked
from prompter.types import Answer, Completion, ParseFailure


class SegTokenAnswererSettings(StrictModel):
    """How a seg-token policy is run.

    Args:
        executor: fields of the frozen segmenter's config in the place of the checkpoint's.
        sampler: who draws the text; see `SamplerConfig`.
        dtype: of the language model that reads hidden states.
        device: of the model; "auto" is CUDA if there is one.
        batch: answers whose hidden states are read together.
        mask_threshold: a pixel belongs to a target where its logit is greater.
    """

    executor: dict[str, Any] = Field(default_factory=dict)
    sampler: SamplerConfig = SamplerConfig(backend="hf")
    dtype: str = "float32"
    device: str = "auto"
    batch: int = Field(default=16, ge=1)
    mask_threshold: float = 0.0


class SegTokenAnswerer:
    """Answers with the masks of a seg-token policy, greedily.

    Args:
        parts: the policy.
        sampler: draws the text; closed with this object.
        settings: see `SegTokenAnswererSettings`.
    """

    def __init__(self, parts: SegTokenPolicy, sampler: Sampler, settings: SegTokenAnswererSettings) -> None:
        self._parts, self._sampler, self._settings = parts, sampler, settings
        self._greedy = SamplingSettings(
            max_new_tokens=parts.policy.settings.max_new_tokens, temperature=0.0, n=1
        )

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        groups = self._sampler.sample(make_requests(self._parts.policy, samples), self._greedy)
        return self._read(samples, [completions[0] for completions in groups])

    def describe(self) -> dict[str, Any]:
        """How it asks, and what it is made of; JSON-ready."""
        return {
            **self._parts.policy.describe(),
            "seg_token": self._parts.settings.model_dump(mode="json"),
        }

    def forget(self) -> None:
        """Drop what the sampler keeps of earlier calls."""
        self._sampler.forget()

    def close(self) -> None:
        """Close the sampler."""
        self._sampler.close()
        self._parts.executor.close()

    def _read(self, samples: Sequence[Sample], completions: Sequence[Completion]) -> list[Answer]:
        """The answers to samples, masks and all, `batch` at a time."""
        tokenizer, settings = self._parts.policy.processor.tokenizer, self._parts.settings
        read = [
            read_marked(one, tokenizer, queries=settings.queries, most=settings.max_targets)
            for one in completions
        ]
        asked = [index for index, one in enumerate(read) if isinstance(one, MarkedTargets) and one.places]
        masks: dict[int, tuple[list[Mask], list[float]]] = {}
        for start in range(0, len(asked), self._settings.batch):
            part = asked[start : start + self._settings.batch]
            drawn = self._masks([samples[i] for i in part], [completions[i] for i in part])
            masks.update(zip(part, drawn, strict=True))
        answers = []
        for index, (completion, one) in enumerate(zip(completions, read, strict=True)):
            text, tokens = marked_text(completion, tokenizer), len(completion.token_ids)
            if isinstance(one, ParseFailure):
                answers.append(Answer(text, one, tokens))
                continue
            brought = answer_from_masks(*masks.get(index, ([], [])))
            answers.append(Answer(text, brought.reading, tokens, brought.masks, brought.scores))
        return answers

    @torch.inference_mode()
    def _masks(
        self, samples: Sequence[Sample], completions: Sequence[Completion]
    ) -> list[tuple[list[Mask], list[float]]]:
        """Masks of answers that mark at least one target, with their mean probability inside."""
        policy, model = self._parts.policy, self._parts.model
        images: dict[str, RGB] = {}
        chats = []
        for sample, completion in zip(samples, completions, strict=True):
            key = image_key(sample)
            shown = sample.load_image()
            if key not in images:
                images[key] = sample.image_array()
            chats.append(AnsweredChat(key, policy.model_image(shown), sample.query, completion.token_ids))
        device = model.query_ids.device
        batch = {name: value.to(device) for name, value in chat_batch(policy, chats).items()}
        rows, positions = model.marks(batch)
        states = model.states(batch)[rows, positions].float()
        states = model.one_of_k(states, model.chosen(states))  # no other is decoded
        owners = batch["image_index"][rows[:, 0]].tolist()
        embeddings = self._parts.embeddings(list(images.values()))
        logits = model.decode(states, owners, embeddings)
        found: list[tuple[list[Mask], list[float]]] = [([], []) for _ in samples]
        for row, image, (picked,) in zip(rows[:, 0].tolist(), owners, logits, strict=True):
            width, height = embeddings[image].image_wh
            geometry = model.head.geometry(embeddings[image])
            upsampler = mask_upsampler(
                geometry.low_hw, geometry.padded_hw, geometry.used_hw, (height, width), device
            )
            picked = picked.float()
            full, _ = upsampler.masks(picked[None], self._settings.mask_threshold)
            inside = picked[picked > self._settings.mask_threshold]
            found[row][0].append(full[0].cpu().numpy().copy())
            found[row][1].append(float(inside.sigmoid().mean()) if len(inside) else 0.0)
        return found


def build_seg_token(source: str, options: Mapping[str, Any]) -> SegTokenAnswerer:
    """Open a checkpoint of `prompter seg-token`.

    Args:
        source: its folder.
        options: fields of `SegTokenAnswererSettings`; the others are overrides of the policy's settings.

    Raises:
        UserError: if an option is unknown or bad, or there is no such checkpoint.
    """
    folder = Path(resolve_source(source)).expanduser()
    if not folder.is_dir():
        raise UserError(f"There is no folder {source!r} with a seg-token policy.")
    own = {name: value for name, value in options.items() if name in SegTokenAnswererSettings.model_fields}
    overrides = {name: value for name, value in options.items() if name not in own}
    try:
        settings = SegTokenAnswererSettings.model_validate(own)
    except ValidationError as error:
        raise UserError(f"Policy options: {describe_validation_error(error)}") from None
    sampler = settings.sampler
    if "backend" not in sampler.model_fields_set:
        sampler = sampler.model_copy(update={"backend": "hf"})
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = load_seg_token(
        folder,
        executor={"device": device, **settings.executor},
        overrides=overrides,
        dtype=settings.dtype,
        device=device,
    )
    shared = parts.model.policy_model if sampler.backend == "hf" else None
    ids = parts.model.query_ids.tolist()
    follow = dict(pairwise(ids))  # a target's query tokens are written together; see `SegTokenLearner`
    return SegTokenAnswerer(parts, open_sampler(parts.policy, sampler, model=shared, follow=follow), settings)
