"""SAM ViT-B, ViT-L and ViT-H through the `segment_anything` package.

Kirillov et al., "Segment Anything" (arXiv 2304.02643). `model` is a `.pth` checkpoint in the
package's format ("owner/name:file.pth" on a hub); the size is read off its tensors. The image
encoder and the prompt encoder are the package's; the mask decoder's weights run through
`SamDecoder`. MobileSAM has the same shape with another encoder and derives from this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor

from envs.executors.base import Embedding
from envs.executors.config import ExecutorConfig
from envs.executors.promptable import Geometry, PromptableExecutor, freeze, point_arrays, resolve_device
from envs.executors.sam_decode import SamDecoder
from envs.executors.weights import fingerprint, load_state_dict, load_strictly, local_path
from envs.sample import RGB
from prompter.errors import UserError
from prompter.types import Instance

SIDE = 1024
"""Side of the padded input, for all published weights."""

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet mean and standard deviation of RGB in 0 to 255, as SAM was trained."""

PREPROCESSING = "longest side 1024, PIL bilinear, ImageNet normalised, zero padded right and below; v1"


def build_prompt_modules(image_embedding_side: int = SIDE // 16) -> tuple[PromptEncoder, MaskDecoder]:
    """SAM's prompt encoder and mask decoder as the package builds them, with fresh weights."""
    grid = (image_embedding_side, image_embedding_side)
    prompt_encoder = PromptEncoder(
        embed_dim=256, image_embedding_size=grid, input_image_size=(SIDE, SIDE), mask_in_chans=16
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        transformer_dim=256,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return prompt_encoder, mask_decoder


def resized_size(image_size: tuple[int, int], side: int = SIDE) -> tuple[int, int]:
    """(height, width) of an image of (width, height) once its longest side is `side`.

    As `segment_anything.utils.transforms.ResizeLongestSide`, but never below one pixel.
    """
    width, height = image_size
    scale = side / max(width, height)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def preprocess(image: RGB, side: int = SIDE) -> Tensor:
    """Image [height, width, 3] uint8 RGB -> float32 [3, side, side], resized, normalised, zero padded."""
    height, width = resized_size((image.shape[1], image.shape[0]), side)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    mean, std = np.float32(PIXEL_MEAN), np.float32(PIXEL_STD)
    padded = np.zeros((3, side, side), np.float32)
    padded[:, :height, :width] = ((resized - mean) / std).transpose(2, 0, 1)
    return torch.from_numpy(padded)


class SamExecutor(PromptableExecutor):
    """A segmenter with SAM's prompt encoder and mask decoder, and any image encoder.

    Args:
        image_encoder: [B, 3, 1024, 1024] -> [B, 256, 64, 64].
        prompt_encoder, mask_decoder: the `segment_anything` modules.
        config: device, dtype, multimask policy, threshold and batch size are read.
        identity: the fingerprint under which embeddings are kept.
    """

    def __init__(
        self,
        image_encoder: torch.nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        config: ExecutorConfig,
        identity: str,
    ) -> None:
        super().__init__(identity, resolve_device(config.device), config.mask_threshold)
        self.dtype = getattr(torch, config.dtype)
        self.encode_batch = config.encode_batch
        self.image_encoder = freeze(image_encoder).to(self.device, self.dtype)
        # Positions are encoded in float32 whatever the model's type: 1,024 pixels do not fit in bfloat16's 8 bits.
        self.prompt_encoder: Any = freeze(prompt_encoder).to(self.device)
        self.mask_decoder: Any = freeze(mask_decoder).to(self.device, self.dtype)
        self.decoder = SamDecoder(self.prompt_encoder, self.mask_decoder, config.multimask)

    @torch.inference_mode()
    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `Executor.encode`. The embedding's tensor is "image", [256, 64, 64], on the device."""
        embeddings = []
        for start in range(0, len(images), self.encode_batch):
            part = images[start : start + self.encode_batch]
            batch = torch.stack([preprocess(image) for image in part]).to(self.device, self.dtype)
            features = self.image_encoder(batch.contiguous(memory_format=torch.channels_last))
            for image, feature in zip(part, features, strict=True):
                size = (image.shape[1], image.shape[0])
                tensors = {"image": feature.contiguous().clone()}
                embeddings.append(Embedding(tensors, size, resized_size(size)))
        return embeddings

    def geometry(self, embedding: Embedding) -> Geometry:
        """Logits of 256 x 256 over the padded 1024 x 1024 input."""
        return Geometry((256, 256), (SIDE, SIDE), embedding.input_size)

    @torch.inference_mode()
    def decode_image(
        self,
        embedding: Embedding,
        instances: Sequence[Instance],
        mask_prompts: Sequence[NDArray[np.float32] | None],
    ) -> tuple[Tensor, Tensor]:
        """See `PromptableExecutor.decode_image`."""
        scale = _coordinate_scale(embedding)
        image = embedding.tensors["image"].to(self.device)
        logits = torch.empty((len(instances), 256, 256), device=self.device)
        ious = torch.empty(len(instances), device=self.device)
        # A padding token would change the attention, so prompts share a batch only if they have equally many tokens.
        buckets: dict[int, list[tuple[int, Tensor]]] = {}
        for index, instance in enumerate(instances):
            tokens = self._tokens(instance, scale)
            mask = mask_prompts[index]
            if mask is None:
                buckets.setdefault(tokens.shape[1], []).append((index, tokens))
            else:
                logits[index], ious[index] = self._decode_with_mask(image, tokens, mask)
        if buckets:
            side = self.decoder.prepare(image)
            for members in buckets.values():
                rows = [index for index, _ in members]
                logits[rows], ious[rows] = self.decoder.decode(side, torch.cat([t for _, t in members]))
        return logits, ious

    def _tokens(self, instance: Instance, scale: tuple[float, float]) -> Tensor:
        """Prompt tokens [1, P, 256] of one instance, by the package's own prompt encoder.

        As in `SamPredictor`, a box is two corner points, and points without a box get one padding point.
        """
        coordinates, labels = point_arrays(instance)
        points = boxes = None
        if coordinates:
            scaled = torch.tensor([[(x * scale[0], y * scale[1]) for x, y in coordinates]], device=self.device)
            points = (scaled, torch.tensor([labels], device=self.device))
        if instance.box is not None:
            x1, y1, x2, y2 = instance.box
            corners = [x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1]]
            boxes = torch.tensor([corners], device=self.device)
        sparse, _ = self.prompt_encoder(points, boxes, None)
        return sparse

    def _decode_with_mask(self, image: Tensor, tokens: Tensor, mask: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """One prompt with low-resolution logits [256, 256] of an earlier turn, through the package's decoder.

        A mask changes every image token, so nothing can be shared between prompts.
        """
        given = torch.as_tensor(mask, dtype=torch.float32, device=self.device)
        if given.shape != (256, 256):
            raise ValueError(f"a mask prompt must have shape [256, 256], but got {list(given.shape)}")
        _, dense = self.prompt_encoder(None, None, given[None, None])
        best = self.decoder.multimask == "best"
        low_res, ious = self.mask_decoder(
            image_embeddings=image[None].to(self.dtype),
            image_pe=self.prompt_encoder.get_dense_pe().to(self.dtype),
            sparse_prompt_embeddings=tokens.to(self.dtype),
            dense_prompt_embeddings=dense.to(self.dtype),
            multimask_output=best,
        )
        chosen = int(ious[0].argmax()) if best else 0
        return low_res[0, chosen].float(), ious[0, chosen].float()


def _coordinate_scale(embedding: Embedding) -> tuple[float, float]:
    """Factors from the image frame to the padded input, for x and y (they differ by rounding)."""
    width, height = embedding.image_size
    return embedding.input_size[1] / width, embedding.input_size[0] / height


def build_segment_anything(config: ExecutorConfig) -> SamExecutor:
    """Build SAM ViT-B/L/H from a `.pth` checkpoint.

    Raises:
        UserError: if the file is missing or is no such checkpoint.
    """
    from segment_anything import sam_model_registry

    path = local_path(config, "a SAM checkpoint (.pth)")
    if path.is_dir():
        raise UserError(f"executor model {config.model!r} is a folder, but a SAM checkpoint (.pth) was expected.")
    state = load_state_dict(path)
    widths = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
    patch = state.get("image_encoder.patch_embed.proj.weight")
    size = None if patch is None else widths.get(patch.shape[0])
    if size is None:
        raise UserError(f"{path} is no checkpoint of SAM ViT-B, ViT-L or ViT-H.")
    sam = sam_model_registry[size]()
    load_strictly(sam, state, path, f"SAM {size}")
    identity = fingerprint(config, path, preprocessing=PREPROCESSING)
    return SamExecutor(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, config, identity)
