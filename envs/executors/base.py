"""The contract of every frozen segmenter: encode an image once, decode any number of prompts.

All results are in the image frame. Nothing here is trained: no parameter requires grad, the
modules are in eval mode, and the same input gives bitwise the same output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask
from envs.sample import RGB
from prompter.types import PromptSet

SERVING_ERRORS = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError)
"""What a segmenter may raise on one sample. Such a sample fails alone, as a value."""


@dataclass(frozen=True)
class Embedding:
    """What an executor keeps of one image.

    Args:
        tensors: named arrays (a segmenter's own layout; no batch axis), float16/float32/bfloat16
            torch tensors or NumPy arrays.
        image_wh: (width, height) in pixels of the original image.
        input_hw: (height, width) of the resized image inside the segmenter's padded input.
    """

    tensors: dict[str, Any] = field(repr=False)
    image_wh: tuple[int, int]
    input_hw: tuple[int, int]


@dataclass(frozen=True)
class Segmentation:
    """The answer to one `PromptSet`: the union of its instances' masks.

    Args:
        mask: union of all instance masks, bool [height, width], image frame. All False for an
            empty prompt set.
        predicted_ious: float32 [instances], the segmenter's own estimate per instance.
        stability: float32 [instances], IoU between the mask at threshold +1 and -1 logits, as
            `segment_anything`'s automatic mask generator computes it.
        low_res_logits: float32 [instances, 256, 256] logits in the segmenter's padded frame, for
            re-feeding as a mask prompt; None unless asked for.
        instance_masks: one bool mask [height, width] per instance; None unless asked for.
    """

    mask: Mask = field(repr=False)
    predicted_ious: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    stability: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    low_res_logits: NDArray[np.float32] | None = field(default=None, repr=False)
    instance_masks: tuple[Mask, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SegmentRequest:
    """One prompt set on one image, as an executor takes it.

    Args:
        image: [height, width, 3] uint8 RGB.
        prompts: image frame.
        image_key: identity of the image within a call, equal exactly when the images are; "" tells
            images apart by array object. What is cached is found by content.
        mask_prompt: `low_res_logits` [instances, 256, 256] of an earlier turn, to be refined; or None.
    """

    image: RGB = field(repr=False)
    prompts: PromptSet
    image_key: str = ""
    mask_prompt: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ExecutorFailure:
    """One sample that the executor could not serve. It scores None, never 0.

    Args:
        message: one sentence with the cause.
        retryable: whether another actor may succeed (a crash, a timeout) or not (bad image).
    """

    message: str
    retryable: bool = True


class Segmenter(ABC):
    """A frozen segmenter.

    `fingerprint` identifies model, weights and preprocessing; embeddings are cached under
    (fingerprint, image content).
    """

    fingerprint: str

    @property
    def out_of_memory(self) -> int:
        """How often memory ran out while decoding, and the work was halved; 0 where it does not do that."""
        return 0

    @abstractmethod
    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        """Encode images (each [height, width, 3] uint8 RGB, any sizes) into embeddings, in order."""

    @abstractmethod
    def decode(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[PromptSet],
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """Decode one prompt set per embedding (a ragged batch), in order.

        The same `Embedding` object may appear many times (a group's completions share an image);
        implementations batch across all instances of all prompt sets. A prompt set that cannot be
        served comes back as an `ExecutorFailure` and leaves the others untouched.

        Args:
            embeddings: from `encode`.
            prompts: one prompt set per embedding.
            mask_prompts: for each prompt set None, or the `low_res_logits` [instances, 256, 256] of
                an earlier turn, to be refined. Segmenters that take no mask ignore them.
            keep_instances, keep_logits: fill `instance_masks`, `low_res_logits` of the results.

        Raises:
            ValueError: if `embeddings` and `prompts` differ in length.
        """


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
        out_of_memory: times that memory ran out, after which the work was halved and tried again.
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
    out_of_memory: int = 0
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


def by_image(requests: Sequence[SegmentRequest]) -> list[tuple[RGB, list[int]]]:
    """Tell the images of a call apart without comparing pixels.

    Returns:
        Each distinct image with the numbers of its requests, in the order of first mention.
    """
    found: dict[object, tuple[RGB, list[int]]] = {}
    for index, request in enumerate(requests):
        key: object = request.image_key or id(request.image)
        found.setdefault(key, (request.image, []))[1].append(index)
    return list(found.values())


class Executor(ABC):
    """What executes prompt sets: a `Segmenter` with its cache, in this process or in Ray actors.

    Nothing `segment` is given makes it raise for one sample: an image that cannot be encoded and a
    prompt set that cannot be decoded come back as `ExecutorFailure`. All executors of one config
    give identical results.

    `name` is for tables and rollouts; `counters` say what was done since it was opened.
    """

    name: str
    counters: ExecutorCounters

    @abstractmethod
    def segment(
        self,
        requests: Sequence[SegmentRequest],
        *,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """Return one result per request, in order.

        An image may be asked about many times, and is encoded and looked up once; one that is given
        only empty prompt sets is not encoded.

        Args:
            requests: what to segment.
            keep_instances, keep_logits: as in `Segmenter.decode`.
        """

    def prefetch(self, images: Iterable[RGB]) -> None:
        """Begin to encode images that `segment` will be asked about soon, and return at once.

        Results of `segment` stay the same, which waits for what was begun. What cannot be encoded fails
        there as it would have, and so does what keeps the executor from encoding at all. No more images
        are encoded ahead than its cache keeps. An executor that cannot work ahead does nothing.

        Args:
            images: read one after the other while they are encoded, on another thread.
        """

    def take_prefetch_spans(self) -> list[tuple[float, float]]:
        """Begin and end (`time.perf_counter`) of each `prefetch` that ended since the last call."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Release what is held. Safe to call twice."""
