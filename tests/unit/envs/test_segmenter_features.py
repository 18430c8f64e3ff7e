"""Image features of a frozen segmenter, for pooling under masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from envs.executors import ExecutorConfig, open_executor
from envs.proposals.segmenter_features import segmenter_features
from prompter.errors import UserError
from tests.fixtures.segmenters import SIDE, save_sam


def test_padding_is_cut_off(tmp_path: Path) -> None:
    executor = open_executor(save_sam(tmp_path))
    wide = np.random.default_rng(0).integers(0, 256, (SIDE // 2, SIDE, 3), np.uint8)
    features = segmenter_features(executor, wide)
    assert features.shape == (8, 16, 256) and features.dtype == torch.float32
    (embedding,) = executor.embeddings([wide])  # type: ignore[union-attr]
    assert torch.equal(features[3, 5], embedding.tensors["image"][:, 3, 5])
    assert executor.counters.encodes == 1
    square = np.ascontiguousarray(np.concatenate([wide, wide]))
    assert segmenter_features(executor, square).shape == (16, 16, 256)


def test_a_segmenter_without_features_is_named() -> None:
    with pytest.raises(UserError, match="box is none"):
        segmenter_features(open_executor(ExecutorConfig(family="box")), np.zeros((4, 4, 3), np.uint8))
