"""Upsampled logits equal the packages' two-step resize; masks, thresholds and stability follow from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.amg import calculate_stability_score
from torch.nn import functional as F

from envs.executors.decoding.upsample import MaskUpsampler, bilinear_matrix

CPU = torch.device("cpu")


def smooth_logits(count: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 8, 8, generator=generator) * 12
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)[:, 0]


def two_steps(
    low: torch.Tensor, padded: tuple[int, int], used: tuple[int, int], original: tuple[int, int]
) -> torch.Tensor:
    """What `segment_anything.modeling.Sam.postprocess_masks` does."""
    whole = F.interpolate(low[:, None], padded, mode="bilinear", align_corners=False)
    part = whole[..., : used[0], : used[1]]
    return F.interpolate(part, original, mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize(
    ("used", "original"),
    [
        ((1024, 1024), (512, 512)),
        ((1024, 1023), (571, 570)),
        ((768, 1024), (600, 800)),
        ((1024, 410), (1500, 600)),
        ((1024, 1024), (16, 16)),
        ((3, 1024), (5, 1700)),
    ],
)
def test_equals_the_package(used: tuple[int, int], original: tuple[int, int]) -> None:
    low = smooth_logits(3, 256)
    wanted = two_steps(low, (1024, 1024), used, original)
    upsampler = MaskUpsampler((256, 256), (1024, 1024), used, original, CPU)
    torch.testing.assert_close(upsampler.logits(low), wanted, atol=1e-4, rtol=0)
    masks, stability = upsampler.masks(low, 0.0)
    clear = wanted.abs() > 1e-4  # where rounding cannot decide
    assert torch.equal(masks[clear], (wanted > 0)[clear])
    expected = calculate_stability_score(wanted, 0.0, 1.0)
    torch.testing.assert_close(stability, expected, atol=2e-3, rtol=0)


def test_one_step_geometry_of_sam2() -> None:
    low = smooth_logits(2, 64)
    upsampler = MaskUpsampler((64, 64), (64, 64), (64, 64), (300, 401), CPU)
    wanted = F.interpolate(low[:, None], (300, 401), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(upsampler.logits(low), wanted, atol=1e-4, rtol=0)


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300))
def test_bilinear_matrix_is_pytorchs(inputs: int, outputs: int) -> None:
    line = torch.from_numpy(np.random.default_rng(inputs).standard_normal(inputs))[None, None]
    wanted = F.interpolate(line, outputs, mode="linear", align_corners=False)[0, 0]
    np.testing.assert_allclose(bilinear_matrix(inputs, outputs) @ line[0, 0].numpy(), wanted, atol=1e-12)


def test_threshold_and_empty_masks() -> None:
    upsampler = MaskUpsampler((8, 8), (32, 32), (32, 32), (20, 20), CPU)
    masks, stability = upsampler.masks(torch.full((1, 8, 8), 2.0), threshold=1.5)
    assert masks.all()
    assert stability.item() == 0.0  # nothing is above 2.5, everything above 0.5
    masks, stability = upsampler.masks(torch.full((1, 8, 8), -9.0), threshold=0.0)
    assert not masks.any()
    assert stability.item() == 1.0


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_many_masks_are_done_in_parts(at_once: int) -> None:
    low = smooth_logits(5, 32)
    upsampler = MaskUpsampler((32, 32), (128, 128), (128, 100), (70, 55), CPU)
    whole = upsampler.masks(low, 0.0)
    parts = upsampler.masks(low, 0.0, at_once=at_once)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
