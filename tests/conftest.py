"""Shared by all tests: tiers by folder, no GPU test without a GPU, and one Hypothesis profile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

TIERS = ("smoke", "gpu", "contract", "golden")

# No deadline: two cores may be busy with a training run. Derandomised, so that a red run stays red.
settings.register_profile("prompter", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("prompter")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its folder's tier, and skip those that need a GPU where there is none."""
    for item in items:
        tier = Path(item.path).parent.name
        if tier in TIERS:
            item.add_marker(tier)
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needing_gpu and not _cuda_is_available():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="module")
def small_heap() -> Iterator[None]:
    """For tests that evaluate or write reports, which collect garbage: not in all that pytest imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _cuda_is_available() -> bool:
    import torch  # here, not above: most runs collect no GPU test and need not wait for torch

    return torch.cuda.is_available()
