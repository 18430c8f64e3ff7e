"""MobileSAM's image encoder, `timm`'s with SAM's neck, gives the published package's embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.executors.config import ExecutorConfig
from envs.executors.families.mobile_sam import build_modules, fetch_weights
from envs.executors.families.preprocessing import pad
from envs.executors.families.reference import reference_predictor
from envs.executors.families.tiny_vit import TinyViT, module_names
from envs.executors.families.weights import load_state_dict
from prompter.errors import UserError


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    try:
        return load_state_dict(fetch_weights())
    except UserError as error:
        pytest.skip(f"the real weights cannot be fetched here: {error}")


@pytest.mark.parametrize("folded", [False, True])
def test_embeddings_equal_the_published_encoders(state: dict[str, torch.Tensor], folded: bool) -> None:
    predictor = reference_predictor(ExecutorConfig(family="mobile-sam", device="cpu"))
    published = predictor.predictor.model.image_encoder
    # Built after the package was imported, which registers models under the names of timm's.
    modules = build_modules()
    modules.load_state_dict(module_names(state))
    encoder = modules["image_encoder"].eval()
    assert isinstance(encoder, TinyViT)
    if folded:
        encoder.fold()
    image = np.random.default_rng(0).integers(0, 255, (300, 410, 3), dtype=np.uint8)
    with torch.inference_mode():
        ours, wanted = encoder(pad(image)[None]), published(pad(image)[None])
    assert ours.shape == (1, 256, 64, 64)
    assert float(wanted.std()) > 0.01
    torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=0)


def test_every_weight_but_the_classifiers_is_used(state: dict[str, torch.Tensor]) -> None:
    unused = {name for name in state if name.startswith(("image_encoder.head.", "image_encoder.norm_head."))}
    assert len(module_names(state)) == len(state) - len(unused) == len(build_modules().state_dict())
