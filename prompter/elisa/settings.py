"""How an ELISA policy is built, and what it says; kept beside its weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from prompter.runs.config import StrictModel

PLACE = "{masks}"
"""Where an answer names its masks."""


class ElisaSettings(StrictModel):
    """What is fixed when an ELISA policy is trained."""

    features: Literal["policy", "segmenter"] = "policy"
    """Whose image features are pooled under a mask: the policy's vision tower's, or the segmenter's, which
    are finer (64 x 64 for SAM) but know less of words."""

    geometry: bool = True
    """Whether a mask's embedding also tells its box and area. The paper's embeddings, by AlphaCLIP, see the
    mask's place in the image; pooled features need not."""

    hidden: int = Field(default=512, ge=8)
    """Width of the adapter's hidden layer."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the adapter."""

    answer: str = "It is {masks}."
    """What is said where there are targets; `{masks}` stands for their tokens."""

    nothing: str = "There is no such thing here."
    """What is said where there is none."""

    most_masks: int = Field(default=16, ge=1)
    """Longest list of masks that is taught, and that a constrained answer may name."""

    @field_validator("answer")
    @classmethod
    def _check_answer(cls, text: str) -> str:
        if text.count(PLACE) != 1:
            raise ValueError(f"must hold {PLACE} once, where the masks are named, but is {text!r}")
        return text

    @field_validator("nothing")
    @classmethod
    def _check_nothing(cls, text: str) -> str:
        if not text.strip() or PLACE in text:
            raise ValueError(f"must be a sentence without {PLACE}, but is {text!r}")
        return text
