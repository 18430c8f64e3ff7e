"""The first upscaling layer of SAM's decoder, folded through the two norms before it.

In the decoder each prompt adds something of low rank to the image tokens, which is then normed:
x_i = g_i (u_i - mean(u_i)) r_i + b_i with u_i = x_(i-1) + A_i V_i, where r_i is one over the standard
deviation of each token, A_i [n, K] are attention weights over the prompt's tokens and V_i [K, C] their
values. A linear layer W of the last x is therefore, but for the r_i, a sum of parts that are linear in
what came in: the image's own part W' x_0 is computed once per image and shared by all prompts, and the
prompts' parts need a product over K, not over C. Taking the mean of u is a linear map and is moved into
the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class FoldedUpscaling:
    """A linear layer on image tokens after norms, given what each layer added before its norm.

    Args:
        weight: [out, C] of the linear layer.
        norms: weight and bias [C] of the norms, first to last.
    """

    def __init__(self, weight: Tensor, norms: Sequence[tuple[Tensor, Tensor]]) -> None:
        dtype = weight.dtype
        through = weight.double()
        weights, biases = [], []
        for scale, shift in reversed(norms):
            biases.append((through @ shift.double()).to(dtype))
            through = through * scale.double()
            through = through - through.mean(dim=1, keepdim=True)  # as the norm takes the mean off its input
            weights.append(through.to(dtype))
        # What the last norm's bias gives needs no r: it is a constant. The others belong to the next norm.
        self.constant = biases[0]
        self._weights = weights[::-1]
        self._biases = biases[:0:-1]

    def image_part(self, keys: Tensor) -> Tensor:
        """Image tokens [n, C] before the first layer -> their part of the result, [n, out]."""
        return keys @ self._weights[0].t()

    def prompt_part(self, values: Sequence[Tensor]) -> Tensor:
        """Values [B, K, C] of each layer -> vectors [B, rows, out] that `FoldedTrace` weighs."""
        batch = len(values[0])
        parts = [values[0] @ self._weights[0].t()]
        for value, weight, bias in zip(values[1:], self._weights[1:], self._biases, strict=True):
            parts += [value @ weight.t(), bias.expand(batch, 1, -1)]
        return torch.cat(parts, dim=1)


class FoldedTrace:
    """What the layers did to some image tokens, as far as `FoldedUpscaling` needs it."""

    def __init__(self) -> None:
        self._weights: list[Tensor] = []
        self._deviations: list[Tensor] = []

    def add(self, weights: Tensor, deviation: Tensor) -> None:
        """Record a layer.

        Args:
            weights: [B, K, n], attention weights A of its addition (transposed).
            deviation: [B, n, 1], one over the standard deviation of each token before its norm.
        """
        self._weights.append(weights)
        self._deviations.append(deviation)

    def apply(self, image_part: Tensor, prompt_part: Tensor, constant: Tensor) -> Tensor:
        """Put the linear layer's result together: [B, n, out].

        Args:
            image_part: [n, out], from `FoldedUpscaling.image_part`.
            prompt_part: [B, rows, out], from `FoldedUpscaling.prompt_part`.
            constant: [out] or [n, out], added to it.

        Raises:
            IndexError: if no layer was recorded.
        """
        # What a layer adds goes through its own norm and all later ones.
        dtype = self._weights[0].dtype
        scale = self._deviations[-1]
        scales = [scale.to(dtype)]
        for deviation in self._deviations[-2::-1]:
            scale = scale * deviation
            scales.append(scale.to(dtype))
        *_, whole = scales
        rows = []
        for weights, own in zip(self._weights, reversed(scales), strict=True):
            rows += [weights * own.mT, own.mT]
        # The first norm's own scale belongs to the image; the later ones' to the bias of the norm before.
        del rows[1]
        start = torch.addcmul(constant, image_part, whole)
        return start.baddbmm_(torch.cat(rows, dim=1).mT, prompt_part)
