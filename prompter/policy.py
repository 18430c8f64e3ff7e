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
from pydantic import Field, ValidationError, model_validator

from prompter.action import ActionSpace, render_answer
from prompter.chat import Instructions, QuestionPosition, build_messages, system_prompt
from prompter.config import StrictModel
from prompter.coords import Frame, FrameKind, fit_size, largest_area
from prompter.errors import UserError, did_you_mean
from prompter.files import atomic_write
from prompter.parse import parse_completion
from prompter.sampling.base import SamplingRequest
from prompter.types import ParseFailure, PromptSet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SETTINGS_FILE = "prompter.json"

FAMILIES: dict[str, FrameKind] = {
    "qwen2_vl": "absolute",
    "qwen2_5_vl": "absolute",
    "qwen3_vl": "thousandths",
    "qwen3_vl_moe": "thousandths",
}
"""Model family (the checkpoint's `model_type`) -> the frame it speaks."""

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Modules that LoRA adapts: the language model's linear layers, which vLLM can load as an adapter."""


class ImageSettings(StrictModel):
    """How an image is resized for the model. Either a fixed square or an area range.

    Args:
        side: resize to side x side pixels whatever the aspect ratio (Think2Seg-RS uses 840).
        min_pixels, max_pixels: keep the aspect ratio and bring the area into this range.
    """

    side: int | None = Field(default=None, ge=16)
    min_pixels: int = Field(default=256 * 256, ge=1)
    max_pixels: int = Field(default=1024 * 1024, ge=1)

    @model_validator(mode="after")
    def _check_range(self) -> ImageSettings:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self


class PolicySettings(StrictModel):
    """How a policy is asked; saved beside its weights.

    Args:
        action_space: which prompts it may answer with.
        image: how it is shown images.
        instructions: full or short system prompt.
        think: whether it is asked to reason in `<think>` first.
        question: whether the query stands before or after the image.
        frame: the coordinates it is asked for; None takes those its family was trained to speak.
        max_new_tokens: longest completion.
    """

    action_space: ActionSpace = ActionSpace()
    image: ImageSettings = ImageSettings()
    instructions: Instructions = "full"
    think: bool = True
    question: QuestionPosition = "after"
    frame: FrameKind | None = None
    max_new_tokens: int = Field(default=512, ge=8)


@dataclass(frozen=True)
class Policy:
    """A checkpoint's processor and protocol, without its weights (see `load_weights`).

    Args:
        source: local folder or hub id.
        family: a key of `FAMILIES`.
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
        return self.settings.frame or FAMILIES[self.family]

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

    def frame(self, image_size: tuple[int, int]) -> Frame:
        """The frame in which this policy speaks of an image of (width, height) pixels."""
        return Frame(self.frame_kind, image_size, self._model_size(image_size))

    def model_image(self, image: Image.Image) -> Image.Image:
        """Resize an image (PIL RGB) to the size at which the model sees it."""
        size = self._model_size(image.size)
        return image if image.size == size else image.convert("RGB").resize(size, Image.Resampling.BICUBIC)

    def request(self, query: str, image: Image.Image, image_key: str = "") -> SamplingRequest:
        """Build the sampler's request for a query on an original image."""
        return SamplingRequest(self.messages(query), self.model_image(image), image_key)

    def parse(
        self, text: str, image_size: tuple[int, int], finish_reason: Literal["stop", "length"] = "stop"
    ) -> PromptSet | ParseFailure:
        """Read a completion about an image of (width, height) pixels into image-frame prompts."""
        return parse_completion(
            text,
            action_space=self.settings.action_space,
            frame=self.frame(image_size),
            finish_reason=finish_reason,
        )

    def render(self, prompts: PromptSet, image_size: tuple[int, int]) -> str:
        """Write image-frame prompts as this policy should answer them (without reasoning)."""
        return render_answer(prompts, self.frame(image_size))

    def save_protocol(self, folder: Path | str) -> None:
        """Write processor and settings into a checkpoint folder, so that it can be asked the same way."""
        self.processor.save_pretrained(folder)
        with atomic_write(Path(folder) / SETTINGS_FILE) as handle:
            json.dump(self.settings.model_dump(mode="json"), handle, indent=2)

    def _model_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        limits = self.settings.image
        if limits.side is not None:
            return (limits.side, limits.side)
        return fit_size(
            image_size,
            factor=self._factor,
            min_pixels=limits.min_pixels,
            max_pixels=limits.max_pixels,
        )

    @property
    def _factor(self) -> int:
        image_processor = self.processor.image_processor
        return int(image_processor.patch_size) * int(image_processor.merge_size)


def load_policy(source: str | Path, overrides: dict[str, Any] | None = None) -> Policy:
    """Load a checkpoint's processor and protocol from a local folder or the hub.

    Args:
        source: local folder or hub id such as `Qwen/Qwen2.5-VL-3B-Instruct`.
        overrides: settings that replace the checkpoint's own, by field name.

    Raises:
        UserError: if there is no such checkpoint, its family is unknown, or its settings are bad.
    """
    from transformers import AutoProcessor, PreTrainedConfig

    name = resolve_source(str(source))
    try:
        # The bare file: a family that this transformers does not know is refused by name, too.
        family = str(PreTrainedConfig.get_config_dict(name)[0].get("model_type"))
        if family not in FAMILIES:
            raise UserError(
                f"policy {name!r} is of model family {family!r}, which is not supported."
                f"{did_you_mean(family, FAMILIES)}"
            )
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"policy {name!r} is neither a checkpoint folder nor a model the hub could give: "
            f"{_first_line(error)}"
        ) from None
    settings = _load_settings(Path(name), overrides or {})
    policy = Policy(name, family, settings, processor)
    side = settings.image.side
    if side is not None and side % policy._factor:
        raise UserError(
            f"policy image side {side} must be a multiple of {policy._factor} for {name!r}: "
            f"try {round(side / policy._factor) * policy._factor}"
        )
    _pin_pixel_limits(policy)
    return policy


SHIPPED = Path(__file__).parent / "checkpoints"
"""Checkpoints that come with the package."""


def resolve_source(source: str, kind: Literal["policy", "adapter"] = "policy") -> str:
    """Turn `shipped:NAME` into the folder of a checkpoint that comes with the package.

    Raises:
        UserError: if there is no such checkpoint of this kind.
    """
    scheme, colon, name = source.partition(":")
    if not colon or scheme != "shipped":
        return source
    file = {"policy": "config.json", "adapter": "adapter_config.json"}[kind]
    known = [path.parent.name for path in SHIPPED.glob(f"*/{file}")]
    if name not in known:
        raise UserError(f"no {kind} {name!r} is shipped.{did_you_mean(name, known)}")
    return str(SHIPPED / name)


def _load_settings(folder: Path, overrides: dict[str, Any]) -> PolicySettings:
    path = folder / SETTINGS_FILE
    saved: dict[str, Any] = {}
    if path.is_file():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
        if not isinstance(saved, dict):
            raise UserError(f"{path} should be a JSON object, but is a {type(saved).__name__}")
    try:
        return PolicySettings.model_validate({**saved, **overrides})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"policy settings {where}: {first['msg']}") from None


def _pin_pixel_limits(policy: Policy) -> None:
    """Make the processor leave an already resized image as it is.

    TRL and vLLM build pixel values from images that `Policy.model_image` resized; a processor with
    its own, narrower limits would resize them again and every coordinate would be in a wrong frame.
    """
    limits = policy.settings.image
    if limits.side is not None:
        low = high = limits.side**2
    else:
        factor = policy._factor
        low = factor**2  # a size that was rounded down may be below min_pixels, and must stay
        high = largest_area(factor=factor, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    image_processor = policy.processor.image_processor
    image_processor.size = {"shortest_edge": low, "longest_edge": high}
    for name, value in (("min_pixels", low), ("max_pixels", high)):
        if hasattr(image_processor, name):
            setattr(image_processor, name, value)


def load_weights(
    policy: Policy, *, dtype: torch.dtype | str = "auto", device: str = "cpu"
) -> PreTrainedModel:
    """Load a policy's weights as a transformers image-text-to-text model on `device`.

    Raises:
        UserError: if the checkpoint holds no weights, or none that can be read.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(policy.source, dtype=dtype)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the weights of policy {policy.source!r} cannot be read: {_first_line(error)}"
        ) from None
    return model.to(device)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
