"""Mask2Former's pixel decoder and transformer decoder as a mask head, `[SEG]` embeddings in place of queries.

SegEarth-R2 puts them over a Swin-B. Here they stand over whatever frozen encoder the executor has: SAM 2's
three maps as they are, SAM's one map through a simple feature pyramid (Li et al., arXiv 2203.16527). Layers
are transformers' own; they start from random weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoder,
    Mask2FormerPixelDecoder,
    Mask2FormerSinePositionEmbedding,
)

from envs.executors.base import Embedding
from envs.executors.decoding.package_prompts import PackagePrompts
from envs.executors.decoding.promptable import Geometry
from envs.seg_token.heads import MaskHead, image_maps
from envs.seg_token.settings import Mask2FormerSettings

STRIDES = (4, 8, 16, 32)
"""Of the feature maps, in pixels of the encoder's input."""


class Mask2FormerHead(MaskHead):
    """Masks from a pixel decoder and a masked-attention decoder.

    Each embedding is decoded as if it were the only one: it attends to the image, not to other targets, so
    that a mask does not hang on what else is asked in the same batch. The loss is on the last layer's masks.

    Args:
        decoder: of the segmenter: how logits at a quarter of its input's side lie on an image.
        channels: of the segmenter's maps by name, "image" and, for SAM 2, "coarse" and "fine".
        settings: sizes.
    """

    def __init__(
        self, decoder: PackagePrompts, channels: dict[str, int], settings: Mask2FormerSettings
    ) -> None:
        super().__init__()
        self._decoder = decoder
        self.width = settings.width
        config = Mask2FormerConfig(
            feature_size=settings.width,
            mask_feature_size=settings.width,
            hidden_dim=settings.width,
            encoder_layers=settings.encoder_layers,
            decoder_layers=settings.decoder_layers + 1,  # transformers counts the prediction before the first
            num_attention_heads=settings.attention_heads,
            encoder_feedforward_dim=4 * settings.width,
            dim_feedforward=8 * settings.width,
            dropout=0.0,
            num_queries=1,
            feature_strides=list(STRIDES),
        )
        self.pyramid = nn.ModuleList() if "fine" in channels else _pyramid(channels["image"])
        image = channels["image"]
        maps = (
            [channels["fine"], channels["coarse"], image, image]
            if "fine" in channels
            else [image // 4, image // 2, image, image]
        )
        self.pixel_decoder = Mask2FormerPixelDecoder(config, maps)
        nn.init.normal_(self.pixel_decoder.level_embed, std=0.02)
        self.place = Mask2FormerSinePositionEmbedding(settings.width // 2, normalize=True)
        self.level_embed = nn.Embedding(self.pixel_decoder.num_feature_levels, settings.width)
        self.decoder = Mask2FormerMaskedAttentionDecoder(config)

    def geometry(self, embedding: Embedding) -> Geometry:
        """See `MaskHead.geometry`: as the segmenter's own logits lie."""
        return self._decoder.geometry(embedding)

    def forward(self, embedding: Embedding, prompts: Tensor) -> Tensor:
        """See `MaskHead.forward`."""
        decoded = self.pixel_decoder(self._features(embedding), return_dict=True)
        count = len(prompts)
        features, places, sizes = [], [], []
        for level, one in zip(self.level_embed.weight, decoded.multi_scale_features, strict=True):
            sizes.append(one.shape[-2:])
            place = self.place(one.shape, one.device, one.dtype)
            places.append(_tokens_first(place, count))
            features.append(_tokens_first(one, count) + level)
        found = self.decoder(
            inputs_embeds=prompts[None],  # one query; what Mask2Former calls a batch are the prompts
            multi_stage_positional_embeddings=places,
            pixel_embeddings=decoded.mask_features.expand(count, -1, -1, -1),
            encoder_hidden_states=features,
            query_position_embeddings=torch.zeros_like(prompts)[None],
            feature_size_list=sizes,
            return_dict=True,
        )
        masks: Tensor = found.masks_queries_logits[-1]
        return masks[:, 0]

    def _features(self, embedding: Embedding) -> list[Tensor]:
        """Maps [1, C, h, w] at `STRIDES`."""
        maps = image_maps(embedding, self.level_embed.weight)
        image = maps["image"]
        small = nn.functional.max_pool2d(image, 2)
        if len(self.pyramid):
            return [self.pyramid[0](image), self.pyramid[1](image), image, small]
        return [maps["fine"], maps["coarse"], image, small]


def _pyramid(channels: int) -> nn.ModuleList:
    """From a map at stride 16 to maps at strides 4 and 8, of a quarter and half of its channels."""
    half, quarter = channels // 2, channels // 4
    return nn.ModuleList(
        [
            nn.Sequential(
                nn.ConvTranspose2d(channels, half, 2, stride=2),
                nn.GroupNorm(1, half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
            ),
            nn.ConvTranspose2d(channels, half, 2, stride=2),
        ]
    )


def _tokens_first(features: Tensor, count: int) -> Tensor:
    """[1, C, h, w] -> [h * w, count, C], the same for each of `count` prompts."""
    return features.flatten(2).permute(2, 0, 1).expand(-1, count, -1)
