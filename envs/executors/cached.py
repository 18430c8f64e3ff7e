"""An executor that encodes each image once: the reward path's way to a segmenter.

`CachedExecutor.segment` takes images and prompt sets side by side, as a batch of rollouts gives
them, and returns one result per prompt set. Nothing it is given makes it raise: an image that
cannot be encoded and a prompt set that cannot be decoded come back as `ExecutorFailure`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from envs.assets import cache_folder
from envs.executors.background import BackgroundSegmenter, check_lengths
from envs.executors.base import SERVING_ERRORS, Embedding, Executor, ExecutorFailure, Segmentation
from envs.executors.cache import DiskCache, MemoryCache, StorageType, StoredEmbedding, pack, unpack
from envs.executors.config import ExecutorConfig
from envs.sample import RGB, content_hash
from prompter.types import PromptSet

MEGABYTE = 1_000_000

IMAGES_AT_ONCE = 16
"""Images whose embeddings are held, cached or not, while their prompts are decoded."""


@dataclass
class ExecutorCounters:
    """What an executor has done since it was opened.

    Args:
        encodes: images that went through the image encoder.
        cache_hits_memory, cache_hits_disk: images whose embedding was found.
        cache_dropped: damaged files found in the disk cache, removed and computed again.
        decodes: prompt sets answered, empty ones included, failed ones not.
        instances: instances in them.
        failures: prompt sets that came back as `ExecutorFailure`.
        retries: requests tried again after an actor failed.
        restarts: actors replaced.
        encode_seconds, decode_seconds: wall time, summed over actors.
    """

    encodes: int = 0
    cache_hits_memory: int = 0
    cache_hits_disk: int = 0
    cache_dropped: int = 0
    decodes: int = 0
    instances: int = 0
    failures: int = 0
    retries: int = 0
    restarts: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return name -> value."""
        return asdict(self)

    def add(self, other: ExecutorCounters) -> None:
        """Add another's counts to these."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def since(self, earlier: ExecutorCounters) -> ExecutorCounters:
        """Return what was added after `earlier`, a copy taken before."""
        return ExecutorCounters(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))

    def copy(self) -> ExecutorCounters:
        """Return an independent copy."""
        return ExecutorCounters(*(getattr(self, f.name) for f in fields(self)))


def image_problem(image: RGB) -> str | None:
    """What is wrong with an image given to a segmenter, or None."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        described = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        return f"an image must be a uint8 array [height, width, 3], but got {described}"
    if not image.shape[0] or not image.shape[1]:
        return f"an image must have pixels, but got shape {image.shape}"
    return None


def distinct_images(images: Sequence[RGB], keys: Sequence[str] | None) -> tuple[list[int], list[RGB]]:
    """Tell the images of a batch apart without comparing pixels.

    Args:
        images: one per prompt set.
        keys: identity of each, equal exactly when the images are; None takes the array objects'.

    Returns:
        For each entry the number of its distinct image, and the distinct images.
    """
    numbers: dict[object, int] = {}
    distinct: list[RGB] = []
    which = []
    for index, image in enumerate(images):
        key: object = id(image) if keys is None else keys[index]
        if key not in numbers:
            numbers[key] = len(distinct)
            distinct.append(image)
        which.append(numbers[key])
    return which, distinct


class CachedExecutor(BackgroundSegmenter):
    """A segmenter in this process behind a cache of embeddings.

    Args:
        executor: the bare segmenter.
        name: for tables and rollouts.
        storage: how embeddings are kept, and therefore what is decoded, cached or not.
        memory: embeddings in memory.
        disk: embeddings on disk, or None.
        encode_batch: images handed to the segmenter at once.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        name: str = "executor",
        storage: StorageType = "float32",
        memory: MemoryCache | None = None,
        disk: DiskCache | None = None,
        encode_batch: int = 1,
    ) -> None:
        self.executor, self.name, self.storage = executor, name, storage
        self.memory = memory if memory is not None else MemoryCache(2048 * MEGABYTE)
        self.disk = disk
        self.encode_batch = encode_batch
        self.counters = ExecutorCounters()

    @classmethod
    def from_config(cls, config: ExecutorConfig) -> CachedExecutor:
        """Build the segmenter a config names, with the caches it asks for.

        Raises:
            UserError: if the segmenter or its weights are not to be had.
        """
        from envs.executors import build_executor

        disk = None
        if config.cache_disk_mb > 0:
            folder = config.cache_dir or cache_folder() / "embeddings"
            disk = DiskCache(folder, int(config.cache_disk_mb * MEGABYTE))
        return cls(
            build_executor(config),
            name=config.name,
            storage=config.cache_dtype,
            memory=MemoryCache(int(config.cache_memory_mb * MEGABYTE)),
            disk=disk,
            encode_batch=config.encode_batch,
        )

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
        """Return one result per prompt set, in order.

        Args:
            images: [height, width, 3] uint8 RGB, one per prompt set; the same image may be given
                many times, and is encoded and looked up once.
            prompts: one per image, image frame. An image that is given only empty prompt sets is
                not encoded.
            image_keys: identity of each image within this call, equal exactly when the images
                are; None tells them apart by array object. What is cached is found by content.
            mask_prompts, keep_instances, keep_logits: as in `Executor.decode`.

        Raises:
            ValueError: if the sequences differ in length.
        """
        check_lengths(images, prompts=prompts, image_keys=image_keys, mask_prompts=mask_prompts)
        which, distinct = distinct_images(images, image_keys)
        members: list[list[int]] = [[] for _ in distinct]
        for index, number in enumerate(which):
            members[number].append(index)
        results: list[Segmentation | ExecutorFailure] = [ExecutorFailure("not served")] * len(prompts)
        for start in range(0, len(distinct), IMAGES_AT_ONCE):
            chunk = range(start, min(start + IMAGES_AT_ONCE, len(distinct)))
            needed = [n for n in chunk if any(not prompts[i].is_empty for i in members[n])]
            embeddings = dict(zip(needed, self._embed([distinct[n] for n in needed]), strict=True))
            served: list[tuple[int, Embedding]] = []
            for number in chunk:
                embedding = embeddings.get(number)
                if embedding is None:  # nobody asks for anything: the size is all it takes
                    problem = image_problem(distinct[number])
                    if problem is None:
                        height, width = distinct[number].shape[:2]
                        embedding = Embedding({}, (width, height), (height, width))
                    else:
                        embedding = ExecutorFailure(problem, retryable=False)
                if isinstance(embedding, ExecutorFailure):
                    for index in members[number]:
                        results[index] = embedding
                else:
                    served.extend((index, embedding) for index in members[number])
            started = time.perf_counter()
            decoded = self.executor.decode(
                [embedding for _, embedding in served],
                [prompts[index] for index, _ in served],
                mask_prompts=None if mask_prompts is None else [mask_prompts[index] for index, _ in served],
                keep_instances=keep_instances,
                keep_logits=keep_logits,
            )
            self.counters.decode_seconds += time.perf_counter() - started
            for (index, _), result in zip(served, decoded, strict=True):
                results[index] = result
        self._count(prompts, results)
        return results

    def embeddings(self, images: Sequence[RGB]) -> list[Embedding]:
        """Embeddings of distinct images, looked up or computed as `segment` does.

        Raises:
            RuntimeError: if an image cannot be encoded.
        """
        found = self._embed(images)
        for item in found:
            if isinstance(item, ExecutorFailure):
                raise RuntimeError(item.message)
        return [item for item in found if isinstance(item, Embedding)]

    def close(self) -> None:
        """Wait for what was submitted. Safe to call twice."""
        self.finish_background()

    def _count(self, prompts: Sequence[PromptSet], results: Sequence[Segmentation | ExecutorFailure]) -> None:
        for prompt_set, result in zip(prompts, results, strict=True):
            if isinstance(result, ExecutorFailure):
                self.counters.failures += 1
            else:
                self.counters.decodes += 1
                self.counters.instances += len(prompt_set)

    def _embed(self, images: Sequence[RGB]) -> list[Embedding | ExecutorFailure]:
        """Look up or compute the embedding of each distinct image."""
        found: list[Embedding | ExecutorFailure | None] = []
        keys: list[str] = []
        missing: list[int] = []
        for index, image in enumerate(images):
            problem = image_problem(image)
            if problem is not None:
                keys.append("")
                found.append(ExecutorFailure(problem, retryable=False))
                continue
            keys.append(f"{self.executor.fingerprint}/{self.storage}/{content_hash(image)}")
            stored = self._recall(keys[-1])
            if stored is None:
                missing.append(index)
            found.append(None if stored is None else unpack(stored))
        started = time.perf_counter()
        for start in range(0, len(missing), self.encode_batch):
            part = missing[start : start + self.encode_batch]
            for index, embedding in zip(part, self._encode([images[i] for i in part]), strict=True):
                if isinstance(embedding, Embedding):
                    # What is decoded is what is kept, so that a warm cache changes nothing.
                    stored = pack(embedding, self.storage)
                    self.memory.put(keys[index], stored)
                    if self.disk is not None:
                        self.disk.put(keys[index], stored)
                    embedding = unpack(stored)
                found[index] = embedding
        self.counters.encode_seconds += time.perf_counter() - started
        return [item for item in found if item is not None]

    def _recall(self, key: str) -> StoredEmbedding | None:
        """Find an embedding in memory, else on disk, and count where."""
        stored = self.memory.get(key)
        if stored is not None:
            self.counters.cache_hits_memory += 1
            return stored
        if self.disk is None:
            return None
        dropped = self.disk.dropped
        stored = self.disk.get(key, getattr(self.executor, "device", None))
        self.counters.cache_dropped += self.disk.dropped - dropped
        if stored is not None:
            self.counters.cache_hits_disk += 1
            self.memory.put(key, stored)
        return stored

    def _encode(self, images: Sequence[RGB]) -> list[Embedding | ExecutorFailure]:
        """Encode a batch; if that fails, image by image, so that only the culprit fails."""
        try:
            embeddings: list[Embedding | ExecutorFailure] = list(self.executor.encode(images))
        except SERVING_ERRORS as error:
            if len(images) == 1:
                message = f"the image could not be encoded: {type(error).__name__}: {error}"
                return [ExecutorFailure(message)]
            return [result for image in images for result in self._encode([image])]
        self.counters.encodes += len(images)
        return embeddings
