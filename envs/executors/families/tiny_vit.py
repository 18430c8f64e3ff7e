"""TinyViT, the image encoder of MobileSAM, for inference.

Architecture: Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers"
(ECCV 2022); as MobileSAM uses it (Zhang et al., arXiv 2306.14289): 1024 x 1024 input, no stride in
the last merging, and SAM's two-layer convolutional neck. Parameter names are those of the published
checkpoint, so that it loads strictly.

Tensors between blocks are [batch, height, width, channels]: linear layers need no copy, and the
convolutions see the same memory as a channels-last [batch, channels, height, width] view.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBED_DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (2, 4, 5, 10)
WINDOW_SIZES = (7, 7, 14, 7)
MLP_RATIO = 4
NECK_CHANNELS = 256
CLASSES = 1000


def _channels_first(x: Tensor) -> Tensor:
    """[B, H, W, C] -> [B, C, H, W], a view in channels-last memory."""
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H, W, C], a view when the memory is channels-last already."""
    return x.permute(0, 2, 3, 1)


class ConvNorm(nn.Module):
    """A convolution without bias and a batch norm, which `fold` merges into one convolution."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the pair by one convolution with the same result (inference only)."""
        norm = self.bn
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.c.weight.mul_(scale[:, None, None, None])
        self.c.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
        self.bn = nn.Identity()


class InvertedBottleneck(nn.Module):
    """MBConv: 1x1 expansion, 3x3 depthwise, 1x1 projection, and a residual."""

    def __init__(self, channels: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = channels * expansion
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, size=3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = _channels_first(x)
        y = F.gelu(self.conv2(F.gelu(self.conv1(y))))
        return F.gelu(x + _channels_last(self.conv3(y)))


class PatchMerging(nn.Module):
    """Between two stages: change the width and, with stride 2, halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, size=3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv1(_channels_first(x)))
        return _channels_last(self.conv3(F.gelu(self.conv2(y))))


class WindowAttention(nn.Module):
    """Multi-head attention inside square windows, with a learned bias per head and |offset|."""

    bias_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.head_dim = heads, window, dim // heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        place = torch.arange(window * window)
        rows, columns = place // window, place % window
        # The checkpoint numbers offsets by first appearance when the second position runs through the window
        # row by row, which is |row offset| * window + |column offset|.
        index = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("bias_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        window, heads = self.window, self.heads
        down, across = -(-height // window), -(-width // window)  # windows, rounded up
        qkv = self.qkv(self.norm(x))
        if (down * window, across * window) != (height, width):
            # The published model pads its windows with zeros BEFORE the norm, and padded positions are
            # attended to: their query, key and value are those of a zero vector.
            blank = self.qkv(self.norm(x.new_zeros(dim)))
            padded = blank.expand(batch, down * window, across * window, 3 * dim).clone()
            padded[:, :height, :width] = qkv
            qkv = padded
        # [B, down, window, across, window, heads, 3 * D] -> [B * windows, heads, window^2, 3 * D]
        qkv = qkv.view(batch, down, window, across, window, heads, 3 * self.head_dim)
        qkv = qkv.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, heads, window * window, 3 * self.head_dim)
        q, k, v = qkv.split(self.head_dim, dim=-1)
        bias = self.attention_biases[:, self.bias_index].to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        y = y.view(batch, down, across, heads, window, window, self.head_dim)
        y = y.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * window, across * window, dim)
        return self.proj(y[:, :height, :width])


class FeedForward(nn.Module):
    """Layer norm, and two linear layers with a GELU between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, a 3x3 depthwise convolution, and a feed-forward layer."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(dim, heads, window)
        self.local_conv = ConvNorm(dim, dim, size=3, groups=dim)
        self.mlp = FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        x = _channels_last(self.local_conv(_channels_first(x)))
        return x + self.mlp(x)


class Stage(nn.Module):
    """Blocks of one resolution, and the merging into the next (None after the last)."""

    def __init__(self, blocks: list[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbedding(nn.Module):
    """Two 3x3 convolutions of stride 2: a quarter of the resolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, dim // 2, 3, 2), nn.GELU(), ConvNorm(dim // 2, dim, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return _channels_last(self.seq(x))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of [B, C, H, W] (SAM's LayerNorm2d)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(_channels_last(x), (x.shape[1],), self.weight, self.bias, eps=1e-6)
        return _channels_first(normed)


class TinyViT(nn.Module):
    """MobileSAM's image encoder: [B, 3, 1024, 1024] normalised pixels -> [B, 256, 64, 64].

    `img_size` (1024) is the side of the padded input, under the name `segment_anything.Sam` reads.
    """

    def __init__(self, img_size: int = 1024) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbedding(EMBED_DIMS[0])
        stages: list[nn.Module] = []
        for i, (dim, depth) in enumerate(zip(EMBED_DIMS, DEPTHS, strict=True)):
            blocks: list[nn.Module] = [
                InvertedBottleneck(dim) if i == 0 else TinyViTBlock(dim, NUM_HEADS[i], WINDOW_SIZES[i])
                for _ in range(depth)
            ]
            last = i + 1 == len(EMBED_DIMS)
            stride = 1 if i + 2 == len(EMBED_DIMS) else 2  # the last stage keeps 1/16 of the input
            stages.append(Stage(blocks, None if last else PatchMerging(dim, EMBED_DIMS[i + 1], stride)))
        self.layers = nn.ModuleList(stages)
        # The classifier of the pre-training: in the checkpoint, unused by SAM, dropped by `fold`.
        self.norm_head: nn.Module = nn.LayerNorm(EMBED_DIMS[-1])
        self.head: nn.Module = nn.Linear(EMBED_DIMS[-1], CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(EMBED_DIMS[-1], NECK_CHANNELS, 1, bias=False),
            ChannelNorm(NECK_CHANNELS),
            nn.Conv2d(NECK_CHANNELS, NECK_CHANNELS, 3, padding=1, bias=False),
            ChannelNorm(NECK_CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.neck(_channels_first(x))

    def fold(self) -> None:
        """Merge batch norms into convolutions, drop the classifier, use channels-last memory.

        For inference only; the state dict no longer has the checkpoint's names.
        """
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        self.norm_head, self.head = nn.Identity(), nn.Identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
