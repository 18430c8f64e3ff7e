"""Segmenting in the background, so that a trainer may do something else meanwhile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from envs.executors.base import ExecutorFailure, Segmentation
from envs.sample import RGB
from prompter.types import PromptSet


class BackgroundSegmenter(ABC):
    """Adds `submit` to a class that has `segment` and a `name`."""

    name: str
    _background: ThreadPoolExecutor | None = None

    @abstractmethod
    def segment(
        self,
        images: Sequence[RGB],
        prompts: Sequence[PromptSet],
        image_keys: Sequence[str] | None = None,
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """See `CachedExecutor.segment`."""

    def submit(
        self,
        images: Sequence[RGB],
        prompts: Sequence[PromptSet],
        image_keys: Sequence[str] | None = None,
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> Future[list[Segmentation | ExecutorFailure]]:
        """Like `segment`, in the background; calls are served one after the other, in order."""
        if self._background is None:
            self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{self.name}-segment")
        return self._background.submit(
            self.segment,
            images,
            prompts,
            image_keys,
            mask_prompts=mask_prompts,
            keep_instances=keep_instances,
            keep_logits=keep_logits,
        )

    def finish_background(self) -> None:
        """Wait for what was submitted. Safe to call twice."""
        if self._background is not None:
            self._background.shutdown()
            self._background = None


def check_lengths(images: Sequence[RGB], **others: Sequence[object] | None) -> None:
    """Raise ValueError unless every other sequence is None or as long as `images`."""
    for name, sequence in others.items():
        if sequence is not None and len(sequence) != len(images):
            raise ValueError(f"got {len(images)} images, but {len(sequence)} {name.replace('_', ' ')}")
