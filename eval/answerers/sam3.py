"""A segmenter that takes the question as text (SAM 3): a baseline without a policy.

It answers with masks of its own, so it is evaluated with the executor `own-masks`; its prompts are
the masks' tight boxes, so that any other executor can redraw them, and so that boxes are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from envs.masks import Mask, encode_rle, mask_to_box
from envs.sample import Sample
from prompter.errors import UserError
from prompter.runs.config import StrictModel, describe_validation_error
from prompter.types import Answer, Instance, PromptSet


class TextSegmenterSettings(StrictModel):
    """How a text-prompted segmenter is used.

    Args:
        threshold: instances with a lower score are left out.
        mask_threshold: probability above which a pixel belongs to an instance.
        device: "auto" (CUDA if there is one), "cpu", "cuda", …
    """

    threshold: float = Field(default=0.5, ge=0, le=1)
    mask_threshold: float = Field(default=0.5, ge=0, le=1)
    device: str = "auto"


class Sam3Answerer:
    """Answers every question with what SAM 3 finds for its text.

    Args:
        source: local folder or hub id of a SAM 3 checkpoint as `transformers` saves it.
        settings: thresholds and device.

    Raises:
        UserError: if there is no such checkpoint.
    """

    def __init__(self, source: str, settings: TextSegmenterSettings) -> None:
        import torch
        from transformers import Sam3Model, Sam3Processor

        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._processor = Sam3Processor.from_pretrained(source)
            model: torch.nn.Module = Sam3Model.from_pretrained(source)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"There is no SAM 3 checkpoint {source!r}, neither as a folder nor on the hub ({reason})."
            ) from None
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
        self._settings = settings

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order; one image and text at a time."""
        return [self._answer(sample) for sample in samples]

    def close(self) -> None:
        """Nothing to release."""

    def _answer(self, sample: Sample) -> Answer:
        import torch

        inputs = self._processor(images=sample.load_image(), text=sample.query, return_tensors="pt")
        width, height = sample.image_wh
        with torch.inference_mode():
            outputs = self._model(**inputs.to(self._device))
            found = self._processor.post_process_instance_segmentation(
                outputs,
                threshold=self._settings.threshold,
                mask_threshold=self._settings.mask_threshold,
                target_sizes=[(height, width)],
            )[0]
        masks = found["masks"].cpu().numpy().reshape(-1, height, width) != 0
        return answer_from_masks(list(masks), found["scores"].float().cpu().numpy().tolist())


def answer_from_masks(masks: Sequence[Mask], scores: Sequence[float]) -> Answer:
    """Make an answer of masks (bool [height, width] each) with their scores; empty masks are dropped."""
    kept = [
        (mask, mask_to_box(mask), score) for mask, score in zip(masks, scores, strict=True) if np.any(mask)
    ]
    prompts = PromptSet(tuple(Instance(box=box) for _, box, _ in kept))
    text = f"{len(kept)} instances, scores {[round(score, 4) for _, _, score in kept]}"
    return Answer(
        text,
        prompts,
        0,
        masks=tuple(encode_rle(mask) for mask, _, _ in kept),
        scores=tuple(score for _, _, score in kept),
    )


def build_sam3(source: str, options: Mapping[str, Any]) -> Sam3Answerer:
    """Make a SAM 3 baseline from a checkpoint's name and the fields of `TextSegmenterSettings`.

    Raises:
        UserError: if an option is unknown or bad, or there is no such checkpoint.
    """
    try:
        settings = TextSegmenterSettings.model_validate(dict(options))
    except ValidationError as error:
        raise UserError(f"Policy options: {describe_validation_error(error)}") from None
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise UserError(f"There is no folder {source!r} with a SAM 3 checkpoint.")
    return Sam3Answerer(source, settings)
