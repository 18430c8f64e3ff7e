"""How a policy is asked and how its answers are read: settings, frame and sizes, but no weights.

`prompter.checkpoint` loads one from a Qwen-VL checkpoint; an endpoint's is made from its options.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

from PIL import Image
from pydantic import Field, field_validator, model_validator

from prompter.action import ActionSpace, write_answer
from prompter.chat import (
    Instructions,
    QuestionPosition,
    SamplingRequest,
    build_messages,
    plain_question,
    system_prompt,
    without_image_mark,
)
from prompter.coords import Frame, FrameKind, fit_size
from prompter.dialects import DIALECTS, Dialect
from prompter.errors import UserError
from prompter.parse import OutOfFrame, SwappedCorners, parse_completion
from prompter.prompt_text import check_prompt, fill_prompt, read_prompt_file, split_prompt
from prompter.runs.config import StrictModel
from prompter.types import Answer, Completion, PromptSet, Reading


class ImageSettings(StrictModel):
    """How an image is resized for the model. Either a fixed square or an area range."""

    side: int | None = Field(default=None, ge=16)
    """Resize to side x side pixels whatever the ratio (Think2Seg-RS uses 840); null keeps the ratio."""

    min_pixels: int = Field(default=256 * 256, ge=1)
    """Smallest area where `side` is null; the aspect ratio is kept and the area brought into this range."""

    max_pixels: int = Field(default=1024 * 1024, ge=1)
    """Largest area where `side` is null."""

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
    """Coordinates it is asked for; null takes those that its family speaks (`prompter probe` tells)."""

    max_new_tokens: int = Field(default=512, ge=8)
    """Longest completion, in tokens."""

    reads: str = "prompter"
    """How its answers are written: `prompter`, or another checkpoint's dialect: `qwen`, `visionreasoner`,
    `seg-zero`, `think2seg`, `box-tokens`, or one of your own as "module:NAME". A dialect brings its own
    prompt, and defaults for `action_space`, `image`, `frame`, `max_new_tokens`, `out_of_frame` and
    `swapped_corners` where they are not given."""

    prompt_file: str | None = None
    """A text file with what is asked in the place of the dialect's own prompt; `{query}` stands for the
    query, and a system prompt may come first, between lines `[system]` and `[user]`. Read at once: its text
    is kept as `prompt`."""

    prompt: str | None = None
    """The text of `prompt_file`; null asks as the dialect does."""

    out_of_frame: OutOfFrame = "refuse"
    """What becomes of an answer with numbers a little outside the frame (5 per cent of a side): `refuse` it,
    as one further out is, or `clip` it to the edge and count it."""

    swapped_corners: SwappedCorners = "refuse"
    """What becomes of a box whose corners are swapped: `refuse` the answer, or `sort` them and count it."""

    template_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of the checkpoint's chat template, such as `enable_thinking: false` for Qwen3.5: one place for
    trainer, sampler and evaluation. One that the template does not use is refused."""

    thought_opened: bool | None = None
    """Whether the prompt ends in `<think>`, so that a completion begins with a thought; null looks at the
    checkpoint's chat template, and takes no for an endpoint."""

    @model_validator(mode="before")
    @classmethod
    def _read_prompt_file(cls, data: Any) -> Any:
        try:
            return read_prompt_file(data) if isinstance(data, dict) else data
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, text: str | None) -> str | None:
        if text is not None:
            check_prompt(text)
        return text

    @field_validator("reads")
    @classmethod
    def _check_reads(cls, name: str) -> str:
        try:
            DIALECTS.check(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    def resolved(self) -> Self:
        """These settings with the dialect's defaults in the place of what was not given.

        Raises:
            UserError: if `reads` is "module:NAME" and gives no dialect.
        """
        dialect = DIALECTS.resolve(self.reads)
        defaults: dict[str, Any] = {
            "action_space": dialect.action_space,
            "image": None if dialect.side is None else ImageSettings(side=dialect.side),
            "frame": dialect.frame,
            "max_new_tokens": dialect.max_new_tokens,
            "out_of_frame": dialect.out_of_frame,
            "swapped_corners": dialect.swapped_corners,
        }
        changed = {
            name: value
            for name, value in defaults.items()
            if value is not None and (name not in self.model_fields_set or getattr(self, name) is None)
        }
        return self.model_copy(update=changed) if changed else self


@dataclass(frozen=True)
class Policy:
    """How questions are put to a model, and how its completions are read.

    Args:
        settings: how it is asked.
        frame_kind: the kind of coordinates it speaks.
        factor: sides of an image as the model sees it are multiples of this (patch size times merge
            size), so that it is not resized again.
    """

    settings: PolicySettings
    frame_kind: FrameKind
    factor: int

    @cached_property
    def dialect(self) -> Dialect:
        """How its answers are written."""
        return DIALECTS.resolve(self.settings.reads)

    @property
    def prompt(self) -> str:
        """The text that asks (see `prompter.prompt_text`); "" for Prompter's system prompt and the query."""
        return self.dialect.prompt if self.settings.prompt is None else self.settings.prompt

    @property
    def thought_opened(self) -> bool:
        """Whether a completion begins inside a thought."""
        return bool(self.settings.thought_opened)

    @property
    def system(self) -> str:
        """The system prompt; "" if there is none."""
        if self.prompt:
            return split_prompt(self.prompt)[0]
        return system_prompt(
            self.settings.action_space,
            self.frame_kind,
            instructions=self.settings.instructions,
            think=self.settings.think,
        )

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that the model's tokenizer takes for more than text; none where it is not known."""
        return ()

    def messages(self, query: str) -> list[dict[str, Any]]:
        """The chat for one query, which is text whatever it holds (see `prompter.chat.plain_question`)."""
        system = self.system
        asked = plain_question(self.dialect.question(query) if self.prompt else query, self.special_tokens)
        if self.prompt:
            system, asked = fill_prompt(self.prompt, asked)
            asked = without_image_mark(asked)
        messages = build_messages(asked, system, question=self.settings.question)
        return messages if system else messages[1:]

    def frame(self, image_wh: tuple[int, int]) -> Frame:
        """The frame in which this policy speaks of an image of (width, height) pixels."""
        return Frame(self.frame_kind, image_wh, self._model_wh(image_wh))

    def model_image(self, image: Image.Image) -> Image.Image:
        """Resize an image (PIL RGB) to the size at which the model sees it."""
        wh = self._model_wh(image.size)
        return image if image.size == wh else image.convert("RGB").resize(wh, Image.Resampling.BICUBIC)

    def request(self, query: str, image: Image.Image, image_key: str = "") -> SamplingRequest:
        """Build the sampler's request for a query on an original image."""
        image = self.model_image(image)
        return SamplingRequest(self.messages(query), image, image_key, self.settings.template_options)

    def read(self, completion: Completion, image_wh: tuple[int, int]) -> Answer:
        """Read a completion about an image of (width, height) pixels into image-frame prompts."""
        text = self.text_of(completion)
        reading = self.parse(text, image_wh, completion.finish_reason)
        return Answer(text, reading, len(completion.token_ids))

    def text_of(self, completion: Completion) -> str:
        """A completion's text, with the special tokens that the dialect reads, if they can be had."""
        return completion.text

    def parse(
        self, text: str, image_wh: tuple[int, int], finish_reason: Literal["stop", "length"] = "stop"
    ) -> Reading:
        """Read a completion's text; see `prompter.parse.parse_completion`."""
        return parse_completion(
            text,
            action_space=self.settings.action_space,
            frame=self.frame(image_wh),
            finish_reason=finish_reason,
            dialect=self.dialect,
            out_of_frame=self.settings.out_of_frame,
            swapped_corners=self.settings.swapped_corners,
            thought_opened=self.thought_opened,
        )

    def describe(self) -> dict[str, Any]:
        """All settings, and what follows from them: both prompts, frame and factor; JSON-ready."""
        known = {name: getattr(self.settings, name) for name in PolicySettings.model_fields}
        settings = PolicySettings.model_construct(**known).model_dump(mode="json")
        return {
            **settings,
            "frame": self.frame_kind,
            "factor": self.factor,
            "thought_opened": self.thought_opened,
            "system": self.system,
            "prompt": self.prompt or None,
        }

    def write_answer(self, prompts: PromptSet, image_wh: tuple[int, int], *, think: str | None = None) -> str:
        """Write image-frame prompts as this policy should answer them, with what it thought if given.

        Raises:
            UserError: if it reads a dialect that Prompter does not write.
        """
        if self.settings.reads not in ("prompter", "think2seg"):
            raise UserError(
                f"answers are written as `prompter` and `think2seg` read them, but this policy reads "
                f"{self.settings.reads!r}; set policy.settings.reads."
            )
        return write_answer(prompts, self.frame(image_wh), think=think)

    def _model_wh(self, image_wh: tuple[int, int]) -> tuple[int, int]:
        limits = self.settings.image
        if limits.side is not None:
            return (limits.side, limits.side)
        return fit_size(
            image_wh,
            factor=self.factor,
            min_pixels=limits.min_pixels,
            max_pixels=limits.max_pixels,
        )
