"""TinyViT, the image encoder of MobileSAM: `timm`'s, with SAM's neck and the checkpoint's names.

Architecture: Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers"
(ECCV 2022); as MobileSAM uses it (Zhang et al., arXiv 2306.14289): 1024 x 1024 input, no stride in
the last merging, and SAM's two-layer convolutional neck.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import Attention, ConvNorm, TinyVit
from torch import Tensor, nn

NECK_CHANNELS = 256


class BatchedBiases(Attention):
    """`timm`'s attention with a batch axis on its bias: PyTorch's fused attention on a CPU asks for one.

    Encoding then takes as long as by an encoder written for this alone; without, a fifth longer in bfloat16.
    """

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """[1, heads, window^2, window^2]."""
        return super().get_attention_biases(device)[None]


class TinyViT(nn.Module):
    """MobileSAM's image encoder: [B, 3, 1024, 1024] normalised pixels -> [B, 256, 64, 64].

    `img_size` (1024) is the side of the padded input, under the name `segment_anything.Sam` reads.
    """

    def __init__(self, img_size: int = 1024) -> None:
        super().__init__()
        self.img_size = img_size
        # As `timm.create_model("tiny_vit_5m_224")`, under which name others register models of their own.
        trunk: Any = TinyVit(
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            num_classes=0,
        )
        trunk.head = nn.Identity()
        trunk.stages[3].downsample.conv2.conv.stride = (1, 1)  # the last stage keeps 1/16 of the input
        for module in trunk.modules():
            if isinstance(module, Attention):
                module.__class__ = BatchedBiases
        self.trunk = trunk
        self.neck = nn.Sequential(
            nn.Conv2d(self.trunk.num_features, NECK_CHANNELS, 1, bias=False),
            LayerNorm2d(NECK_CHANNELS),
            nn.Conv2d(NECK_CHANNELS, NECK_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(NECK_CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.trunk.forward_features(x))

    def fold(self) -> None:
        """Merge batch norms into convolutions and use channels-last memory, for inference only."""
        for module in list(self.trunk.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, ConvNorm):
                    setattr(module, name, child.fuse())
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def module_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A MobileSAM checkpoint under the names of `TinyViT`'s parameters; other parts keep theirs.

    The classifier of the pre-training, which SAM does not use, is left out.
    """
    prefix, named = "image_encoder.", {}
    for name, tensor in state.items():
        own = name.removeprefix(prefix)
        if own == name or own.startswith("neck."):
            named[name] = tensor
        elif not own.startswith(("head.", "norm_head.")):
            # In the checkpoint a stage ends with a merging; in `timm` the next one begins with it.
            own = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"stages.{int(m[1]) + 1}.downsample", own)
            own = re.sub(r"^layers\.", "stages.", own).replace(".c.", ".conv.")
            own = own.replace("embed.seq.0.", "embed.conv1.").replace("embed.seq.2.", "embed.conv2.")
            named[f"{prefix}trunk.{own}"] = tensor
    return named
