"""Frozen segmenters behind one contract: `build_executor` for a bare one, `open_executor` with its cache.

Importing this package imports no torch; building an executor does.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from envs.executors.config import FAMILIES, ExecutorConfig
from prompter.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from envs.executors.base import Executor
    from envs.executors.cached import CachedExecutor
    from envs.executors.pool import ExecutorPool

BUILDERS: dict[str, tuple[str, str]] = {
    "box": ("envs.executors.box", "build_box"),
    "mobile-sam": ("envs.executors.mobile_sam", "build_mobile_sam"),
    "segment-anything": ("envs.executors.sam", "build_segment_anything"),
    "sam2": ("envs.executors.sam2", "build_sam2_package"),
    "huggingface": ("envs.executors.huggingface", "build_huggingface"),
    "onnx": ("envs.executors.onnx", "build_onnx"),
}
"""Family -> (module, function). A module is imported when its family is built, not before."""


def build_executor(config: ExecutorConfig) -> Executor:
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
    from envs.executors.promptable import faster_dtype

    return config.model_copy(update={"dtype": faster_dtype(config.device)})


def open_executor(config: ExecutorConfig) -> CachedExecutor | ExecutorPool:
    """Open a segmenter as training and evaluation use it: cached, in this process or in Ray actors.

    Both kinds have `segment`, `counters`, `name` and `close`, and give identical results.
    """
    if config.pool == "ray":
        from envs.executors.pool import ExecutorPool

        return ExecutorPool(config)
    from envs.executors.cached import CachedExecutor

    return CachedExecutor.from_config(config)


def open_executors(configs: Sequence[ExecutorConfig]) -> list[CachedExecutor | ExecutorPool]:
    """Open several segmenters; what is already open is closed again if one of them fails."""
    opened: list[CachedExecutor | ExecutorPool] = []
    try:
        for config in configs:
            opened.append(open_executor(config))
    except BaseException:
        for executor in opened:
            executor.close()
        raise
    return opened


__all__ = [
    "BUILDERS",
    "FAMILIES",
    "ExecutorConfig",
    "build_executor",
    "open_executor",
    "open_executors",
    "resolve_dtype",
]
