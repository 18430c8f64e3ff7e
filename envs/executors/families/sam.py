"""SAM ViT-B, ViT-L and ViT-H through the `segment_anything` package.

Kirillov et al., "Segment Anything" (arXiv 2304.02643). `model` is a `.pth` checkpoint in the
package's format ("owner/name:file.pth" on a hub); its architecture is read off its tensors, so that
fine-tuned and smaller variants load as well. MobileSAM has the same shape with another image encoder
and is put together by `compose_sam` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor

from envs.executors.base import Embedding
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.folded_attention import ImageSide
from envs.executors.decoding.package_prompts import PackagePrompts
from envs.executors.decoding.promptable import (
    Geometry,
    ImageEncoder,
    PromptableSegmenter,
    freeze,
    point_arrays,
    resolve_device,
)
from envs.executors.families.preprocessing import PADDING, SAM_SIDE, pad, resized_hw
from envs.executors.families.weights import fingerprint, load_state_dict, load_strictly, local_path
from envs.sample import RGB
from prompter.errors import UserError
from prompter.types import Instance

CHANNELS = 256
"""Channels of the image embedding and of the decoder."""


def build_prompt_modules(side: int = SAM_SIDE, patch: int = 16) -> tuple[PromptEncoder, MaskDecoder]:
    """SAM's prompt encoder and mask decoder as the package builds them, with fresh weights."""
    grid = (side // patch, side // patch)
    prompt_encoder = PromptEncoder(
        embed_dim=CHANNELS, image_embedding_size=grid, input_image_size=(side, side), mask_in_chans=16
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8),
        transformer_dim=CHANNELS,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return prompt_encoder, mask_decoder


class SamEncoder(ImageEncoder):
    """SAM's preprocessing and an image encoder.

    Embeddings have one tensor, "image", [256, side / 16, side / 16], on the device.

    Args:
        image_encoder: [B, 3, side, side] -> [B, 256, side / 16, side / 16].
        side: of its square input, in pixels.
        config: device, dtype and batch size are read.
    """

    def __init__(self, image_encoder: torch.nn.Module, side: int, config: ExecutorConfig) -> None:
        self.device, self.dtype = resolve_device(config.device), getattr(torch, config.dtype)
        self.side, self.batch = side, config.encode_batch
        self.image_encoder = freeze(image_encoder).to(self.device, self.dtype)
        self.modules = (self.image_encoder,)

    def encode_batch(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `ImageEncoder.encode_batch`."""
        batch = torch.stack([pad(image, self.side) for image in images]).to(self.device, self.dtype)
        features = self.image_encoder(batch.contiguous(memory_format=torch.channels_last))
        embeddings = []
        for image, feature in zip(images, features, strict=True):
            wh = (image.shape[1], image.shape[0])
            tensors = {"image": feature.clone(memory_format=torch.contiguous_format)}
            embeddings.append(Embedding(tensors, wh, resized_hw(wh, self.side)))
        return embeddings


class SamPrompts(PackagePrompts):
    """SAM's prompts and masks, whatever encodes its images."""

    def geometry(self, embedding: Embedding) -> Geometry:
        """Logits of a quarter of the padded input's resolution, over all of it."""
        return Geometry(self.low_res, (self.side, self.side), embedding.input_hw)

    def image_side(self, embedding: Embedding) -> ImageSide:
        """See `PackagePrompts.image_side`."""
        return self.sam_decoder.prepare(embedding.tensors["image"])

    def prompt_tokens(self, embedding: Embedding, instances: Sequence[Instance]) -> Tensor:
        """As in `SamPredictor`: a box is two corner points, points without a box get a padding point."""
        width, height = embedding.image_wh
        scale = torch.tensor(
            [embedding.input_hw[1] / width, embedding.input_hw[0] / height], dtype=torch.float64
        )
        arrays = [point_arrays(instance) for instance in instances]
        given = [instance.box for instance in instances if instance.box is not None]
        points = boxes = None
        if arrays[0][0]:
            coordinates = torch.tensor([places for places, _ in arrays], dtype=torch.float64) * scale
            labels = torch.tensor([labels for _, labels in arrays])
            points = (coordinates.float().to(self.device), labels.to(self.device))
        if given:
            corners = torch.tensor(given, dtype=torch.float64) * scale.repeat(2)
            boxes = corners.float().to(self.device)
        sparse, _ = self.prompt_encoder(points, boxes, None)
        return sparse

    def decode_with_mask(self, embedding: Embedding, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `PackagePrompts.decode_with_mask`."""
        _, dense = self.prompt_encoder(None, None, mask)
        low_res, ious = self.mask_decoder(
            image_embeddings=embedding.tensors["image"][None].to(self.device, self.dtype),
            image_pe=self.prompt_encoder.get_dense_pe().to(self.dtype),
            sparse_prompt_embeddings=tokens.to(self.dtype),
            dense_prompt_embeddings=dense.to(self.dtype),
            multimask_output=self.sam_decoder.multimask == "best",
        )
        return self.choose(low_res, ious)


def compose_sam(
    image_encoder: torch.nn.Module,
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    config: ExecutorConfig,
    identity: str,
) -> PromptableSegmenter:
    """A segmenter of SAM's three parts, as `segment_anything` builds them; any image encoder of that shape.

    Args:
        image_encoder: see `SamEncoder`.
        prompt_encoder, mask_decoder: the package's modules.
        config: device, dtype, multimask policy, threshold and batch size are read.
        identity: the fingerprint under which embeddings are kept.
    """
    decoder = SamPrompts(prompt_encoder, mask_decoder, config)
    encoder = SamEncoder(image_encoder, decoder.side, config)
    return PromptableSegmenter(encoder, decoder, fingerprint=identity, mask_threshold=config.mask_threshold)


def build_image_encoder(state: Mapping[str, Tensor]) -> ImageEncoderViT:
    """SAM's ViT with fresh weights, of the architecture that a checkpoint's tensors show.

    Raises:
        KeyError: if the tensors are not those of such an encoder.
    """
    encoder = {
        name.removeprefix("image_encoder."): tensor
        for name, tensor in state.items()
        if name.startswith("image_encoder.")
    }
    width, _, patch, _ = encoder["patch_embed.proj.weight"].shape
    grid = encoder["pos_embed"].shape[1]
    depth = 1 + max(int(name.split(".")[1]) for name in encoder if name.startswith("blocks."))
    # A block's table of relative positions has 2 n - 1 rows for windows of n x n tokens.
    sides = [(encoder[f"blocks.{i}.attn.rel_pos_h"].shape[0] + 1) // 2 for i in range(depth)]
    head_dim = encoder["blocks.0.attn.rel_pos_h"].shape[1]
    windows = {side for side in sides if side != grid}
    return ImageEncoderViT(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // head_dim,
        mlp_ratio=encoder["blocks.0.mlp.lin1.weight"].shape[0] / width,
        out_chans=encoder["neck.0.weight"].shape[0],
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=tuple(i for i, side in enumerate(sides) if side == grid),
        window_size=windows.pop() if windows else 0,
    )


def build_modules(state: Mapping[str, Tensor]) -> torch.nn.ModuleDict:
    """SAM with fresh weights, of a checkpoint's architecture and under its parameter names.

    Raises:
        KeyError: if the tensors are not SAM's.
    """
    image_encoder = build_image_encoder(state)
    patch = image_encoder.patch_embed.proj.kernel_size[0]
    prompt_encoder, mask_decoder = build_prompt_modules(image_encoder.img_size, patch)
    return torch.nn.ModuleDict(
        {"image_encoder": image_encoder, "prompt_encoder": prompt_encoder, "mask_decoder": mask_decoder}
    )


def build_segment_anything(config: ExecutorConfig) -> PromptableSegmenter:
    """Build SAM from a `.pth` checkpoint.

    Raises:
        UserError: if the file is missing or is no such checkpoint.
    """
    path: Path = local_path(config, "a SAM checkpoint (.pth)")
    if path.is_dir():
        raise UserError(
            f"executor model {config.model!r} is a folder, but a SAM checkpoint (.pth) was expected."
        )
    state = load_state_dict(path)
    try:
        modules = build_modules(state)
    except (KeyError, ValueError, IndexError):
        raise UserError(f"{path} is no checkpoint of SAM ViT-B, ViT-L or ViT-H.") from None
    load_strictly(modules, state, path, "SAM")
    parts = (modules["image_encoder"], modules["prompt_encoder"], modules["mask_decoder"])
    return compose_sam(*parts, config, fingerprint(config, path, preprocessing=PADDING))
