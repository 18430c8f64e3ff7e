"""Decode many prompts on one image with SAM's or SAM 2's mask decoder, at a fraction of the packages' cost.

`segment_anything.MaskDecoder` repeats the image embedding for every prompt and projects all 4,096
image tokens again in every attention, although a prompt has fewer than a dozen tokens. `SamDecoder`
takes the package's own modules and weights (or those of `sam2`, which differ by one more token and by
feature maps of higher resolution that join the
upscaling), and computes the same function with fewer operations:

- Before the first image-to-token attention, image keys, values and queries depend on the image
  alone: they are computed once per image (`ImageSide`) and shared by its prompts.
- Later projections of image tokens are folded into the few prompt tokens: with k = W_k x + b_k,
  q . k = (W_k^T q) . x + q . b_k, and the last term is the same for every image token, so that the
  softmax over image tokens ignores it. Likewise attention weights a sum to one, so
  sum_n a_n (W_v x_n + b_v) = W_v (sum_n a_n x_n) + b_v, and the output projection of an
  image-to-token attention is applied to the tokens' values, not to the image.
- The last attention is computed for the tokens that are read, and one mask is upscaled.

In float32 the logits differ from the packages' by rounding alone: on real tiles both were 7e-5 from
the result in float64, for logits of up to 60 (tests hold the difference).
Notation in shape comments: B prompts, T tokens of a prompt, H heads, D channels of a head,
C channels of the model (256), N image tokens (4,096).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MultimaskPolicy = Literal["single", "best"]

CPU_BATCH, CPU_IMAGE_TOKENS = 4, 512
"""Prompts per batch and image tokens per slice on a CPU: what is computed at a time (2 MiB of float32)
stays in the cores' caches, and no block is large enough to be asked of the operating system anew."""

GPU_BATCH, GPU_IMAGE_TOKENS = 64, 4096


@dataclass(frozen=True)
class ImageSlice:
    """What a decoder computes once per image for some of its tokens, whatever the prompts.

    Args:
        keys: [n, C] image tokens with the "no mask" embedding added.
        place: [n, C] positional encoding of the tokens.
        first_queries: [H, D, n] queries of the first image-to-token attention.
        upscale_biases: what the two upscaling layers add: each layer's bias, and with SAM 2 its feature
            map, [n, 4 * C / 4] and [4 * n, 4 * C / 8].
    """

    keys: Tensor
    place: Tensor
    first_queries: Tensor
    upscale_biases: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class ImageSide:
    """What a decoder computes once per image.

    Args:
        slices: the image's tokens, in order.
        first_keys, first_values: [H, D, N] and [H, N, D] of the first token-to-image attention.
    """

    slices: tuple[ImageSlice, ...]
    first_keys: Tensor
    first_values: Tensor


class _FoldedAttention:
    """One cross attention of the decoder between tokens and image, with its projections folded."""

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.heads: int = attention.num_heads
        self.head_dim: int = attention.internal_dim // attention.num_heads
        self.scale = 1 / math.sqrt(self.head_dim)

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, H * D] -> [B, H, T, D]."""
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)

    def _per_head(self, linear: nn.Linear) -> Tensor:
        """Weight of a projection C -> H * D as [H, D, C]."""
        return linear.weight.unflatten(0, (self.heads, self.head_dim))

    def _merge(self, x: Tensor) -> Tensor:
        """[B, H, T, D] -> projected output [B, T, C]."""
        return self.attention.out_proj(x.transpose(1, 2).flatten(2))

    def shared_token_to_image(self, q: Tensor, side: ImageSide) -> Tensor:
        """Tokens (queries [B, T, C] before projection) read an image that all prompts share: [B, T, C]."""
        batch, tokens, _ = q.shape
        query = self._split(self.attention.q_proj(q) * self.scale)  # [B, H, T, D]
        # All prompts of one image in one product per head: [H, B * T, D] @ [H, D, N].
        query = query.transpose(0, 1).reshape(self.heads, batch * tokens, self.head_dim)
        weights = torch.softmax(query @ side.first_keys, dim=-1)
        out = (weights @ side.first_values).view(self.heads, batch, tokens, self.head_dim)
        return self._merge(out.transpose(0, 1))

    def fold_queries(self, q: Tensor) -> Tensor:
        """Fold the image's key projection into queries ([B, T, C] before projection): [B, H * T, C]."""
        query = self._split(self.attention.q_proj(q) * self.scale)  # [B, H, T, D]
        return (query @ self._per_head(self.attention.k_proj)).flatten(1, 2)

    def finish(self, mixed: Tensor) -> Tensor:
        """Apply value and output projections to weighted sums of image tokens: [B, H * T, C] -> [B, T, C]."""
        mixed = mixed.unflatten(1, (self.heads, -1))
        values = mixed @ self._per_head(self.attention.v_proj).mT  # [B, H, T, D]
        return self._merge(values + self.attention.v_proj.bias.view(self.heads, 1, self.head_dim))

    def token_keys(self, k: Tensor) -> Tensor:
        """Keys of tokens ([B, T, C] before projection), scaled: [B, H, T, D]."""
        return self._split(self.attention.k_proj(k) * self.scale)

    def fold_token_keys(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the image's query projection into keys [B, H, T, D]: [B, H * T, C] and [B, H * T, 1]."""
        folded = key @ self._per_head(self.attention.q_proj)
        bias = key @ self.attention.q_proj.bias.view(self.heads, self.head_dim, 1)
        return folded.flatten(1, 2), bias.flatten(1, 2)

    def token_values(self, v: Tensor) -> Tensor:
        """Values of tokens ([B, T, C] before projection) with the output projection applied: [B, H * T, C].

        The output bias is spread over the heads, because the weights of each head sum to one.
        """
        values = self._split(self.attention.v_proj(v))  # [B, H, T, D]
        out = self.attention.out_proj
        folded = values @ out.weight.t().unflatten(0, (self.heads, self.head_dim))  # [B, H, T, C]
        return (folded + out.bias / self.heads).flatten(1, 2)

    def over_tokens(self, scores: Tensor) -> Tensor:
        """Softmax over the tokens of each head: [B, H * T, n] -> the transpose [B, n, H * T]."""
        return torch.softmax(scores.unflatten(1, (self.heads, -1)), dim=2).flatten(1, 2).mT


class _RunningAttention:
    """softmax(queries @ keys) @ values, fed slice by slice of the keys (Milakov and Gimelshein, 2018).

    Args:
        queries: [B, R, C], scaled.
    """

    def __init__(self, queries: Tensor) -> None:
        self.queries = queries
        # Sums over thousands of image tokens are kept in float32 whatever the model's type.
        self.top = torch.full((*queries.shape[:2], 1), -math.inf, device=queries.device)
        self.total = torch.zeros_like(self.top)
        self.mixed = torch.zeros_like(queries, dtype=torch.float32)

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Take in the next slice: keys and values, both [B, n, C]."""
        scores = (self.queries @ keys.mT).float()  # [B, R, n]
        top = torch.maximum(self.top, scores.amax(dim=-1, keepdim=True))
        weights = scores.sub_(top).exp_()
        shrink = (self.top - top).exp_()
        self.total.mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
        self.mixed.mul_(shrink).add_(weights.to(values.dtype) @ values)
        self.top = top

    def result(self) -> Tensor:
        """The attention's output so far, [B, R, C]."""
        return (self.mixed / self.total).to(self.queries.dtype)


class SamDecoder:
    """The mask decoder of `segment_anything` or `sam2` for many prompts of one image.

    Args:
        prompt_encoder, mask_decoder: the package's modules, in eval mode; used, never changed.
        multimask: "single" reads mask 0, as `multimask_output=False`; "best" reads the one of masks
            1 to 3 with the highest predicted IoU. SAM 2 built with `dynamic_multimask_via_stability`
            (its default) also reads the latter where mask 0 is unstable.
        batch, image_tokens: prompts per batch and image tokens per slice; None takes what suits the
            device. They change the speed and the last bits of the result, nothing else.
    """

    def __init__(
        self,
        prompt_encoder: Any,
        mask_decoder: Any,
        multimask: MultimaskPolicy = "single",
        batch: int | None = None,
        image_tokens: int | None = None,
    ) -> None:
        self.prompt_encoder, self.mask_decoder, self.multimask = prompt_encoder, mask_decoder, multimask
        weight = mask_decoder.iou_token.weight
        self.device, self.dtype = weight.device, weight.dtype
        on_cpu = self.device.type == "cpu"
        self.batch = batch or (CPU_BATCH if on_cpu else GPU_BATCH)
        self.image_tokens = image_tokens or (CPU_IMAGE_TOKENS if on_cpu else GPU_IMAGE_TOKENS)
        self.grid: tuple[int, int] = prompt_encoder.image_embedding_size
        with torch.inference_mode():
            self.place = prompt_encoder.get_dense_pe()[0].flatten(1).t().contiguous().to(self.dtype)
            tokens = [mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight]
            # SAM 2 puts a token before them that says whether there is an object; single images do not need
            # its answer, but the other tokens attend to it.
            self._leading = int(getattr(mask_decoder, "pred_obj_scores", False))
            if self._leading:
                tokens.insert(0, mask_decoder.obj_score_token.weight)
            self.output_tokens = torch.cat(tokens)
            first, _, _, second, _ = mask_decoder.output_upscaling
            self._upscale_weights = [_as_linear(first), _as_linear(second)]
        self._dynamic = multimask == "single" and getattr(
            mask_decoder, "dynamic_multimask_via_stability", False
        )
        layers = mask_decoder.transformer.layers
        self._to_image = [_FoldedAttention(layer.cross_attn_token_to_image) for layer in layers]
        self._to_tokens = [_FoldedAttention(layer.cross_attn_image_to_token) for layer in layers]
        self._final = _FoldedAttention(mask_decoder.transformer.final_attn_token_to_image)

    @torch.inference_mode()
    def prepare(self, embedding: Tensor, high_res: tuple[Tensor, Tensor] | None = None) -> ImageSide:
        """Compute what all prompts of an image share.

        Args:
            embedding: [C, h, w].
            high_res: SAM 2's feature maps [C / 8, 4 h, 4 w] and [C / 4, 2 h, 2 w].
        """
        keys = embedding.to(self.device, self.dtype).flatten(1).t()
        keys = keys + self.prompt_encoder.no_mask_embed.weight.to(self.dtype)
        keys = keys.contiguous()
        with_place = keys + self.place
        layer = self.mask_decoder.transformer.layers[0]
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        heads = to_image.num_heads
        first_bias, second_bias = self._upscale_biases(high_res)
        step = self.image_tokens
        slices = []
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            queries = (
                to_tokens.q_proj(with_place[part]).unflatten(1, (heads, -1)).permute(1, 2, 0).contiguous()
            )
            biases = (first_bias[part], second_bias[part].flatten(0, 1))
            slices.append(ImageSlice(keys[part], self.place[part], queries, biases))
        return ImageSide(
            slices=tuple(slices),
            first_keys=to_image.k_proj(with_place).unflatten(1, (heads, -1)).permute(1, 2, 0).contiguous(),
            first_values=to_image.v_proj(keys).unflatten(1, (heads, -1)).transpose(0, 1).contiguous(),
        )

    def _upscale_biases(self, high_res: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """What the upscaling layers add per image token: [N, 4 * C / 4] and [N, 4, 4 * C / 8]."""
        (_, first), (_, second) = self._upscale_weights
        height, width = self.grid
        if high_res is None:
            return first.expand(height * width, -1), second.expand(height * width, 4, -1)
        fine, coarse = (feature.to(self.device, self.dtype) for feature in high_res)
        # [channels, rows, columns] -> image token, quarter, (quarter's quarter,) channel.
        coarse = coarse.unflatten(2, (width, 2)).unflatten(1, (height, 2)).permute(1, 3, 2, 4, 0)
        fine = fine.unflatten(2, (width, 2, 2)).unflatten(1, (height, 2, 2)).permute(1, 4, 2, 5, 3, 6, 0)
        tokens = height * width
        return coarse.reshape(tokens, -1) + first, fine.reshape(tokens, 4, -1) + second

    @torch.inference_mode()
    def decode(self, side: ImageSide, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Decode prompts that have the same number of tokens.

        Args:
            side: from `prepare`.
            sparse: [B, P, C] prompt tokens, as `PromptEncoder` makes them.

        Returns:
            Logits [B, 256, 256] and predicted IoU [B], both float32.
        """
        logits, ious = [], []
        for chunk in sparse.to(self.device, self.dtype).split(self.batch):
            low_res, iou = self._decode_batch(side, chunk)
            logits.append(low_res)
            ious.append(iou)
        return torch.cat(logits).float(), torch.cat(ious).float()

    def _decode_batch(self, side: ImageSide, sparse: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([self.output_tokens.expand(len(sparse), -1, -1), sparse], dim=1)  # [B, T, C]
        transformer = self.mask_decoder.transformer
        first, *others = transformer.layers
        queries = first.norm1(first.self_attn(q=tokens, k=tokens, v=tokens))
        attended = self._to_image[0].shared_token_to_image(queries + tokens, side)
        queries = self._after_attention(first, queries, attended)
        keys = [part.keys[None] for part in side.slices]
        for i, layer in enumerate(others, start=1):
            # The image reads the tokens of layer i - 1 and is read by layer i, in one pass over its slices.
            updated = self._image_update(i - 1, queries, tokens)
            q = queries + tokens
            queries = layer.norm1(queries + layer.self_attn(q=q, k=q, v=queries))
            reading = _RunningAttention(self._to_image[i].fold_queries(queries + tokens))
            for number, part in enumerate(side.slices):
                keys[number] = updated(keys[number], part)
                reading.add(keys[number] + part.place, keys[number])
            queries = self._after_attention(layer, queries, self._to_image[i].finish(reading.result()))
        updated = self._image_update(len(others), queries, tokens)
        # Only the IoU token and the mask tokens that may be read go on; tokens no longer meet each other.
        only_first = self.multimask == "single" and not self._dynamic
        count = 2 if only_first else 1 + self.mask_decoder.num_mask_tokens
        read = slice(self._leading, self._leading + count)
        reading = _RunningAttention(self._final.fold_queries(queries[:, read] + tokens[:, read]))
        for number, part in enumerate(side.slices):
            keys[number] = updated(keys[number], part)
            reading.add(keys[number] + part.place, keys[number])
        out = transformer.norm_final_attn(queries[:, read] + self._final.finish(reading.result()))
        hyper, ious = self._read_out(out)
        logits = self._upscale(keys, side, hyper)
        return self._choose(logits, ious) if self._dynamic else (logits[:, 0], ious[:, 0])

    @staticmethod
    def _after_attention(layer: Any, queries: Tensor, attended: Tensor) -> Tensor:
        """Residual, feed-forward layer and norms after the tokens have read the image."""
        queries = layer.norm2(queries + attended)
        return layer.norm3(queries + layer.mlp(queries))

    def _image_update(
        self, number: int, queries: Tensor, tokens: Tensor
    ) -> Callable[[Tensor, ImageSlice], Tensor]:
        """The image-to-token attention of one layer, as a function of a slice [b, n, C] of image tokens."""
        attention, norm = self._to_tokens[number], self.mask_decoder.transformer.layers[number].norm4
        token_keys, values = attention.token_keys(queries + tokens), attention.token_values(queries)
        if number == 0:

            def update(x: Tensor, part: ImageSlice) -> Tensor:
                weights = attention.over_tokens((token_keys @ part.first_queries).flatten(1, 2))
                return norm(torch.baddbmm(x, weights, values))
        else:
            folded, bias = attention.fold_token_keys(token_keys)

            def update(x: Tensor, part: ImageSlice) -> Tensor:
                weights = attention.over_tokens(torch.baddbmm(bias, folded, (x + part.place).mT))
                return norm(x.baddbmm_(weights, values))

        return update

    def _read_out(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Final tokens [B, 1 + masks, C] -> hypernetwork outputs [B, C / 8, K] and predicted IoU [B, K].

        K masks are candidates: mask 0, or the best of the others, or (dynamic) both in this order.
        """
        ious = self.mask_decoder.iou_prediction_head(out[:, 0])  # [B, masks]
        mlps = self.mask_decoder.output_hypernetworks_mlps
        candidates = []
        if self.multimask == "single":
            candidates.append((mlps[0](out[:, 1]), ious[:, 0]))
        if self.multimask == "best" or self._dynamic:
            best = ious[:, 1:].argmax(dim=1) + 1
            hyper = torch.stack([mlp(out[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)
            rows = torch.arange(len(best), device=best.device)
            candidates.append((hyper[rows, best], ious[rows, best]))
        return torch.stack([c[0] for c in candidates], dim=2), torch.stack([c[1] for c in candidates], dim=1)

    def _choose(self, logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
        """SAM 2's rule for one mask: mask 0 if it is stable, else the best of the others.

        Args:
            logits: [B, 2, 4 h, 4 w], mask 0 and the best other.
            ious: [B, 2].
        """
        delta = self.mask_decoder.dynamic_multimask_stability_delta
        first = logits[:, 0].flatten(1)
        inner = (first > delta).sum(dim=1)
        outer = (first > -delta).sum(dim=1)
        stability = torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)
        stable = stability >= self.mask_decoder.dynamic_multimask_stability_thresh
        return (
            torch.where(stable[:, None, None], logits[:, 0], logits[:, 1]),
            torch.where(stable, ious[:, 0], ious[:, 1]),
        )

    def _upscale(self, keys: list[Tensor], side: ImageSide, hyper: Tensor) -> Tensor:
        """Image tokens (slices [B, n, C]) and hypernetwork outputs [B, C / 8, K] -> logits [B, K, 4 h, 4 w].

        A transposed convolution of size 2 and stride 2 is a linear map from one pixel to four.
        """
        _, norm, activation, _, _ = self.mask_decoder.output_upscaling
        (first, _), (second, _) = self._upscale_weights
        batch = len(hyper)
        logits = []
        for tokens, part in zip(keys, side.slices, strict=True):
            first_bias, second_bias = part.upscale_biases
            x = torch.baddbmm(first_bias[None], tokens, first.t().expand(batch, -1, -1)).unflatten(
                -1, (4, -1)
            )
            x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)).flatten(1, 2)
            x = activation(torch.baddbmm(second_bias[None], x, second.t().expand(batch, -1, -1)))
            logits.append(x.view(batch, -1, hyper.shape[1]) @ hyper)  # [B, 16 n, K]
        # Rows and columns of the pixel, of its quarter, and of the quarter's quarter.
        height, width = self.grid
        quarters = torch.cat(logits, dim=1).view(batch, height, width, 2, 2, 2, 2, -1)
        return quarters.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(batch, -1, 4 * height, 4 * width)


def _as_linear(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution of size and stride 2 as a linear layer onto [2, 2, out] values."""
    if conv.kernel_size != (2, 2) or conv.stride != (2, 2) or conv.bias is None:
        raise ValueError("expected a transposed convolution of size and stride 2 with a bias")
    weight = conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.in_channels).contiguous()  # [2 * 2 * out, in]
    return weight, conv.bias.repeat(4)
