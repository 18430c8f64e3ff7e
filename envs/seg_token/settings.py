"""What a seg-token policy is made of, as its checkpoint keeps it. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from envs.executors.config import SEGMENTER_FAMILIES, ExecutorConfig
from prompter.errors import UserError
from prompter.runs.config import StrictModel, describe_validation_error

SETTINGS_FILE = "seg_token.json"
"""Beside the policy's weights: `SegTokenSettings`."""

WEIGHTS_FILE = "seg_token.safetensors"
"""Beside the policy's weights: projection, chooser, and the head's decoder where it was trained."""

HeadKind = Literal["sam", "mask2former"]


class Mask2FormerSettings(StrictModel):
    """Sizes of a Mask2Former head; the defaults are the paper's."""

    width: int = Field(default=256, ge=32, multiple_of=32)
    """Width of pixel decoder, transformer decoder and mask embeddings."""

    encoder_layers: int = Field(default=6, ge=1)
    """Layers of the pixel decoder's deformable attention over three scales."""

    decoder_layers: int = Field(default=9, ge=1)
    """Layers of masked attention."""

    attention_heads: int = Field(default=8, ge=1)
    """Attention heads of both."""


class HeadSettings(StrictModel):
    """What turns a `[SEG]` token's embedding into a mask."""

    kind: HeadKind = "sam"
    """`sam` is the decoder of the segmenter in `executor`: SAM's, MobileSAM's or SAM 2's. `mask2former` puts
    Mask2Former's pixel and transformer decoder over its image encoder; they start from nothing."""

    mask2former: Mask2FormerSettings = Mask2FormerSettings()

    train: bool = True
    """Whether the decoder is trained (LISA, LISAT, SegEarth-R2) or stays as it is."""

    @model_validator(mode="after")
    def _check(self) -> HeadSettings:
        if self.kind == "mask2former" and not self.train:
            raise ValueError("a head of kind mask2former starts from random weights: it has to be trained")
        return self


class SegTokenSettings(StrictModel):
    """How a seg-token policy is put together and read; saved beside its weights."""

    executor: ExecutorConfig
    """The frozen segmenter whose image encoder sees the image."""

    head: HeadSettings = HeadSettings()
    """What decodes masks."""

    queries: int = Field(default=1, ge=1, le=100)
    """Query tokens of a target: k > 1 proposes k masks, of which one is chosen."""

    max_targets: int = Field(default=8, ge=1)
    """Targets that an answer may mark."""

    encoder: str = ""
    """Fingerprint of the image encoder that it was trained with."""


def read_settings(folder: Path, executor: Mapping[str, Any] | None = None) -> SegTokenSettings:
    """Read a checkpoint's settings.

    Args:
        folder: of the checkpoint.
        executor: fields of `ExecutorConfig` in the place of its own, such as `model` or `device`.

    Raises:
        UserError: if there are none, they cannot be read, or they name code as the segmenter's family.
    """
    path = folder / SETTINGS_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no seg-token policy: it has no {SETTINGS_FILE}, which "
            f"`prompter seg-token` writes."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    try:
        given = dict(executor or {})
        if isinstance(data, dict) and isinstance(data.get("executor"), dict):
            family = data["executor"].get("family")
            if "family" not in given and family not in SEGMENTER_FAMILIES:
                raise UserError(
                    f"{path} names the segmenter family {family!r}, which is none of Prompter's. A "
                    f"checkpoint may not have code imported; if you trust it, give the option "
                    f"executor.family={family}."
                )
            data["executor"] = {**data["executor"], **given}
        return SegTokenSettings.model_validate(data)
    except ValidationError as error:
        raise UserError(describe_validation_error(error, str(path), data=data)) from None
