"""The cached executor: one encoding per image, failures as values, counters that add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from prompter.errors import UserError
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


def test_images_encoded_ahead_give_the_same_masks_and_are_counted_as_encoded() -> None:
    plain, ahead = LocalExecutor(Toy()), LocalExecutor(Toy())
    asked = requests([image(1), image(2), image(1), image(3)], [BOX] * 4, ["1", "2", "1", "3"])
    expected = plain.segment(asked)
    ahead.prefetch(iter([image(1), image(2), image(3), image(2)]))
    found = ahead.segment(asked)
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, Segmentation) and isinstance(other, Segmentation)
        np.testing.assert_array_equal(one.mask, other.mask)
    assert ahead.segmenter.encoded == [1, 2, 3], "each once, in the order given"  # type: ignore[attr-defined]
    for name in ("encodes", "cache_hits_memory", "decodes", "failures"):
        assert getattr(ahead.counters, name) == getattr(plain.counters, name)
    assert len(ahead.take_prefetch_spans()) == 1 and ahead.take_prefetch_spans() == []
    plain.segment(asked)
    ahead.segment(asked)
    assert ahead.counters.cache_hits_memory == plain.counters.cache_hits_memory == 3
    ahead.close()
    ahead.prefetch([image(9)])
    assert ahead.segmenter.encoded == [1, 2, 3], "nothing is begun once closed"  # type: ignore[attr-defined]


def test_no_more_is_encoded_ahead_than_the_memory_keeps() -> None:
    size = 16  # bytes of the toy's embedding
    executor = LocalExecutor(Toy(), memory=MemoryCache(3 * size))
    pictures = [image(number) for number in range(1, 7)]
    executor.prefetch(pictures)
    executor.segment(requests(pictures, [BOX] * 6))
    assert executor.counters.encodes == 6, "none was encoded ahead, dropped, and encoded again"
    executor.prefetch([image(20), image(21), image(22)])
    executor.segment(requests([image(20)], [BOX]))
    executor.prefetch([image(30), image(31), image(32)])
    executor.segment(requests([image(32)], [BOX]))
    assert executor.counters.encodes == 12, "what nobody asked for of an earlier lot makes room"


def test_an_image_that_cannot_be_encoded_ahead_fails_where_it_is_asked_for() -> None:
    executor = LocalExecutor(Toy())
    grey: RGB = np.zeros((4, 4), np.uint8)
    executor.prefetch([image(13), grey, image(2)])
    results = executor.segment(requests([image(13), grey, image(2)], [BOX] * 3))
    assert [type(one) for one in results] == [ExecutorFailure, ExecutorFailure, Segmentation]


def test_what_stops_encoding_ahead_is_raised_by_segment() -> None:
    def broken() -> Iterator[RGB]:
        yield image(1)
        raise UserError("the image file is damaged")

    executor = LocalExecutor(Toy())
    executor.prefetch(broken())
    with pytest.raises(UserError, match="the image file is damaged"):
        executor.segment(requests([image(1)], [BOX]))
    assert executor.segment(requests([image(1)], [BOX]))[0] is not None, "once"
