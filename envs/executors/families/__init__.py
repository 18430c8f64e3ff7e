"""Segmenter families, one file each: how images are encoded, and which decoder answers prompts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from envs.executors.config import ExecutorConfig
from prompter.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from envs.executors.base import Segmenter


BUILDERS: dict[str, tuple[str, str]] = {
    "box": ("envs.executors.families.box", "build_box"),
    "mobile-sam": ("envs.executors.families.mobile_sam", "build_mobile_sam"),
    "segment-anything": ("envs.executors.families.sam", "build_segment_anything"),
    "sam2": ("envs.executors.families.sam2", "build_sam2_package"),
    "huggingface": ("envs.executors.families.huggingface", "build_huggingface"),
    "onnx": ("envs.executors.families.onnx", "build_onnx"),
}
"""Family -> (module, function). A module is imported when its family is built, not before."""


def build_segmenter(config: ExecutorConfig) -> Segmenter:
    """Build the segmenter a config names, in this process, without cache or pool.

    Raises:
        UserError: if the family or its weights are not to be had.
    """
    if config.family not in BUILDERS:
        raise UserError(f"unknown executor family {config.family!r}.{did_you_mean(config.family, BUILDERS)}")
    module, function = BUILDERS[config.family]
    return getattr(importlib.import_module(module), function)(resolve_dtype(config))


def resolve_dtype(config: ExecutorConfig) -> ExecutorConfig:
    """The config with `dtype: auto` replaced by the type that this machine computes in."""
    if config.dtype != "auto" or config.family == "box":
        return config
    from envs.executors.decoding.promptable import faster_dtype

    return config.model_copy(update={"dtype": faster_dtype(config.device)})
