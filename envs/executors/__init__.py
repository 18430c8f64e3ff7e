"""Frozen segmenters behind one contract: `open_executor` gives one with its cache, here or in Ray actors.

A bare one is built by `envs.executors.families.build_segmenter`.

Importing this package imports no torch; building an executor does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from envs.executors.config import SEGMENTER_FAMILIES, ExecutorConfig

if TYPE_CHECKING:
    from envs.executors.serving.local import LocalExecutor
    from envs.executors.serving.pool import RayExecutor


def open_executor(config: ExecutorConfig) -> LocalExecutor | RayExecutor:
    """Open a segmenter as training and evaluation use it: cached, in this process or in Ray actors.

    Both kinds have `segment`, `counters`, `name` and `close`, and give identical results.
    """
    if config.backend == "ray":
        from envs.executors.serving.pool import RayExecutor

        return RayExecutor(config)
    from envs.executors.serving.local import LocalExecutor

    return LocalExecutor.from_config(config)


def open_executors(configs: Sequence[ExecutorConfig]) -> list[LocalExecutor | RayExecutor]:
    """Open several segmenters; what is already open is closed again if one of them fails."""
    opened: list[LocalExecutor | RayExecutor] = []
    try:
        for config in configs:
            opened.append(open_executor(config))
    except BaseException:
        for executor in opened:
            executor.close()
        raise
    return opened


__all__ = [
    "SEGMENTER_FAMILIES",
    "ExecutorConfig",
    "open_executor",
    "open_executors",
]
