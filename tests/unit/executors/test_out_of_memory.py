"""Memory that runs out: the work is halved, down to one instance; one that still does not fit fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from envs.executors.base import Embedding, ExecutorFailure, Segmentation, SegmentRequest
from envs.executors.decoding.memory import is_out_of_memory
from envs.executors.decoding.promptable import (
    Geometry,
    ImageEncoder,
    PromptableSegmenter,
    PromptDecoder,
)
from envs.executors.serving.local import LocalExecutor
from envs.sample import RGB
from prompter.types import Instance, PromptSet
from tests.unit.executors.test_local import Toy

SIDE = 16
HUGE = Instance(box=(0, 0, 15, 15))
"""No memory is enough for this one."""


class Encoder(ImageEncoder):
    def encode_batch(self, images: Sequence[RGB]) -> list[Embedding]:
        return [Embedding({}, (SIDE, SIDE), (SIDE, SIDE)) for _ in images]


class Decoder(PromptDecoder):
    """Fills boxes; memory is enough for `room` instances at once."""

    device = torch.device("cpu")

    def __init__(self, room: int, error: Callable[[], Exception]) -> None:
        self.room, self.error, self.most = room, error, 0

    def geometry(self, embedding: Embedding) -> Geometry:
        return Geometry((SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE))

    def decode_image(self, embedding: Any, instances: Any, mask_prompts: Any) -> Any:
        if len(instances) > self.room or HUGE in instances:
            raise self.error()
        self.most = max(self.most, len(instances))
        logits = torch.full((len(instances), SIDE, SIDE), -10.0)
        for number, instance in enumerate(instances):
            x1, y1, x2, y2 = (int(v) for v in instance.box)
            logits[number, y1:y2, x1:x2] = 10.0
        return logits, torch.tensor([float(instance.box[0]) for instance in instances])


def executor_of(room: int, error: Callable[[], Exception] = torch.OutOfMemoryError) -> LocalExecutor:
    decoder = Decoder(room, error)
    return LocalExecutor(PromptableSegmenter(Encoder(), decoder, fingerprint="toy", mask_threshold=0.0))


def requests_of(sets: Sequence[PromptSet]) -> list[SegmentRequest]:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    return [SegmentRequest(image, prompts, "one") for prompts in sets]


SETS = [
    PromptSet(tuple(Instance(box=(x, y, x + 3, y + 3)) for x in range(1, 2 + y % 4))) for y in range(1, 12)
]


def assert_same(results: Sequence[Any], expected: Sequence[Any]) -> None:
    for one, other in zip(results, expected, strict=True):
        assert isinstance(one, Segmentation)
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.predicted_ious, other.predicted_ious)


@pytest.mark.parametrize("room", [1, 2, 3, 8])
def test_what_does_not_fit_at_once_is_decoded_in_parts(room: int) -> None:
    expected = executor_of(1000).segment(requests_of(SETS))
    tight = executor_of(room)
    assert_same(tight.segment(requests_of(SETS)), expected)
    assert tight.counters.out_of_memory > 0 and tight.counters.failures == 0
    segmenter: Any = tight.segmenter
    assert segmenter.decoder.most <= room
    assert segmenter.decoder.most > room // 2, "no smaller than it must be"


def test_one_that_never_fits_fails_alone() -> None:
    sets = [*SETS[:5], PromptSet((HUGE, *SETS[4].instances)), *SETS[5:]]
    executor = executor_of(4)
    results = executor.segment(requests_of(sets))
    failed = results.pop(5)
    assert isinstance(failed, ExecutorFailure) and failed.retryable
    assert failed.message.startswith("the segmenter failed: OutOfMemoryError")
    assert_same(results, executor_of(1000).segment(requests_of(SETS)))
    assert (executor.counters.failures, executor.counters.decodes) == (1, len(SETS))


class Careless(Toy):
    """A segmenter of somebody's own that lets exceptions through."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room, self.error = room, error

    def decode(self, embeddings: Any, prompts: Any, **options: Any) -> Any:
        if len(prompts) > self.room:
            raise self.error
        return super().decode(embeddings, prompts, **options)


def test_a_segmenter_that_lets_it_through_does_not_end_the_run() -> None:
    image = np.full((5, 6, 3), 200, np.uint8)
    requests = [SegmentRequest(image, SETS[0], "one")] * 7
    executor = LocalExecutor(Careless(2, MemoryError("no more")))
    results = executor.segment(requests)
    assert all(isinstance(one, Segmentation) and one.mask.all() for one in results)
    assert executor.counters.out_of_memory == 3 and executor.counters.decodes == 7
    none = LocalExecutor(Careless(0, MemoryError("no more")))
    (failed,) = none.segment(requests[:1])
    assert failed == ExecutorFailure("the segmenter failed: MemoryError: no more")
    with pytest.raises(KeyError):  # a mistake is no lack of memory
        LocalExecutor(Careless(2, KeyError("typo"))).segment(requests)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one


def test_the_cpu_says_so_in_words_that_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
