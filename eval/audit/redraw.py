"""The label held against the segmenter alone: what the segmenter draws from the label's own boxes.

No policy takes part, so what is odd here cannot be a policy's fault: a label that was shifted, cut or drawn
too large differs from what its box holds. A label of the wrong object does not: its box holds that object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import cv2
import numpy as np

from envs.executors.base import Executor, ExecutorFailure
from envs.masks import Mask
from envs.oracle import oracle_prompts
from envs.sample import Sample
from envs.segmenting import segment
from eval.audit.evidence import Evidence
from eval.audit.predictors import batches

SPECK = 0.01
"""A connected part of a label below this share of its area gets no box of its own."""

_AT_ONCE = 32


def label_parts(label: Mask) -> list[Mask]:
    """The connected parts of a label, each bool [height, width], without specks."""
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(label.astype(np.uint8), connectivity=8)
    least = SPECK * np.count_nonzero(label)
    return [parts == part for part in range(1, count) if statistics[part, cv2.CC_STAT_AREA] >= least]


def redraw(
    evidence: Iterable[Evidence], samples: Mapping[str, Sample], executor: Executor
) -> Iterator[Evidence]:
    """Add to each query what a segmenter draws from its label's boxes, in order.

    A label without a pixel, one whose sample is not at hand, and one that the segmenter fails on stay
    without.

    Args:
        samples: by sample id; their images are loaded.
    """
    for batch in batches(iter(evidence), _AT_ONCE):
        asked = [one for one in batch if one.sample_id in samples and one.decoded(one.label).any()]
        prompts = [oracle_prompts(label_parts(one.decoded(one.label)), box=True, points=0) for one in asked]
        answers = segment([samples[one.sample_id] for one in asked], prompts, executor)
        drawn = {
            one.sample_id: answer.mask
            for one, answer in zip(asked, answers, strict=True)
            if not isinstance(answer, ExecutorFailure)
        }
        for one in batch:
            mask = drawn.get(one.sample_id)
            yield one if mask is None else one.with_redrawn(mask)
