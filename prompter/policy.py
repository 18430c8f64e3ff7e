"""A policy: a Qwen-VL checkpoint plus how it is asked and how its answers are read.

A checkpoint is a Hugging Face folder or hub id. If the folder holds `prompter.json`
(`PolicySettings`), that says how the checkpoint was trained to be asked; otherwise the defaults
suit the instruction-tuned Qwen2-VL, Qwen2.5-VL and Qwen3-VL models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from pydantic import Field, model_validator

from prompter.action import ActionSpace, write_answer
from prompter.chat import Instructions, QuestionPosition, SamplingRequest, build_messages, system_prompt
from prompter.coords import Frame, FrameKind, fit_size
from prompter.parse import parse_completion
from prompter.runs.config import StrictModel
from prompter.runs.files import atomic_write
from prompter.types import ParseFailure, PromptSet

if TYPE_CHECKING:
    pass

SETTINGS_FILE = "prompter.json"

POLICY_FAMILIES: dict[str, FrameKind] = {
    "qwen2_vl": "absolute",
    "qwen2_5_vl": "absolute",
    "qwen3_vl": "thousandths",
    "qwen3_vl_moe": "thousandths",
}
"""Model family (the checkpoint's `model_type`) -> the frame it speaks."""


class ImageSettings(StrictModel):
    """How an image is resized for the model. Either a fixed square or an area range."""

    side: int | None = Field(default=None, ge=16)
    """Resize to side x side pixels whatever the ratio (Think2Seg-RS uses 840); null keeps the ratio."""

    min_pixels: int = Field(default=256 * 256, ge=1)
    """Smallest area: where `side` is null, the aspect ratio is kept and the area brought into this range."""

    max_pixels: int = Field(default=1024 * 1024, ge=1)
    """Largest area, as above."""

    @model_validator(mode="after")
    def _check_range(self) -> ImageSettings:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self


class PolicySettings(StrictModel):
    """How a policy is asked; saved beside its weights."""

    action_space: ActionSpace = ActionSpace()
    """Which prompts it may answer with."""

    image: ImageSettings = ImageSettings()
    """How it is shown images."""

    instructions: Instructions = "full"
    """Full or short system prompt."""

    think: bool = True
    """Whether it is asked to reason in `<think>` first."""

    question: QuestionPosition = "after"
    """Whether the query stands before or after the image."""

    frame: FrameKind | None = None
    """Coordinates it is asked for; null takes those its family was trained to speak."""

    max_new_tokens: int = Field(default=512, ge=8)
    """Longest completion, in tokens."""


@dataclass(frozen=True)
class Policy:
    """A checkpoint's processor and protocol, without its weights (see `load_weights`).

    Args:
        source: local folder or hub id.
        family: a key of `POLICY_FAMILIES`.
        settings: how it is asked.
        processor: the Hugging Face processor (tokenizer and image processor).
    """

    source: str
    family: str
    settings: PolicySettings
    processor: Any

    @property
    def frame_kind(self) -> FrameKind:
        """The kind of coordinates it speaks."""
        return self.settings.frame or POLICY_FAMILIES[self.family]

    @property
    def system(self) -> str:
        """The system prompt."""
        return system_prompt(
            self.settings.action_space,
            self.frame_kind,
            instructions=self.settings.instructions,
            think=self.settings.think,
        )

    def messages(self, query: str) -> list[dict[str, Any]]:
        """The chat for one query (see `prompter.chat.build_messages`)."""
        return build_messages(query, self.system, question=self.settings.question)

    def frame(self, image_wh: tuple[int, int]) -> Frame:
        """The frame in which this policy speaks of an image of (width, height) pixels."""
        return Frame(self.frame_kind, image_wh, self._model_wh(image_wh))

    def model_image(self, image: Image.Image) -> Image.Image:
        """Resize an image (PIL RGB) to the size at which the model sees it."""
        wh = self._model_wh(image.size)
        return image if image.size == wh else image.convert("RGB").resize(wh, Image.Resampling.BICUBIC)

    def request(self, query: str, image: Image.Image, image_key: str = "") -> SamplingRequest:
        """Build the sampler's request for a query on an original image."""
        return SamplingRequest(self.messages(query), self.model_image(image), image_key)

    def parse(
        self, text: str, image_wh: tuple[int, int], finish_reason: Literal["stop", "length"] = "stop"
    ) -> PromptSet | ParseFailure:
        """Read a completion about an image of (width, height) pixels into image-frame prompts."""
        return parse_completion(
            text,
            action_space=self.settings.action_space,
            frame=self.frame(image_wh),
            finish_reason=finish_reason,
        )

    def write_answer(self, prompts: PromptSet, image_wh: tuple[int, int]) -> str:
        """Write image-frame prompts as this policy should answer them (without reasoning)."""
        return write_answer(prompts, self.frame(image_wh))

    def save_protocol(self, folder: Path | str) -> None:
        """Write processor and settings into a checkpoint folder, so that it can be asked the same way."""
        self.processor.save_pretrained(folder)
        with atomic_write(Path(folder) / SETTINGS_FILE) as handle:
            json.dump(self.settings.model_dump(mode="json"), handle, indent=2)

    def _model_wh(self, image_wh: tuple[int, int]) -> tuple[int, int]:
        limits = self.settings.image
        if limits.side is not None:
            return (limits.side, limits.side)
        return fit_size(
            image_wh,
            factor=self._factor,
            min_pixels=limits.min_pixels,
            max_pixels=limits.max_pixels,
        )

    @property
    def _factor(self) -> int:
        image_processor = self.processor.image_processor
        return int(image_processor.patch_size) * int(image_processor.merge_size)
