"""What an ELISA policy learns from: each sample with the embeddings of its masks, and the answer to tell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm import tqdm

from envs.proposals.candidates import candidates_with_targets, proposed_candidates
from envs.proposals.store import GridProposer
from envs.rollouts import image_key
from envs.sample import SampleSource
from eval.answerers.elisa import MaskEmbedder, propose_for
from prompter.elisa.batch import Question
from prompter.elisa.folder import ElisaPolicy
from prompter.errors import UserError
from recipes.elisa.config import ElisaConfig

IMAGES_KEPT = 512
"""Images kept at the size the model sees, so that they are not loaded for each of their questions."""


@dataclass(frozen=True)
class Lesson:
    """One sample, prepared.

    Args:
        index: of the sample in its source.
        query: its question.
        image_key: of its image.
        masks: float32 [masks, width], embeddings of what is on offer.
        matching: indices of the right ones, in the order in which they are told.
        truth: whether the targets themselves are on offer.
    """

    index: int
    query: str
    image_key: str
    masks: Tensor = field(repr=False)
    matching: tuple[int, ...]
    truth: bool


def prepare(
    source: SampleSource, elisa: ElisaPolicy, proposer: GridProposer, config: ElisaConfig
) -> list[Lesson]:
    """Propose masks for every image (or find them on disk) and embed what each sample is offered.

    Raises:
        UserError: if there is no sample, or no mask anywhere.
    """
    count = len(source) if config.samples is None else min(config.samples, len(source))
    embedder = MaskEmbedder(elisa, proposer)
    lessons = []
    proposed: tuple[str, Tensor] = ("", Tensor())
    for index in tqdm(range(count), desc="masks", unit="sample", disable=not sys.stderr.isatty()):
        sample = source[index]
        image, key = sample.image_array(), image_key(sample)
        proposals = propose_for(proposer, sample, image)
        truth = bool(np.random.default_rng([config.seed, index]).random() < config.truth_share)
        candidates = proposed_candidates(sample, proposals, config.match_iou)
        if truth or (candidates.targets and not candidates.matching):
            truth, candidates = True, candidates_with_targets(sample, proposals, config.twin_iou)
            masks = embedder.embed(sample, image, candidates)
        else:
            if proposed[0] != key:  # the same for all samples of an image: kept once
                proposed = (key, embedder.embed(sample, image, candidates))
            masks = proposed[1]
        lessons.append(Lesson(index, sample.query, key, masks, candidates.matching, truth))
    if not any(len(lesson.masks) for lesson in lessons):
        raise UserError(
            f"no mask was proposed for any of {count} samples of {config.dataset}: see proposer.grid."
        )
    return lessons


def mean_embedding(lessons: Sequence[Lesson]) -> Tensor:
    """The mean [width] of all masks on offer, each sample's counted."""
    total = torch.stack([lesson.masks.sum(0) for lesson in lessons]).sum(0)
    return total / sum(len(lesson.masks) for lesson in lessons)


def likeness(lessons: Sequence[Lesson], mean: Tensor) -> float | None:
    """How alike the masks of one question are: the mean cosine between two of them, less `mean`.

    The paper shows it with a mean of zeros and with that of the training set.

    Args:
        lessons: those with fewer than two masks are left out.
        mean: [width], subtracted from every embedding first.

    Returns:
        In [-1, 1]; None if no lesson has two masks.
    """
    found = []
    for lesson in lessons:
        count = len(lesson.masks)
        if count > 1:
            rows = functional.normalize(lesson.masks - mean, dim=1)
            found.append((float((rows @ rows.T).sum()) - count) / (count * (count - 1)))
    return sum(found) / len(found) if found else None


class Lessons(Dataset):
    """Lessons as `Question`s with their answers.

    Args:
        source: whose samples they are; gives the images.
        lessons: prepared.
        elisa: how images are shown and answers told.
    """

    def __init__(self, source: SampleSource, lessons: Sequence[Lesson], elisa: ElisaPolicy) -> None:
        self._source, self._lessons, self._elisa = source, lessons, elisa
        first = {lesson.image_key: lesson.index for lesson in reversed(lessons)}

        @lru_cache(maxsize=IMAGES_KEPT)
        def shown(key: str) -> Image.Image:
            return elisa.checkpoint.model_image(source[first[key]].load_image())

        self._shown = shown

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, index: int) -> Question:
        lesson = self._lessons[index]
        answer = tuple(self._elisa.model.answers.write(lesson.matching))
        return Question(lesson.query, self._shown(lesson.image_key), lesson.image_key, lesson.masks, answer)
