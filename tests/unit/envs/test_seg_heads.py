"""Mask heads of seg-token policies over tiny segmenters of the true classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.executors.base import Embedding
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.sam_decoder import SamDecoder
from envs.executors.serving.local import LocalExecutor
from envs.seg_token.build_head import build_head
from envs.seg_token.heads import SamHead
from envs.seg_token.settings import HeadSettings
from prompter.errors import UserError
from prompter.types import Instance
from tests.fixtures.segmenters import save_sam, save_sam2

SMALL = {"kind": "mask2former", "mask2former": {"width": 32, "encoder_layers": 1, "decoder_layers": 1}}


@pytest.fixture(scope="module", params=[save_sam, save_sam2], ids=["sam", "sam2"])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalExecutor:
    save: Callable[[Path], ExecutorConfig] = request.param
    return LocalExecutor.from_config(save(tmp_path_factory.mktemp("segmenter")))


@pytest.fixture(scope="module")
def embedding(executor: LocalExecutor) -> Embedding:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    return executor.embeddings([image])[0]


def test_the_sam_head_is_the_segmenters_own_decoder_prompted_by_one_token(
    executor: LocalExecutor, embedding: Embedding
) -> None:
    head = build_head(executor, HeadSettings())
    assert isinstance(head, SamHead)
    decoder: Any = executor.segmenter.decoder  # type: ignore[attr-defined]
    prompts = torch.randn(3, head.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = head(embedding, prompts)
    # By the decoder that executors use, which shares no code with the package's; without SAM 2's fallback.
    decoder.mask_decoder.dynamic_multimask_via_stability = False
    other = SamDecoder(decoder.prompt_encoder, decoder.mask_decoder)
    maps = embedding.tensors
    side = other.prepare(maps["image"], (maps["fine"], maps["coarse"]) if "fine" in maps else None)
    expected, _ = other.decode(side, prompts[:, None])
    assert logits.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)
    assert head.geometry(embedding) == decoder.geometry(embedding)


def test_a_point_is_written_as_the_segmenter_writes_it(executor: LocalExecutor, embedding: Embedding) -> None:
    head = build_head(executor, HeadSettings())
    decoder: Any = executor.segmenter.decoder  # type: ignore[attr-defined]
    tokens = decoder.prompt_tokens(embedding, [Instance(positive_points=((30.0, 20.0),))])
    assert torch.equal(head.point_token((30.0, 20.0), (90, 60)), tokens[0, 0])


def test_training_the_head_leaves_the_executors_decoder_alone(
    executor: LocalExecutor, embedding: Embedding
) -> None:
    head = build_head(executor, HeadSettings())
    head(embedding, torch.randn(2, head.width)).square().mean().backward()
    trained = [one for one in head.parameters() if one.requires_grad]
    assert trained and all(one.grad is not None for one in trained)
    decoder: Any = executor.segmenter.decoder  # type: ignore[attr-defined]
    assert not any(one.requires_grad for one in decoder.mask_decoder.parameters())
    with torch.no_grad():
        trained[0].add_(1.0)
    names = [name for name, one in head.named_parameters() if one is trained[0]]
    own = dict(decoder.mask_decoder.named_parameters())[names[0].removeprefix("mask_decoder.")]
    assert not torch.equal(own, trained[0])


def test_mask2former_decodes_each_prompt_alone(executor: LocalExecutor, embedding: Embedding) -> None:
    torch.manual_seed(0)
    head = build_head(executor, HeadSettings.model_validate(SMALL))
    assert head.width == 32
    prompts = torch.randn(3, 32)
    logits = head(embedding, prompts)
    low = head.geometry(embedding).low_hw
    assert logits.shape == (3, *low) == (3, 64, 64)
    torch.testing.assert_close(head(embedding, prompts[1:2]), logits[1:2], atol=1e-4, rtol=1e-3)
    logits.square().mean().backward()
    unreached = [name for name, one in head.named_parameters() if one.grad is None]
    assert unreached == []
    with pytest.raises(UserError, match="takes SAM's prompts"):
        head.point_token((1.0, 1.0), (90, 60))


def test_heads_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has to be trained"):
        HeadSettings(kind="mask2former", train=False)
    box = LocalExecutor.from_config(ExecutorConfig(family="box"))
    with pytest.raises(UserError, match="does not have: take mobile-sam"):
        build_head(box, HeadSettings())
