"""A segmenter of the SAM family is an image encoder and a prompt decoder.

An `ImageEncoder` turns images into embeddings, a `PromptDecoder` one embedding and several instances into
low-resolution logits; a family is a file that builds one of each. `PromptableSegmenter` puts them together
and holds what a prompt set goes through on either side: ragged batches, deduplication, masks, failures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.executors.base import SERVING_ERRORS, Embedding, ExecutorFailure, Segmentation, Segmenter
from envs.executors.decoding.memory import MemoryWatch, is_out_of_memory
from envs.executors.decoding.threads import parallel_map
from envs.executors.decoding.upsample import mask_upsampler
from envs.masks import Mask
from envs.sample import RGB
from prompter.runs.memory import keep_freed_memory
from prompter.types import Instance, PromptSet

FULL_MASK_BYTES = 256_000_000
"""Bound on the instance masks of one image that are held at full resolution at once."""

IMAGES_PER_THREAD = 2
"""Images at which threads take an image each. Fewer would leave some without work at the end."""


@dataclass(frozen=True)
class Geometry:
    """How a segmenter's logits lie on the image.

    Args:
        low_hw: (height, width) of the logits.
        padded_hw: (height, width) of the input they cover.
        used_hw: (height, width) of the part of that input that holds the image.
    """

    low_hw: tuple[int, int]
    padded_hw: tuple[int, int]
    used_hw: tuple[int, int]


class ImageEncoder(ABC):
    """Images to embeddings, `batch` at a time. `modules` are its parts with weights, frozen."""

    batch = 1
    modules: tuple[nn.Module, ...] = ()

    @torch.inference_mode()
    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `Segmenter.encode`."""
        parts = (images[start : start + self.batch] for start in range(0, len(images), self.batch))
        return [embedding for part in parts for embedding in self.encode_batch(part)]

    @abstractmethod
    def encode_batch(self, images: Sequence[RGB]) -> list[Embedding]:
        """Embeddings of 1 to `batch` images ([height, width, 3] uint8 RGB, any sizes), in order."""


class PromptDecoder(ABC):
    """An embedding and instances to low-resolution logits.

    `device` is where it computes, `modules` are its parts with weights, frozen; `thread_safe` says whether
    `decode_image` may run in several threads at once.
    """

    device: torch.device
    modules: tuple[nn.Module, ...] = ()
    thread_safe = False

    @abstractmethod
    def geometry(self, embedding: Embedding) -> Geometry:
        """How the logits for this image lie on it."""

    @abstractmethod
    def decode_image(
        self,
        embedding: Embedding,
        instances: Sequence[Instance],
        mask_prompts: Sequence[NDArray[np.float32] | None],
    ) -> tuple[Tensor, Tensor]:
        """Decode instances on one image.

        Args:
            embedding: from `encode`.
            instances: at least one, no two alike unless their mask prompts differ.
            mask_prompts: for each instance low-resolution logits of an earlier turn, or None.

        Returns:
            float32 logits [instances, h, w] and predicted IoU [instances], on any device.
        """


class PromptableSegmenter(Segmenter):
    """An image encoder and a prompt decoder behind the contract of `Segmenter`.

    Args:
        encoder, decoder: the two, made for each other: the decoder reads the encoder's embeddings.
        fingerprint: identifies the encoder's weights and preprocessing.
        mask_threshold: a pixel is foreground where its logit is greater.
    """

    def __init__(
        self, encoder: ImageEncoder, decoder: PromptDecoder, *, fingerprint: str, mask_threshold: float
    ) -> None:
        self.encoder, self.decoder = encoder, decoder
        self.fingerprint, self.mask_threshold = fingerprint, mask_threshold
        self.device = decoder.device
        self.modules = nn.ModuleList([*encoder.modules, *decoder.modules]).eval()
        self._memory = MemoryWatch()
        if self.device.type == "cpu":
            keep_freed_memory()

    @property
    def out_of_memory(self) -> int:
        """See `Segmenter.out_of_memory`."""
        return self._memory.times

    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `Segmenter.encode`."""
        return self.encoder.encode(images)

    def decode(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[PromptSet],
        *,
        mask_prompts: Sequence[NDArray[np.float32] | None] | None = None,
        keep_instances: bool = False,
        keep_logits: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        """See `Segmenter.decode`. Prompt sets on one `Embedding` object are decoded together."""
        if len(embeddings) != len(prompts):
            raise ValueError(f"got {len(embeddings)} embeddings, but {len(prompts)} prompt sets")
        if mask_prompts is not None and len(mask_prompts) != len(prompts):
            raise ValueError(f"got {len(mask_prompts)} mask prompts, but {len(prompts)} prompt sets")
        groups: dict[int, list[int]] = {}
        for index, embedding in enumerate(embeddings):
            groups.setdefault(id(embedding), []).append(index)
        keep = (keep_instances, keep_logits)

        def decode_group(indices: list[int]) -> list[Segmentation | ExecutorFailure]:
            sets = [prompts[i] for i in indices]
            masks = [None if mask_prompts is None else mask_prompts[i] for i in indices]
            return self._decode_group(embeddings[indices[0]], sets, masks, keep)

        # The most work first, so that threads end together.
        images = sorted(groups.values(), key=lambda indices: -sum(len(prompts[i]) for i in indices))
        many = len(images) >= IMAGES_PER_THREAD * torch.get_num_threads()
        if self.decoder.thread_safe and self.device.type == "cpu" and many:
            decoded = parallel_map(decode_group, images)
        else:
            decoded = [decode_group(indices) for indices in images]
        results = {
            index: result
            for indices, group in zip(images, decoded, strict=True)
            for index, result in zip(indices, group, strict=True)
        }
        return [results[index] for index in range(len(prompts))]

    def _decode_group(
        self,
        embedding: Embedding,
        sets: Sequence[PromptSet],
        mask_prompts: Sequence[NDArray[np.float32] | None],
        keep: tuple[bool, bool],
    ) -> list[Segmentation | ExecutorFailure]:
        """Decode the prompt sets of one image; if that fails, one by one, so that only the culprit fails.

        Where memory ran out, the two halves instead, and so on.
        """
        try:
            return self._decode_sets(embedding, sets, mask_prompts, keep)
        except SERVING_ERRORS as error:
            failure = f"the segmenter failed: {type(error).__name__}: {error}"
            out_of_memory = is_out_of_memory(error)
        if out_of_memory:
            self._memory.ran_out()
        if len(sets) == 1:
            return [ExecutorFailure(failure)]
        size = (len(sets) + 1) // 2 if out_of_memory else 1
        parts = (slice(start, start + size) for start in range(0, len(sets), size))
        return [
            result
            for part in parts
            for result in self._decode_group(embedding, sets[part], mask_prompts[part], keep)
        ]

    def _decode_instances(
        self,
        embedding: Embedding,
        instances: Sequence[Instance],
        masks: Sequence[NDArray[np.float32] | None],
    ) -> tuple[Tensor, Tensor]:
        """As `PromptDecoder.decode_image`; where memory runs out, in two halves, down to one instance."""
        try:
            return self.decoder.decode_image(embedding, instances, masks)
        except SERVING_ERRORS as error:
            if len(instances) == 1 or not is_out_of_memory(error):
                raise
        self._memory.ran_out()
        middle = len(instances) // 2
        halves = [
            self._decode_instances(embedding, instances[part], masks[part])
            for part in (slice(None, middle), slice(middle, None))
        ]
        logits, ious = zip(*halves, strict=True)
        return torch.cat(logits), torch.cat(ious)

    @torch.inference_mode()
    def _decode_sets(
        self,
        embedding: Embedding,
        sets: Sequence[PromptSet],
        mask_prompts: Sequence[NDArray[np.float32] | None],
        keep: tuple[bool, bool],
    ) -> list[Segmentation | ExecutorFailure]:
        # Completions of one group often agree, so an instance is decoded once per image. A mask prompt is not
        # compared: it makes its instance a case of its own.
        rows: list[list[int]] = []
        unique: dict[object, int] = {}
        instances: list[Instance] = []
        masks: list[NDArray[np.float32] | None] = []
        for number, (prompt_set, given) in enumerate(zip(sets, mask_prompts, strict=True)):
            if given is not None and len(given) != len(prompt_set):
                raise ValueError(f"got {len(given)} mask prompts for {len(prompt_set)} instances")
            mine = []
            for i, instance in enumerate(prompt_set.instances):
                key = instance if given is None else (number, i)
                if key not in unique:
                    unique[key] = len(instances)
                    instances.append(instance)
                    masks.append(None if given is None else given[i])
                mine.append(unique[key])
            rows.append(mine)
        width, height = embedding.image_wh
        if not instances:
            return [_empty_segmentation((height, width), keep) for _ in sets]
        logits, ious = self._decode_instances(embedding, instances, masks)
        return self._assemble(embedding, rows, logits, ious, keep)

    def _assemble(
        self,
        embedding: Embedding,
        rows: list[list[int]],
        logits: Tensor,
        ious: Tensor,
        keep: tuple[bool, bool],
    ) -> list[Segmentation | ExecutorFailure]:
        """Unite the masks of each prompt set; `rows` holds its instances' places in `logits`."""
        width, height = embedding.image_wh
        geometry = self.decoder.geometry(embedding)
        upsampler = mask_upsampler(
            geometry.low_hw, geometry.padded_hw, geometry.used_hw, (height, width), logits.device
        )
        # A sum is finite only where all its terms are, and takes one pass.
        finite = torch.isfinite(logits.sum(dim=(1, 2))).tolist()
        users: list[list[int]] = [[] for _ in range(len(logits))]
        for number, mine in enumerate(rows):
            for i in mine:
                users[i].append(number)
        unions: list[Tensor | None] = [None] * len(rows)
        stability = torch.empty(len(logits), device=logits.device)
        kept: dict[int, Mask] = {}
        # Full masks exist for a few instances at a time: an 8,000-pixel image has 64 MB of them each.
        step = max(1, FULL_MASK_BYTES // (height * width))
        for start in range(0, len(logits), step):
            part = slice(start, start + step)
            full, stability[part] = upsampler.masks(logits[part], self.mask_threshold)
            for i, mask in enumerate(full, start=start):
                for number in users[i]:
                    union = unions[number]
                    unions[number] = mask.clone() if union is None else union.logical_or_(mask)
                if keep[0]:
                    kept[i] = mask.cpu().numpy().copy()
        predicted = ious.float().cpu().numpy()
        stable = stability.cpu().numpy()
        low_res = logits.cpu().numpy() if keep[1] else None
        results: list[Segmentation | ExecutorFailure] = []
        for mine, union in zip(rows, unions, strict=True):
            if union is None:
                results.append(_empty_segmentation((height, width), keep))
            elif not all(finite[i] for i in mine):
                results.append(
                    ExecutorFailure("the segmenter gave logits that are not finite", retryable=False)
                )
            else:
                results.append(
                    Segmentation(
                        mask=union.cpu().numpy(),
                        predicted_ious=predicted[mine],
                        stability=stable[mine],
                        low_res_logits=None if low_res is None else low_res[mine],
                        instance_masks=tuple(kept[i] for i in mine) if keep[0] else None,
                    )
                )
        return results


def _empty_segmentation(hw: tuple[int, int], keep: tuple[bool, bool]) -> Segmentation:
    """The answer "no target" on an image of (height, width)."""
    return Segmentation(
        mask=np.zeros(hw, dtype=np.bool_),
        low_res_logits=np.zeros((0, 0, 0), np.float32) if keep[1] else None,
        instance_masks=() if keep[0] else None,
    )


def point_arrays(instance: Instance) -> tuple[list[tuple[float, float]], list[int]]:
    """Points of an instance in the image frame, and their labels: 1 on the object, 0 off it."""
    points = [*instance.positive_points, *instance.negative_points]
    return points, [1] * len(instance.positive_points) + [0] * len(instance.negative_points)


def resolve_device(name: str) -> torch.device:
    """The torch device a config names; "auto" is CUDA if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def faster_dtype(device: str) -> str:
    """Name of the faster type that a device computes in: "bfloat16" where it has instructions for it."""
    if resolve_device(device).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def in_bfloat16(setting: bool | Literal["auto"]) -> bool:
    """Whether training multiplies in bfloat16; "auto" is where the device has instructions for it."""
    return faster_dtype("auto") == "bfloat16" if setting == "auto" else setting


def freeze(module: nn.Module) -> nn.Module:
    """Put a module into eval mode without any parameter that requires grad; returns it."""
    return module.eval().requires_grad_(False)
