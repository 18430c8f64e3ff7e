"""Prompts through the packages' own prompt encoders and `SamDecoder`: SAM, MobileSAM, the `sam2` package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.executors.base import Embedding
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.folded_attention import ImageSide
from envs.executors.decoding.promptable import PromptDecoder, freeze, point_arrays, resolve_device
from envs.executors.decoding.sam_decoder import SamDecoder
from prompter.types import Instance


class PackagePrompts(PromptDecoder):
    """A decoder with SAM's or SAM 2's own prompt encoder and mask decoder; what tells them apart is theirs.

    Args:
        prompt_encoder, mask_decoder: the package's modules.
        config: device, dtype and multimask policy are read.
    """

    thread_safe = True

    def __init__(self, prompt_encoder: Any, mask_decoder: Any, config: ExecutorConfig) -> None:
        self.device, self.dtype = resolve_device(config.device), getattr(torch, config.dtype)
        # Positions are encoded in float32 whatever the model's type: bfloat16's 8 bits hold no 1,024 pixels.
        self.prompt_encoder: Any = freeze(prompt_encoder).to(self.device)
        self.mask_decoder: Any = freeze(mask_decoder).to(self.device, self.dtype)
        self.modules = (self.prompt_encoder, self.mask_decoder)
        self.side = int(prompt_encoder.input_image_size[0])
        self.sam_decoder = SamDecoder(self.prompt_encoder, self.mask_decoder, config.multimask)
        height, width = self.sam_decoder.grid
        self.low_res = (4 * height, 4 * width)

    @abstractmethod
    def prompt_tokens(self, embedding: Embedding, instances: Sequence[Instance]) -> Tensor:
        """Prompt tokens [B, P, C] of instances, float32, by the package's own prompt encoder.

        Args:
            embedding: of their image.
            instances: all with a box or all without, with equally many points.
        """

    @abstractmethod
    def image_side(self, embedding: Embedding) -> ImageSide:
        """What all prompts of an image share."""

    @abstractmethod
    def decode_with_mask(self, embedding: Embedding, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one prompt with logits [1, 1, h, w] of an earlier turn, by the package's own decoder.

        A mask changes every image token, so that nothing can be shared between prompts.

        Returns:
            The chosen mask's logits [h, w] and predicted IoU [].
        """

    @torch.inference_mode()
    def decode_image(
        self,
        embedding: Embedding,
        instances: Sequence[Instance],
        mask_prompts: Sequence[NDArray[np.float32] | None],
    ) -> tuple[Tensor, Tensor]:
        """See `PromptDecoder.decode_image`."""
        logits = torch.empty((len(instances), *self.low_res), device=self.device)
        ious = torch.empty(len(instances), device=self.device)
        # A padding token would change the attention, so only prompts of equally many tokens share a batch.
        alike: dict[tuple[bool, int], list[int]] = {}
        for index, instance in enumerate(instances):
            points, _ = point_arrays(instance)
            alike.setdefault((instance.box is not None, len(points)), []).append(index)
        buckets: dict[int, list[tuple[int, Tensor]]] = {}
        for rows in alike.values():
            for index, tokens in zip(
                rows, self.prompt_tokens(embedding, [instances[i] for i in rows]), strict=True
            ):
                given = mask_prompts[index]
                if given is None:
                    buckets.setdefault(len(tokens), []).append((index, tokens))
                    continue
                mask = torch.as_tensor(given, dtype=torch.float32, device=self.device)
                if tuple(mask.shape) != self.low_res:
                    raise ValueError(
                        f"a mask prompt must have shape {list(self.low_res)}, but got {list(mask.shape)}"
                    )
                logits[index], ious[index] = self.decode_with_mask(embedding, tokens[None], mask[None, None])
        if buckets:
            side = self.image_side(embedding)
            for members in buckets.values():
                rows = [index for index, _ in members]
                logits[rows], ious[rows] = self.sam_decoder.decode(side, torch.stack([t for _, t in members]))
        return logits, ious

    def choose(self, low_res: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
        """The mask that the policy reads among a package decoder's [1, K, h, w] and [1, K], as float32."""
        chosen = int(ious[0].argmax()) if self.sam_decoder.multimask == "best" else 0
        return low_res[0, chosen].float(), ious[0, chosen].float()
