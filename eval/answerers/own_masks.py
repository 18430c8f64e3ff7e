"""The executor `own-masks`: for answerers that segment by themselves and bring their masks along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.executors.base import Executor, ExecutorCounters, ExecutorFailure, Segmentation
from envs.masks import decode_rle, union
from envs.sample import RGB
from eval.answerers.base import Answer
from prompter.errors import UserError
from prompter.types import PromptSet

NAME = "own-masks"


class OwnMasks:
    """Stands where a segmenter stands, and segments nothing."""

    def of(self, answers: Sequence[Answer]) -> BroughtMasks:
        """Return a segmenter for one batch of answers."""
        return BroughtMasks(answers)

    def close(self) -> None:
        """Nothing to release."""


class BroughtMasks(Executor):
    """Hands out the masks that a batch of answers brought along.

    Args:
        answers: the batch, in order; those that did not parse are never asked for.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.name, self.counters = NAME, ExecutorCounters()
        self._answers = [answer for answer in answers if isinstance(answer.prompts, PromptSet)]

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
        """See `envs.executors.base.Executor`; the prompts are those of the answers, in their order.

        Raises:
            UserError: if an answer brought no masks.
        """
        results: list[Segmentation | ExecutorFailure] = []
        for image, answer in zip(images, self._answers, strict=True):
            if answer.masks is None:
                raise UserError(
                    f"This policy answers with prompts, not masks; name an executor other than {NAME}."
                )
            hw = (image.shape[0], image.shape[1])
            masks = tuple(decode_rle(rle, hw) for rle in answer.masks)
            scores = np.asarray(answer.scores, dtype=np.float32)
            results.append(Segmentation(union(masks, hw), scores, instance_masks=masks))
        return results

    def close(self) -> None:
        """Nothing to release."""
