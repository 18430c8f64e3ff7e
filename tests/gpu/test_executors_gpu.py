"""Executors on an NVIDIA GPU: the same masks as on the CPU, and how fast the large shapes are.

The throughput tests print one line each; run them with `pytest -s tests/gpu/test_executors_gpu.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.executors.base import Segmentation
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.promptable import PromptableSegmenter
from envs.executors.families import build_segmenter
from envs.executors.families.sam import compose_sam
from envs.executors.families.sam2 import compose_sam2
from envs.executors.serving.local import LocalExecutor
from envs.masks import iou
from envs.sample import RGB
from prompter.types import Instance, PromptSet
from tests.fixtures.requests import requests
from tests.fixtures.segmenters import save_port, save_sam, save_sam2

pytestmark = pytest.mark.gpu


def noise(width: int, height: int, seed: int = 0) -> RGB:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def prompts(count: int, side: int, seed: int = 0) -> list[PromptSet]:
    generator = np.random.default_rng(seed)
    sets = []
    for _ in range(count):
        x, y = (int(v) for v in generator.integers(0, side // 2, 2))
        instance = Instance(box=(x, y, x + side // 3, y + side // 3), positive_points=((x + 9.0, y + 9.0),))
        sets.append(PromptSet((instance, Instance(positive_points=((x + 5.0, y + 5.0),)))))
    return sets


@pytest.mark.parametrize("save", [save_sam, save_sam2, lambda folder: save_port(folder, "sam2")])
def test_masks_agree_with_the_cpu(save: Callable[[Path], ExecutorConfig], tmp_path: Path) -> None:
    config = save(tmp_path)
    images = [noise(200, 120), noise(90, 150, seed=1)]
    answers = []
    for device in ("cpu", "cuda"):
        cached = LocalExecutor(build_segmenter(config.model_copy(update={"device": device})))
        work = [(image, prompt_set) for image in images for prompt_set in prompts(6, 80)]
        answers.append(cached.segment(requests(*zip(*work, strict=True)), keep_logits=True))
    for one, other in zip(*answers, strict=True):
        assert isinstance(one, Segmentation)
        assert isinstance(other, Segmentation)
        limit = 2e-3 * float(np.abs(one.low_res_logits).max())
        np.testing.assert_allclose(one.low_res_logits, other.low_res_logits, atol=limit)
        assert iou(one.mask, other.mask) > 0.99


def sam_vit_h(config: ExecutorConfig) -> PromptableSegmenter:
    from segment_anything import sam_model_registry

    sam = sam_model_registry["vit_h"]()
    return compose_sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, config, "random")


def sam2_large(config: ExecutorConfig) -> PromptableSegmenter:
    from sam2.build_sam import build_sam2

    return compose_sam2(build_sam2("configs/sam2.1/sam2.1_hiera_l.yaml", device="cpu"), config, "random")


def seconds_of(work: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few runs, device included."""
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


@pytest.mark.parametrize("build", [sam_vit_h, sam2_large])
def test_throughput_of_the_large_shapes(build: Callable[[ExecutorConfig], PromptableSegmenter]) -> None:
    """SAM ViT-H and SAM 2.1 large, random weights, bfloat16: images/s, masks/s, share of the limit."""
    batch, group, side = 8, 16, 512
    config = ExecutorConfig(device="cuda", dtype="bfloat16", encode_batch=batch)
    executor = build(config)
    images = [noise(side, side, seed) for seed in range(batch)]
    executor.encode(images)  # first calls choose kernels
    encode = seconds_of(lambda: executor.encode(images))

    cached = LocalExecutor(executor, encode_batch=batch)
    repeated = [image for image in images for _ in range(group)]
    sets = [prompt_set for n in range(batch) for prompt_set in prompts(group, side, seed=n)]
    cached.segment(requests(repeated, sets))
    warm = seconds_of(lambda: cached.segment(requests(repeated, sets)))
    embeddings = [embedding for embedding in cached.embeddings(images) for _ in range(group)]
    limit = seconds_of(lambda: executor.decode(embeddings, sets))
    masks = sum(len(prompt_set) for prompt_set in sets)
    print(
        f"\n{build.__name__} on {torch.cuda.get_device_name()}: encode {batch / encode:.1f} images/s, "
        f"decode {masks / warm:.0f} masks/s, {limit / warm:.2f} of the decode-only limit, "
        f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    )
    assert limit / warm > 0.5
