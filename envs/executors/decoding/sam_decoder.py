"""Decode many prompts on one image with SAM's or SAM 2's mask decoder, at a fraction of the packages' cost.

`segment_anything.MaskDecoder` repeats the image embedding for every prompt and projects all 4,096
image tokens again in every attention, although a prompt has fewer than a dozen tokens. `SamDecoder`
takes the package's own modules and weights (or those of `sam2`, which differ by one more token and by
feature maps that join the upscaling), and computes the same function with fewer operations:

- Before the first image-to-token attention, image keys, values and queries depend on the image
  alone: they are computed once per image (`ImageSide`) and shared by its prompts.
- Later projections of image tokens are folded into the few prompt tokens: with k = W_k x + b_k,
  q . k = (W_k^T q) . x + q . b_k. The image tokens' places, which are added to x, are the same for
  all images: their part of the product is computed from keys of the places, made once. Attention
  weights a sum to one, so sum_n a_n (W_v x_n + b_v) = W_v (sum_n a_n x_n) + b_v; likewise the output
  projection of an image-to-token attention is applied to the tokens' values, not to the image.
- A norm is linear but for one number per image token, so the first upscaling layer, too, is folded into
  what the prompts add to the image (`envs.executors.decoding.folded_upscaling`).
- The last attention is computed for the tokens that are read, and one mask is upscaled.

In float32 the logits differ from the packages' by rounding alone: on real tiles both were 7e-5 from
the result in float64, for logits of up to 60 (tests hold the difference).
Notation in shape comments: see `envs.executors.decoding.folded_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.executors.decoding.folded_attention import FoldedAttention, ImageSide, ImageSlice, TokenReading
from envs.executors.decoding.folded_upscaling import FoldedTrace, FoldedUpscaling
from envs.executors.decoding.threads import parallel_map

MultimaskPolicy = Literal["single", "best"]

CPU_BATCH, CPU_UPSCALE_BATCH, CPU_IMAGE_TOKENS = 16, 4, 512
"""Prompts per batch, prompts that are upscaled at a time, and image tokens per slice on a CPU: what is
computed at a time (2 to 4 MiB) stays in the cores' caches."""

GPU_BATCH, GPU_IMAGE_TOKENS = 64, 4096


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
        self.upscale_batch = min(self.batch, CPU_UPSCALE_BATCH) if on_cpu else self.batch
        self.grid: tuple[int, int] = prompt_encoder.image_embedding_size
        self._dynamic = multimask == "single" and getattr(
            mask_decoder, "dynamic_multimask_via_stability", False
        )
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
            transformer = mask_decoder.transformer
            self._norms = [layer.norm4 for layer in transformer.layers]
            self._first_upscaling = FoldedUpscaling(
                self._upscale_weights[0][0], [(norm.weight, norm.bias) for norm in self._norms]
            )
            reading = [layer.cross_attn_token_to_image for layer in transformer.layers]
            reading.append(transformer.final_attn_token_to_image)
            *self._to_image, self._final = [FoldedAttention(a, a.k_proj, self.place) for a in reading]
            read = [layer.cross_attn_image_to_token for layer in transformer.layers]
            self._to_tokens = [FoldedAttention(a, a.q_proj, self.place) for a in read]

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
        to_image, to_tokens = self._to_image[0], self._to_tokens[0]
        queries = to_tokens.image_heads(to_tokens.attention.q_proj(with_place))
        upscaled = self._first_upscaling.image_part(keys)
        first_bias, second_bias = self._upscale_biases(high_res)
        slices = []
        for start in range(0, len(keys), self.image_tokens):
            part = slice(start, min(start + self.image_tokens, len(keys)))
            biases = (first_bias, second_bias)
            if high_res is not None:
                biases = (first_bias[part], second_bias[part].flatten(0, 1))
            own = queries[:, :, part].contiguous()
            slices.append(ImageSlice(part, keys[part], own, upscaled[part], biases))
        return ImageSide(
            slices=tuple(slices),
            first_keys=to_image.image_heads(to_image.attention.k_proj(with_place)),
            first_values=to_image.image_heads(to_image.attention.v_proj(keys)).mT.contiguous(),
        )

    def _upscale_biases(self, high_res: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """What the upscaling layers add: [4 * C / 4] and [4 * C / 8].

        With SAM 2's feature maps, for each image token: [N, 4 * C / 4] and [N, 4, 4 * C / 8].
        """
        (_, first), (_, second) = self._upscale_weights
        first = first + self._first_upscaling.constant
        height, width = self.grid
        if high_res is None:
            return first, second
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
        sparse = sparse.to(self.device, self.dtype)

        def decode_batch(chunk: Tensor) -> tuple[Tensor, Tensor]:
            return self._decode_batch(side, chunk)

        if self.device.type == "cpu":
            share = -(-len(sparse) // torch.get_num_threads())  # few prompts are divided among all threads
            decoded = parallel_map(decode_batch, sparse.split(min(self.batch, share)))
        else:
            decoded = [decode_batch(chunk) for chunk in sparse.split(self.batch)]
        logits, ious = zip(*decoded, strict=True)
        return torch.cat(logits), torch.cat(ious).float()

    def _decode_batch(self, side: ImageSide, sparse: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([self.output_tokens.expand(len(sparse), -1, -1), sparse], dim=1)  # [B, T, C]
        transformer = self.mask_decoder.transformer
        first, *others = transformer.layers
        queries = first.norm1(first.self_attn(q=tokens, k=tokens, v=tokens))
        attended = self._read_first(queries + tokens, side)
        queries = self._after_attention(first, queries, attended)
        keys = [part.keys[None] for part in side.slices]
        traces = [FoldedTrace() for _ in side.slices]
        added = []  # the values of each image-to-token attention
        for i, layer in enumerate(others, start=1):
            # The image reads the tokens of layer i - 1 and is read by layer i, in one pass over its slices.
            updated, values = self._image_update(i - 1, queries, tokens)
            added.append(values)
            q = queries + tokens
            queries = layer.norm1(queries + layer.self_attn(q=q, k=q, v=queries))
            to_image = self._to_image[i]
            reading = TokenReading(to_image.fold(to_image.queries(queries + tokens)))
            for number, part in enumerate(side.slices):
                keys[number] = updated(keys[number], part, traces[number])
                reading.add(keys[number], part.where)
            queries = self._after_attention(layer, queries, to_image.finish(reading.result()))
        updated, values = self._image_update(len(others), queries, tokens)
        added.append(values)
        read = self._tokens_read()
        final = self._final.queries(queries[:, read] + tokens[:, read])
        reading = TokenReading(self._final.fold(final))
        for number, part in enumerate(side.slices):
            reading.add(updated(keys[number], part, traces[number]), part.where)
        out = transformer.norm_final_attn(queries[:, read] + self._final.finish(reading.result()))
        hyper, ious = self._read_out(out)
        logits = self._upscale(traces, self._first_upscaling.prompt_part(added), side, hyper)
        return self._choose(logits, ious) if self._dynamic else (logits[:, 0], ious[:, 0])

    def _read_first(self, queries: Tensor, side: ImageSide) -> Tensor:
        """What tokens read off the image in the first layer: queries [B, T, C] -> [B, T, C]."""
        return self._to_image[0].read_shared(queries, side)

    def _tokens_read(self) -> slice:
        """Tokens of the last attention: they no longer meet, so only the IoU's and masks that may be read."""
        only_first = self.multimask == "single" and not self._dynamic
        count = 2 if only_first else 1 + self.mask_decoder.num_mask_tokens
        return slice(self._leading, self._leading + count)

    @staticmethod
    def _after_attention(layer: Any, queries: Tensor, attended: Tensor) -> Tensor:
        """Residual, feed-forward layer and norms after the tokens have read the image."""
        queries = layer.norm2(queries + attended)
        return layer.norm3(queries + layer.mlp(queries))

    def _image_update(
        self, number: int, queries: Tensor, tokens: Tensor
    ) -> tuple[Callable[[Tensor, ImageSlice, FoldedTrace], Tensor], Tensor]:
        """The image-to-token attention of one layer and the norm after it.

        Returns:
            A function that updates a slice [b, n, C] of image tokens and leaves in the trace what it did,
            and the values [B, H * T, C] that it adds by its weights.
        """
        attention, norm = self._to_tokens[number], self._norms[number]
        token_keys, values = attention.keys(queries + tokens), attention.token_values(queries)
        folded = None if number == 0 else attention.fold(token_keys)

        def update(x: Tensor, part: ImageSlice, trace: FoldedTrace) -> Tensor:
            if folded is None:  # x is the image's own, shared by all prompts
                weights = attention.over_tokens(attention.compare(token_keys, part.first_queries))
                x = torch.baddbmm(x, weights.mT, values)
            else:
                weights = attention.over_tokens(folded.scores(x, part.where))
                x = x.baddbmm_(weights.mT, values)
            x, _, deviation = torch.native_layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
            trace.add(weights, deviation)
            return x

        return update, values

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

    def _upscale(
        self, traces: list[FoldedTrace], prompt_part: Tensor, side: ImageSide, hyper: Tensor
    ) -> Tensor:
        """Upscale the image tokens that a trace describes, and compare them with the hypernetworks' outputs.

        A transposed convolution of size 2 and stride 2 is a linear map from one pixel to four.

        Args:
            traces: of each slice of the image.
            prompt_part: [B, rows, C], from `FoldedUpscaling.prompt_part`.
            side: from `prepare`.
            hyper: [B, C / 8, K].

        Returns:
            Logits [B, K, 4 h, 4 w], float32.
        """
        logits = []
        for trace, part in zip(traces, side.slices, strict=True):
            first_bias, second_bias = part.upscale_biases
            x = trace.apply(part.upscaled, prompt_part, first_bias)
            pairs = zip(x.split(self.upscale_batch), hyper.split(self.upscale_batch), strict=True)
            # The other order, [16 n, C / 8] times [C / 8, K], takes seven times as long for a single mask.
            parts = [their.mT @ self._upscale_further(some, second_bias).mT for some, their in pairs]
            logits.append(torch.cat(parts))  # [B, K, 16 n]
        return _in_place(torch.cat(logits, dim=2).float(), self.grid)

    def _upscale_further(self, x: Tensor, bias: Tensor) -> Tensor:
        """From the first upscaling layer's result [b, n, C] to that of the second, [b, 16 n, C / 8]."""
        _, norm, activation, _, _ = self.mask_decoder.output_upscaling
        weight, _ = self._upscale_weights[1]
        x = x.unflatten(-1, (4, -1))  # [b, n, 4, C / 4]
        x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)).flatten(1, 2)
        if bias.ndim == 1:
            x = F.linear(x, weight, bias)
        else:
            x = torch.baddbmm(bias[None], x, weight.t().expand(len(x), -1, -1))
        return activation(x).view(len(x), -1, weight.shape[0] // 4)


def _in_place(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put float32 [B, K, 16 * h * w] values of image tokens in their place in [B, K, 4 h, 4 w].

    A token's values come as rows and columns of its quarters, then of the quarters' quarters.
    """
    height, width = grid
    # The two columns of a quarter's quarter stay neighbours: they are moved as one number of twice the size.
    pairs = values.view(torch.int64).unflatten(-1, (height, width, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5)
    return pairs.reshape(*values.shape[:2], 4 * height, 2 * width).view(torch.float32)


def _as_linear(conv: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution of size and stride 2 as a linear layer onto [2, 2, out] values."""
    if conv.kernel_size != (2, 2) or conv.stride != (2, 2) or conv.bias is None:
        raise ValueError("expected a transposed convolution of size and stride 2 with a bias")
    weight = conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.in_channels).contiguous()  # [2 * 2 * out, in]
    return weight, conv.bias.repeat(4)
