"""One question about one image, with its target: what every dataset gives and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.masks import RLE, Mask, decode_rle

RGB = NDArray[np.uint8]
"""An image: [height, width, 3], uint8, RGB."""


@dataclass(frozen=True)
class Scene:
    """The larger image that a sample's image was cut from.

    A segmenter encodes it once for all that was cut from it, and sees what lies around.

    Args:
        image_id: names it within (dataset, split), as no sample's image is named.
        load_image: as `Sample.load_image`, of the whole.
        corner_xy: (x, y) in its pixels of the sample's upper left pixel.
    """

    image_id: str
    load_image: Callable[[], Image.Image] = field(repr=False, compare=False)
    corner_xy: tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """One query on one image.

    Args:
        sample_id: unique within (dataset, split); stable across runs and machines.
        dataset, split: where it comes from.
        image_id: names the image within (dataset, split); samples of one image share it.
        image_wh: (width, height) in pixels of the original image.
        load_image: returns the image as a PIL RGB image of `image_wh`; called lazily, so that
            a dataset of any length is never held in memory. Must be picklable, and may be called on
            several threads at once.
        query: the question put to the policy.
        target: union of all target masks (RLE, image frame); an all-zero mask means "no target";
            None for sets that give boxes only.
        instances: one RLE per target object, when the set tells objects apart; else empty.
        ignore: pixels that no metric counts, or None.
        boxes: one XYXY half-open box per target, for box-only sets; else empty.
        tags: breakdown keys such as {"granularity": "part", "multiplicity": "several"}.
        scene: what a segmenter encodes in place of the image; None is the image itself. Prompts and masks
            stay in the image's frame (`envs.segmenting`).
    """

    sample_id: str
    dataset: str
    split: str
    image_id: str
    image_wh: tuple[int, int]
    load_image: Callable[[], Image.Image] = field(repr=False, compare=False)
    query: str
    target: RLE | None = field(repr=False)
    instances: tuple[RLE, ...] = field(default=(), repr=False)
    ignore: RLE | None = field(default=None, repr=False)
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    scene: Scene | None = None

    @property
    def mask_hw(self) -> tuple[int, int]:
        """(height, width) of every mask."""
        return (self.image_wh[1], self.image_wh[0])

    def image_array(self) -> RGB:
        """Load the image as a contiguous array [height, width, 3], uint8, RGB."""
        return as_rgb(self.load_image())

    def target_mask(self) -> Mask:
        """Decode the target to a bool mask [height, width].

        Raises:
            ValueError: if this sample has boxes only.
        """
        if self.target is None:
            raise ValueError(f"sample {self.sample_id!r} of {self.dataset} has boxes, not a mask")
        return decode_rle(self.target, self.mask_hw)

    def instance_masks(self) -> list[Mask]:
        """Decode each target object to a bool mask [height, width]; empty if not told apart."""
        return [decode_rle(rle, self.mask_hw) for rle in self.instances]


def full_name(dataset: str, split: str, name: str) -> str:
    """Identity of an image, or of a question, across datasets and splits."""
    return f"{dataset}/{split}/{name}"


def as_rgb(image: Image.Image) -> RGB:
    """An image as a contiguous array [height, width, 3], uint8, RGB."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


@runtime_checkable
class SampleSource(Protocol):
    """What `envs.datasets.open_dataset` returns: sized, indexable and iterable, lazily loaded."""

    name: str
    split: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...


class FirstSamples:
    """The first samples of a source, as a source. See `first_samples`."""

    def __init__(self, source: SampleSource, count: int) -> None:
        self.name, self.split = source.name, source.split
        self._source, self._count = source, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._count:
            raise IndexError(f"there are {self._count} samples, but number {index} was asked for")
        return self._source[index]

    def __iter__(self) -> Iterator[Sample]:
        return (self._source[index] for index in range(self._count))


def first_samples(source: SampleSource, count: int | None) -> SampleSource:
    """A source cut to its first `count` samples; the source itself if `count` is None or no less."""
    return source if count is None or count >= len(source) else FirstSamples(source, count)


def content_hash(image: RGB) -> str:
    """Hex key of an image's pixels and shape; the identity under which embeddings are cached."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
