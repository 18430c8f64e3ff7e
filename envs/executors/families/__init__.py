"""Segmenter families, one file each: how images are encoded, and which decoder answers prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.executors.config import SEGMENTER_FAMILIES, ExecutorConfig
from prompter.errors import UserError

if TYPE_CHECKING:
    from envs.executors.base import Segmenter


def build_segmenter(config: ExecutorConfig) -> Segmenter:
    """Build the segmenter a config names, in this process, without cache or pool.

    Raises:
        UserError: if the family or its weights are not to be had.
    """
    from envs.executors.base import Segmenter

    segmenter = SEGMENTER_FAMILIES.resolve(config.family)(resolve_dtype(config))
    if not isinstance(segmenter, Segmenter):
        raise UserError(
            f"executor family {config.family!r} should build an envs.executors.base.Segmenter, "
            f"but built a {type(segmenter).__name__}."
        )
    return segmenter


def resolve_dtype(config: ExecutorConfig) -> ExecutorConfig:
    """The config with `dtype: auto` replaced by the type that this machine computes in."""
    if config.dtype != "auto" or config.family == "box":
        return config
    from envs.executors.decoding.promptable import faster_dtype

    return config.model_copy(update={"dtype": faster_dtype(config.device)})
