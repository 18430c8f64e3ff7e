"""The cached executor: one encoding per image, failures as values, counters that add up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from envs.executors.base import Embedding, ExecutorCounters, ExecutorFailure, Segmentation, Segmenter
from envs.executors.serving.embedding_cache import DiskCache, MemoryCache
from envs.executors.serving.local import LocalExecutor
from envs.sample import RGB
from prompter.types import Instance, PromptSet
from tests.fixtures.requests import requests

BOX = PromptSet((Instance(box=(1, 1, 4, 4)),))
POISON = PromptSet((Instance(box=(66, 66, 67, 67)),))
"""The toy segmenter refuses this one."""


class Toy(Segmenter):
    """Its mask is the image's top-left pixel everywhere, read from the embedding."""

    fingerprint = "toy"

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        for image in images:
            if image[0, 0, 0] == 13:
                raise ValueError("unlucky image")
        self.encoded += [int(image[0, 0, 0]) for image in images]
        return [
            Embedding({"image": torch.full((1, 2, 2), float(image[0, 0, 0]))}, image.shape[1::-1], (2, 2))
            for image in images
        ]

    def decode(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[PromptSet],
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        results: list[Segmentation | ExecutorFailure] = []
        for embedding, prompt_set in zip(embeddings, prompts, strict=True):
            if prompt_set == POISON:
                results.append(ExecutorFailure("poison"))
                continue
            width, height = embedding.image_wh
            value = 0.0 if prompt_set.is_empty else float(embedding.tensors["image"][0, 0, 0])
            ones = np.full(len(prompt_set), value, np.float32)
            results.append(Segmentation(np.full((height, width), value > 100), ones, ones))
        return results


def image(value: int, width: int = 6, height: int = 5) -> RGB:
    return np.full((height, width, 3), value, np.uint8)


def wrap(toy: Toy, **options: object) -> LocalExecutor:
    return LocalExecutor(toy, name="toy", **options)


def test_each_image_is_encoded_once_and_answers_keep_their_order() -> None:
    toy = Toy()
    cached = wrap(toy)
    images = [image(v) for v in (200, 50, 200, 50, 150)]
    results = cached.segment(requests(images, [BOX, BOX, PromptSet(), BOX, BOX], ["a", "b", "a", "b", "c"]))
    assert [bool(result.mask.any()) for result in results] == [True, False, False, False, True]
    assert [result.predicted_ious.tolist() for result in results] == [[200], [50], [], [50], [150]]
    assert toy.encoded == [200, 50, 150]
    counters = cached.counters
    assert (counters.encodes, counters.decodes, counters.instances, counters.failures) == (3, 5, 4, 0)
    cached.segment(requests(images, [BOX] * 5))
    assert toy.encoded == [200, 50, 150]
    # Without keys every array object counts as an image of its own, found by its content.
    assert cached.counters.cache_hits_memory == 5


def test_keys_are_only_trusted_within_a_call() -> None:
    cached = wrap(Toy())
    (first,) = cached.segment(requests([image(200)], [BOX], ["tile 1"]))
    (second,) = cached.segment(requests([image(50)], [BOX], ["tile 1"]))
    assert first.predicted_ious[0] == 200
    assert second.predicted_ious[0] == 50


def test_an_image_nobody_prompts_is_not_encoded() -> None:
    toy = Toy()
    (result,) = wrap(toy).segment(requests([image(200)], [PromptSet()]))
    assert result.mask.shape == (5, 6)
    assert not result.mask.any()
    assert toy.encoded == []


def test_bad_images_and_prompts_fail_alone() -> None:
    cached = wrap(Toy(), encode_batch=4)
    images = [
        image(200),
        image(13),
        image(60),
        np.zeros((4, 4), np.uint8),
        image(200),
        np.zeros((0, 4, 3), np.uint8),
    ]
    results = cached.segment(requests(images, [BOX, BOX, BOX, BOX, POISON, PromptSet()]))
    assert isinstance(results[0], Segmentation)
    assert isinstance(results[1], ExecutorFailure)
    assert "unlucky" in results[1].message
    assert isinstance(results[2], Segmentation)
    assert isinstance(results[3], ExecutorFailure)
    assert "uint8 (4, 4)" in results[3].message
    assert not results[3].retryable
    assert isinstance(results[4], ExecutorFailure)
    assert isinstance(results[5], ExecutorFailure)
    assert (cached.counters.decodes, cached.counters.failures) == (2, 4)


def test_nothing_to_do() -> None:
    assert wrap(Toy()).segment([]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=80), st.integers(1, 5))
def test_counters_add_up(work: list[tuple[int, int]], encode_batch: int) -> None:
    cached = wrap(Toy(), encode_batch=encode_batch)
    sets = [PromptSet(BOX.instances * count) for _, count in work]
    results = cached.segment(requests([image(20 + v) for v, _ in work], sets, [str(v) for v, _ in work]))
    assert len(results) == len(work)
    assert cached.counters.encodes == len({v for v, count in work if count})
    assert cached.counters.decodes == len(work)
    assert cached.counters.instances == sum(count for _, count in work)
    for (value, count), result in zip(work, results, strict=True):
        assert result.predicted_ious.tolist() == [20 + value] * count


def test_disk_outlives_the_process_and_survives_damage(tmp_path: Path) -> None:
    def fresh() -> tuple[Toy, LocalExecutor]:
        toy = Toy()
        return toy, wrap(toy, disk=DiskCache(tmp_path, 10**6), memory=MemoryCache(10**6))

    toy, cached = fresh()
    cached.segment(requests([image(200)], [BOX]))
    assert toy.encoded == [200]
    toy, cached = fresh()
    cached.segment(requests([image(200)], [BOX]))
    assert toy.encoded == []
    assert cached.counters.cache_hits_disk == 1
    cached.segment(requests([image(200)], [BOX]))
    assert cached.counters.cache_hits_memory == 1
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    toy, cached = fresh()
    (result,) = cached.segment(requests([image(200)], [BOX]))
    assert result.predicted_ious[0] == 200
    assert toy.encoded == [200]
    assert cached.counters.cache_dropped == 1
    # Another segmenter, or another storage type, finds nothing of it.
    toy = Toy()
    toy.fingerprint = "other"
    wrap(toy, disk=DiskCache(tmp_path, 10**6)).segment(requests([image(200)], [BOX]))
    assert toy.encoded == [200]
    toy = Toy()
    wrap(toy, disk=DiskCache(tmp_path, 10**6), storage="float16").segment(requests([image(200)], [BOX]))
    assert toy.encoded == [200]


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_cold_and_warm_decode_the_same(storage: str) -> None:
    class Rough(Toy):
        def encode(self, images: Sequence[RGB]) -> list[Embedding]:
            return [Embedding({"image": torch.full((1, 2, 2), 1 / 3)}, (6, 5), (2, 2)) for _ in images]

    cached = wrap(Rough(), storage=storage)
    cold, warm = (cached.segment(requests([image(9)], [BOX]))[0] for _ in range(2))
    assert cold.predicted_ious[0] == warm.predicted_ious[0]


def test_counters_difference() -> None:
    counters = ExecutorCounters(encodes=2, decodes=5)
    before = counters.copy()
    counters.add(ExecutorCounters(encodes=1, decodes=3, encode_seconds=0.5))
    assert counters.since(before) == ExecutorCounters(encodes=1, decodes=3, encode_seconds=0.5)
    assert counters.to_dict()["decodes"] == 8
