"""The executor `own-masks`: for answerers that segment by themselves and bring their masks along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.executors.base import ExecutorFailure, Segmentation
from envs.masks import decode_rle, union
from envs.sample import RGB
from eval.answerers import Answer
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


class BroughtMasks:
    """Hands out the masks that a batch of answers brought along.

    Args:
        answers: the batch, in order; those that did not parse are never asked for.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = [answer for answer in answers if isinstance(answer.prompts, PromptSet)]

    def segment(
        self,
        images: Sequence[RGB],
        prompts: Sequence[PromptSet],
        image_keys: Sequence[str] | None = None,
        *,
        keep_instances: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """See `envs.segmentation.Segmenter`; the prompts are those of the answers, in their order.

        Raises:
            UserError: if an answer brought no masks.
        """
        results: list[Segmentation | ExecutorFailure] = []
        for image, answer in zip(images, self._answers, strict=True):
            if answer.masks is None:
                raise UserError(
                    f"This policy answers with prompts, not masks; name an executor other than {NAME}."
                )
            size = (image.shape[0], image.shape[1])
            masks = tuple(decode_rle(rle, size) for rle in answer.masks)
            scores = np.asarray(answer.scores, dtype=np.float32)
            results.append(Segmentation(union(masks, size), scores, instance_masks=masks))
        return results
