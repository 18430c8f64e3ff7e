"""The folded first upscaling layer equals attention, norms and layer computed one after the other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from envs.executors.decoding.folded_upscaling import FoldedTrace, FoldedUpscaling

BATCH, TOKENS, ROWS, CHANNELS, OUT = 3, 37, 5, 16, 24


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("constant_per_token", [False, True])
def test_equals_layer_after_layer(depth: int, constant_per_token: bool) -> None:
    generator = torch.Generator().manual_seed(depth)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    norms = [(random(CHANNELS) + 2, random(CHANNELS)) for _ in range(depth)]
    weight, image = random(OUT, CHANNELS), random(TOKENS, CHANNELS) + 1
    constant = random(TOKENS, OUT) if constant_per_token else random(OUT)
    values = [random(BATCH, ROWS, CHANNELS) for _ in range(depth)]
    attention = [torch.softmax(random(BATCH, ROWS, TOKENS), dim=1) for _ in range(depth)]

    folded = FoldedUpscaling(weight, norms)
    trace = FoldedTrace()
    x = image[None]
    for (scale, shift), value, weights in zip(norms, values, attention, strict=True):
        u = x + weights.mT @ value
        deviation = 1 / torch.sqrt(u.var(dim=-1, correction=0, keepdim=True) + 1e-5)
        x = F.layer_norm(u, (CHANNELS,), scale, shift, 1e-5)
        trace.add(weights, deviation)
    found = trace.apply(folded.image_part(image), folded.prompt_part(values), constant + folded.constant)
    torch.testing.assert_close(found, x @ weight.t() + constant, rtol=1e-10, atol=1e-10)
