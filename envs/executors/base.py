"""The contract of every frozen segmenter: encode an image once, decode any number of prompts.

All results are in the image frame. Nothing here is trained: no parameter requires grad, the
modules are in eval mode, and the same input gives bitwise the same output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask
from envs.sample import RGB
from prompter.types import PromptSet

SERVING_ERRORS = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError)
"""What a segmenter may raise on one sample. Such a sample fails alone, as a value."""


@dataclass(frozen=True)
class Embedding:
    """What an executor keeps of one image.

    Args:
        tensors: named arrays (a segmenter's own layout; no batch axis), float16/float32/bfloat16
            torch tensors or NumPy arrays.
        image_size: (width, height) in pixels of the original image.
        input_size: (height, width) of the resized image inside the segmenter's padded input.
    """

    tensors: dict[str, Any] = field(repr=False)
    image_size: tuple[int, int]
    input_size: tuple[int, int]


@dataclass(frozen=True)
class Segmentation:
    """The answer to one `PromptSet`: the union of its instances' masks.

    Args:
        mask: union of all instance masks, bool [height, width], image frame. All False for an
            empty prompt set.
        predicted_ious: float32 [instances], the segmenter's own estimate per instance.
        stability: float32 [instances], IoU between the mask at threshold +1 and -1 logits, as
            `segment_anything`'s automatic mask generator computes it.
        low_res_logits: float32 [instances, 256, 256] logits in the segmenter's padded frame, for
            re-feeding as a mask prompt; None unless asked for.
        instance_masks: one bool mask [height, width] per instance; None unless asked for.
    """

    mask: Mask = field(repr=False)
    predicted_ious: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    stability: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    low_res_logits: NDArray[np.float32] | None = field(default=None, repr=False)
    instance_masks: tuple[Mask, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ExecutorFailure:
    """One sample that the executor could not serve. It scores None, never 0.

    Args:
        message: one sentence with the cause.
        retryable: whether another actor may succeed (a crash, a timeout) or not (bad image).
    """

    message: str
    retryable: bool = True


class Executor(ABC):
    """A frozen segmenter.

    `fingerprint` identifies model, weights and preprocessing; embeddings are cached under
    (fingerprint, image content).
    """

    fingerprint: str

    @abstractmethod
    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        """Encode images (each [height, width, 3] uint8 RGB, any sizes) into embeddings, in order."""

    @abstractmethod
    def decode(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[PromptSet],
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """Decode one prompt set per embedding (a ragged batch), in order.

        The same `Embedding` object may appear many times (a group's completions share an image);
        implementations batch across all instances of all prompt sets. A prompt set that cannot be
        served comes back as an `ExecutorFailure` and leaves the others untouched.

        Args:
            embeddings: from `encode`.
            prompts: one prompt set per embedding.
            mask_prompts: for each prompt set None, or the `low_res_logits` [instances, 256, 256] of
                an earlier turn, to be refined. Segmenters that take no mask ignore them.
            keep_instances, keep_logits: fill `instance_masks`, `low_res_logits` of the results.

        Raises:
            ValueError: if `embeddings` and `prompts` differ in length.
        """
