"""The folded decoder computes what the packages' mask decoders compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from envs.executors.decoding.sam_decoder import SamDecoder
from envs.executors.families.sam import build_prompt_modules
from envs.executors.families.sam2 import OVERRIDES, build_model
from tests.fixtures.segmenters import SIDE, scatter_logits, small_sam2_description

GRID = SIDE // 16


@pytest.fixture(scope="module")
def sam() -> tuple[Any, Any]:
    torch.manual_seed(0)
    prompt_encoder, mask_decoder = build_prompt_modules(SIDE)
    scatter_logits(mask_decoder)
    return prompt_encoder.eval(), mask_decoder.eval()


@pytest.fixture(scope="module")
def sam2() -> tuple[Any, Any]:
    torch.manual_seed(0)
    description = {**small_sam2_description(), "sam_mask_decoder_extra_args": OVERRIDES}
    model = build_model(description, None)
    scatter_logits(model.sam_mask_decoder)
    return model.sam_prompt_encoder.eval(), model.sam_mask_decoder.eval()


def image_features(seed: int = 1) -> Tensor:
    return torch.randn(256, GRID, GRID, generator=torch.Generator().manual_seed(seed))


def prompts(prompt_encoder: Any, points: int, box: bool, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(points)
    coordinates = torch.rand(count, points, 2, generator=generator) * SIDE
    labels = torch.randint(0, 2, (count, points), generator=generator)
    corners = torch.rand(count, 4, generator=generator) * SIDE
    with torch.inference_mode():
        given = (coordinates, labels) if points else None
        sparse, _ = prompt_encoder(given, corners if box else None, None)
    return sparse


def package_sam(
    modules: tuple[Any, Any], features: Tensor, sparse: Tensor, best: bool
) -> tuple[Tensor, Tensor]:
    prompt_encoder, mask_decoder = modules
    with torch.inference_mode():
        _, dense = prompt_encoder(None, torch.zeros(len(sparse), 4), None)
        logits, ious = mask_decoder(
            image_embeddings=features[None],
            image_pe=prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=best,
        )
    return chosen(logits, ious)


def chosen(logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    rows, best = torch.arange(len(ious)), ious.argmax(dim=1)
    return logits[rows, best], ious[rows, best]


def assert_close(ours: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    limit = 1e-4 + 2e-6 * float(wanted[0].abs().max())
    torch.testing.assert_close(ours[0], wanted[0], atol=limit, rtol=0)
    torch.testing.assert_close(ours[1], wanted[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize(("points", "box"), [(0, True), (1, False), (3, True), (9, False)])
def test_sam(sam: tuple[Any, Any], points: int, box: bool, best: bool) -> None:
    features, sparse = image_features(), prompts(sam[0], points, box)
    decoder = SamDecoder(*sam, "best" if best else "single")
    wanted = package_sam(sam, features, sparse, best)
    assert float(wanted[0].std()) > 0.1  # a flat answer would prove nothing
    assert_close(decoder.decode(decoder.prepare(features), sparse), wanted)


@pytest.mark.parametrize(("batch", "image_tokens"), [(1, 77), (2, 100), (64, 4096)])
def test_batches_and_slices_change_nothing(sam: tuple[Any, Any], batch: int, image_tokens: int) -> None:
    features, sparse = image_features(), prompts(sam[0], 2, True)
    decoder = SamDecoder(*sam, batch=batch, image_tokens=image_tokens)
    assert_close(decoder.decode(decoder.prepare(features), sparse), package_sam(sam, features, sparse, False))


def test_in_float64_the_two_agree_to_its_precision(sam: tuple[Any, Any]) -> None:
    """So that what is left in float32 is rounding, and nothing else."""
    import copy

    prompt_encoder, mask_decoder = copy.deepcopy(sam[0]), copy.deepcopy(sam[1]).double()
    features, sparse = image_features().double(), prompts(sam[0], 1, True).double()
    decoder = SamDecoder(prompt_encoder, mask_decoder)
    ours, _ = decoder.decode(decoder.prepare(features), sparse)
    with torch.inference_mode():
        _, dense = prompt_encoder(None, torch.zeros(len(sparse), 4), None)
        wanted, _ = mask_decoder(
            features[None], prompt_encoder.get_dense_pe().double(), sparse, dense.double(), False
        )
    # Both end in float32; running sums are kept in it as well.
    scale = float(wanted.abs().max())
    torch.testing.assert_close(ours.double(), wanted[:, 0], atol=1e-6 * scale, rtol=0)


def test_the_modules_are_left_alone(sam: tuple[Any, Any]) -> None:
    before = {name: value.clone() for name, value in sam[1].state_dict().items()}
    decoder = SamDecoder(*sam)
    side = decoder.prepare(image_features())
    first = decoder.decode(side, prompts(sam[0], 1, True))
    second = decoder.decode(side, prompts(sam[0], 1, True))
    assert torch.equal(first[0], second[0])  # what is shared by prompts is not changed by them either
    assert all(torch.equal(before[name], value) for name, value in sam[1].state_dict().items())


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("stable", [0.0, 0.98, 1.1])
def test_sam2(sam2: tuple[Any, Any], best: bool, stable: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask counts as stable (0), some do (0.98), none does (1.1): then another mask is read."""
    prompt_encoder, mask_decoder = sam2
    monkeypatch.setattr(mask_decoder, "dynamic_multimask_stability_thresh", stable)
    features = image_features()
    high_res = (torch.randn(32, 4 * GRID, 4 * GRID), torch.randn(64, 2 * GRID, 2 * GRID))
    points = torch.rand(6, 2, 2) * SIDE
    with torch.inference_mode():
        sparse, dense = prompt_encoder((points, torch.tensor([[2, 3]]).expand(6, 2)), None, None)
        logits, ious, _, _ = mask_decoder(
            image_embeddings=features[None],
            image_pe=prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=best,
            repeat_image=True,
            high_res_features=[level[None] for level in high_res],
        )
    decoder = SamDecoder(prompt_encoder, mask_decoder, "best" if best else "single")
    ours = decoder.decode(decoder.prepare(features, high_res), sparse)
    assert_close(ours, chosen(logits, ious))
