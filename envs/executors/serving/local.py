"""An executor that encodes each image once: the reward path's way to a segmenter.

`LocalExecutor.segment` takes requests as a batch of rollouts gives them, and returns one result per
request. Nothing it is given makes it raise: an image that
cannot be encoded and a prompt set that cannot be decoded come back as `ExecutorFailure`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from envs.assets import cache_folder
from envs.executors.base import (
    SERVING_ERRORS,
    Embedding,
    Executor,
    ExecutorCounters,
    ExecutorFailure,
    Segmentation,
    Segmenter,
    SegmentRequest,
    by_image,
    image_problem,
)
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.memory import is_out_of_memory, release_memory
from envs.executors.serving.embedding_cache import (
    DiskCache,
    MemoryCache,
    StorageType,
    StoredEmbedding,
    pack,
    unpack,
)
from envs.executors.serving.prefetch import Prefetcher
from envs.sample import RGB, content_hash

MEGABYTE = 1_000_000

IMAGES_AT_ONCE = 16
"""Images whose embeddings are held, cached or not, while their prompts are decoded."""


class LocalExecutor(Executor):
    """A segmenter in this process behind a cache of embeddings.

    Args:
        segmenter: the frozen model.
        name: for tables and rollouts.
        storage: how embeddings are kept, and therefore what is decoded, cached or not.
        memory: embeddings in memory.
        disk: embeddings on disk, or None.
        encode_batch: images handed to the segmenter at once.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        name: str = "executor",
        storage: StorageType = "float32",
        memory: MemoryCache | None = None,
        disk: DiskCache | None = None,
        encode_batch: int = 1,
    ) -> None:
        self.segmenter, self.name, self.storage = segmenter, name, storage
        self.memory = memory if memory is not None else MemoryCache(2048 * MEGABYTE)
        self.disk = disk
        self.encode_batch = encode_batch
        self.counters = ExecutorCounters()
        self._lock = threading.Lock()
        self._ahead: set[str] = set()  # keys that the present lot encoded and nobody has asked for yet
        self._lot = 0
        self._prefetcher = Prefetcher(self.keep, f"segmenter {name}")

    @classmethod
    def from_config(cls, config: ExecutorConfig) -> LocalExecutor:
        """Build the segmenter a config names, with the caches it asks for.

        Raises:
            UserError: if the segmenter or its weights are not to be had.
        """
        from envs.executors.families import build_segmenter

        disk = None
        if config.cache_disk_mb > 0:
            folder = config.cache_dir or cache_folder() / "embeddings"
            disk = DiskCache(folder, int(config.cache_disk_mb * MEGABYTE))
        return cls(
            build_segmenter(config),
            name=config.name,
            storage=config.cache_dtype,
            memory=MemoryCache(int(config.cache_memory_mb * MEGABYTE)),
            disk=disk,
            encode_batch=config.encode_batch,
        )

    def segment(
        self,
        requests: Sequence[SegmentRequest],
        *,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """See `Executor.segment`."""
        self._prefetcher.wait()
        with self._lock:
            return self._segment(requests, keep_instances, keep_logits)

    def _segment(
        self, requests: Sequence[SegmentRequest], keep_instances: bool, keep_logits: bool
    ) -> list[Segmentation | ExecutorFailure]:
        images = by_image(requests)
        results: list[Segmentation | ExecutorFailure] = [ExecutorFailure("not served")] * len(requests)
        for start in range(0, len(images), IMAGES_AT_ONCE):
            chunk = images[start : start + IMAGES_AT_ONCE]
            needed = [
                n for n, (_, own) in enumerate(chunk) if any(not requests[i].prompts.is_empty for i in own)
            ]
            embeddings = dict(zip(needed, self._embed([chunk[n][0] for n in needed]), strict=True))
            served: list[tuple[int, Embedding]] = []
            for number, (image, own) in enumerate(chunk):
                embedding = embeddings.get(number)
                if embedding is None:  # nobody asks for anything: the size is all it takes
                    problem = image_problem(image)
                    if problem is None:
                        height, width = image.shape[:2]
                        embedding = Embedding({}, (width, height), (height, width))
                    else:
                        embedding = ExecutorFailure(problem, retryable=False)
                if isinstance(embedding, ExecutorFailure):
                    for index in own:
                        results[index] = embedding
                else:
                    served.extend((index, embedding) for index in own)
            started = time.perf_counter()
            decoded = self._decode(
                [embedding for _, embedding in served],
                [requests[index] for index, _ in served],
                {"keep_instances": keep_instances, "keep_logits": keep_logits},
            )
            self.counters.decode_seconds += time.perf_counter() - started
            for (index, _), result in zip(served, decoded, strict=True):
                results[index] = result
        self._count(requests, results)
        return results

    def embeddings(self, images: Sequence[RGB]) -> list[Embedding]:
        """Embeddings of distinct images, looked up or computed as `segment` does.

        Raises:
            RuntimeError: if an image cannot be encoded.
        """
        self._prefetcher.wait()
        with self._lock:
            found = self._embed(images)
        for item in found:
            if isinstance(item, ExecutorFailure):
                raise RuntimeError(item.message)
        return [item for item in found if isinstance(item, Embedding)]

    def prefetch(self, images: Iterable[RGB]) -> None:
        """See `Executor.prefetch`; a thread of this process does it."""
        self._prefetcher.start(images)

    def take_prefetch_spans(self) -> list[tuple[float, float]]:
        """See `Executor.take_prefetch_spans`."""
        return self._prefetcher.take_spans()

    def keep(self, images: Iterable[RGB], lot: int) -> None:
        """Encode images now and keep their embeddings, as many of a lot as the memory has room for.

        An image that cannot be encoded is left for `segment` to say so. When one that is kept is asked for,
        it counts as encoded, not as found in the cache.
        """
        for image in images:
            with self._lock:
                if lot != self._lot:  # what nobody asked for of an earlier lot has had its time
                    self._lot, self._ahead = lot, set()
                key = "" if image_problem(image) is not None else self._key(image)
                if not key or key in self.memory:
                    continue
                # Embeddings of one segmenter are about equal in size: one more like the largest must fit.
                sizes = [self.memory.bytes_of(other) for other in self._ahead]
                if sizes and sum(sizes) + max(sizes) > self.memory.budget_bytes:
                    return
                self._embed([image])
                if key in self.memory:
                    self._ahead.add(key)

    def close(self) -> None:
        """End encoding ahead; embeddings go with the object."""
        self._prefetcher.close()

    def _decode(
        self, embeddings: Sequence[Embedding], requests: Sequence[SegmentRequest], keep: dict[str, bool]
    ) -> list[Segmentation | ExecutorFailure]:
        """Decode; where memory runs out in a segmenter that does not halve its work itself, halve it here."""
        masks = [request.mask_prompt for request in requests]
        before = self.segmenter.out_of_memory
        try:
            decoded = self.segmenter.decode(
                embeddings,
                [request.prompts for request in requests],
                mask_prompts=None if all(mask is None for mask in masks) else masks,
                **keep,
            )
        except SERVING_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            failure = f"the segmenter failed: {type(error).__name__}: {error}"
        else:
            self.counters.out_of_memory += self.segmenter.out_of_memory - before
            return decoded
        self._ran_out_of_memory()
        if len(requests) == 1:
            return [ExecutorFailure(failure)]
        middle = len(requests) // 2
        return [
            result
            for part in (slice(None, middle), slice(middle, None))
            for result in self._decode(embeddings[part], requests[part], keep)
        ]

    def _ran_out_of_memory(self) -> None:
        release_memory()
        self.counters.out_of_memory += 1

    def _count(
        self, requests: Sequence[SegmentRequest], results: Sequence[Segmentation | ExecutorFailure]
    ) -> None:
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, ExecutorFailure):
                self.counters.failures += 1
            else:
                self.counters.decodes += 1
                self.counters.instances += len(request.prompts)

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
            keys.append(self._key(image))
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

    def _key(self, image: RGB) -> str:
        return f"{self.segmenter.fingerprint}/{self.storage}/{content_hash(image)}"

    def _recall(self, key: str) -> StoredEmbedding | None:
        """Find an embedding in memory, else on disk, and count where."""
        stored = self.memory.get(key)
        if stored is not None:
            if key in self._ahead:
                self._ahead.remove(key)
            else:
                self.counters.cache_hits_memory += 1
            return stored
        self._ahead.discard(key)  # dropped again before it was asked for
        if self.disk is None:
            return None
        dropped = self.disk.dropped
        stored = self.disk.get(key, getattr(self.segmenter, "device", None))
        self.counters.cache_dropped += self.disk.dropped - dropped
        if stored is not None:
            self.counters.cache_hits_disk += 1
            self.memory.put(key, stored)
        return stored

    def _encode(self, images: Sequence[RGB]) -> list[Embedding | ExecutorFailure]:
        """Encode a batch; if that fails, image by image, so that only the culprit fails."""
        try:
            embeddings: list[Embedding | ExecutorFailure] = list(self.segmenter.encode(images))
        except SERVING_ERRORS as error:
            failure = f"the image could not be encoded: {type(error).__name__}: {error}"
            out_of_memory = is_out_of_memory(error)
        else:
            self.counters.encodes += len(images)
            return embeddings
        if out_of_memory:
            self._ran_out_of_memory()
        if len(images) == 1:
            return [ExecutorFailure(failure)]
        return [result for image in images for result in self._encode([image])]
