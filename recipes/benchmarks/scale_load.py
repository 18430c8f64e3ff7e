"""What `prompter bench scale` samples: questions, completions and masks, made up as a run's are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.executors.base import (
    Executor,
    ExecutorCounters,
    ExecutorFailure,
    Segmentation,
    SegmentRequest,
)
from envs.masks import encode_rle
from envs.sample import Sample
from prompter.types import Completion, Instance, PromptSet

if TYPE_CHECKING:
    from prompter.checkpoint import Checkpoint

DISTINCT_ANSWERS = 64
DISTINCT_IMAGES = 8


@dataclass(frozen=True)
class Load:
    """What is sampled.

    Args:
        group: completions per prompt.
        shares: per engine, each as large as fills an engine.
        tokens: of a completion, with its log-probabilities.
        side: of the images, in pixels.
        sequences: completions that an engine samples at once.
        seed: of latencies and answers.
    """

    group: int = 16
    shares: int = 4
    tokens: int = 200
    side: int = 512
    sequences: int = 64
    seed: int = 0

    @property
    def share(self) -> int:
        """Prompts of a share."""
        return math.ceil(self.sequences / self.group)


class ReadyMasks(Executor):
    """A segmenter that has every mask already: a disc in the first box it is asked for."""

    def __init__(self, load: Load) -> None:
        self.name, self.counters = "ready", ExecutorCounters()
        self._ready = {
            box: Segmentation(_disc(box, load.side), np.ones(1, np.float32), np.ones(1, np.float32))
            for box in _boxes(load)
        }

    def segment(
        self,
        requests: Sequence[SegmentRequest],
        *,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """See `Executor.segment`."""
        return [self._ready[_whole(request.prompts.instances[0].box)] for request in requests]

    def close(self) -> None:
        """See `Executor.close`."""


def _boxes(load: Load) -> list[tuple[int, ...]]:
    """Boxes of the answers, in whole pixels."""
    corners = np.random.default_rng(load.seed).integers(0, load.side // 2, (DISTINCT_ANSWERS, 2)).tolist()
    return [(x, y, x + load.side // 4, y + load.side // 4) for x, y in corners]


def _whole(box: Any) -> tuple[int, ...]:
    return tuple(round(value) for value in box)


def _disc(box: tuple[int, ...], side: int) -> NDArray[np.bool_]:
    """The largest disc in a box, bool [side, side]."""
    x1, y1, x2, y2 = box
    rows, columns = np.ogrid[:side, :side]
    radius = (x2 - x1) / 2
    return (columns - (x1 + x2) / 2) ** 2 + (rows - (y1 + y2) / 2) ** 2 <= radius**2


def make_samples(load: Load, prompts: int) -> list[Sample]:
    """A sample for each prompt, each with an image of its own name (and few distinct pixels)."""
    rng = np.random.default_rng(load.seed)
    shape = (load.side, load.side, 3)
    images = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(DISTINCT_IMAGES)]
    targets = [encode_rle(_disc(box, load.side)) for box in _boxes(load)[:DISTINCT_IMAGES]]
    return [
        Sample(
            sample_id=str(k),
            dataset="bench",
            split="scale",
            image_id=str(k),
            image_wh=(load.side, load.side),
            load_image=partial(images.__getitem__, k % len(images)),
            query="the building beside the road",
            target=targets[k % len(targets)],
        )
        for k in range(prompts)
    ]


def make_answers(policy: Checkpoint, load: Load) -> list[Completion]:
    """Completions such as a policy gives: a thought, then a box with a point in it."""
    rng = np.random.default_rng(load.seed)
    made = []
    for box in _boxes(load):
        inside = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        corners = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        prompts = PromptSet((Instance(box=corners, positive_points=(inside,)),))
        answer = policy.write_answer(prompts, (load.side, load.side))
        text = f"<think>It is the one beside the road.</think>{answer}"
        tokens = tuple(rng.integers(0, 150_000, load.tokens).tolist())
        made.append(Completion(text, tokens, tuple(rng.normal(-1, 1, load.tokens).tolist()), "stop"))
    return made
