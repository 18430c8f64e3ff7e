"""Time a frozen segmenter as a reward: as others use it, ours cold, ours warm, and the decode-only limit.

All on the same rollouts in one process. "Peers' way" sets the image for every completion and predicts
one instance at a time, with the published package's own predictor; it is timed on the first few images
and compared per image. Where ours computes in another type than float32, it is timed in both, so that it is
plain how much of a ratio is the type's. The decode-only limit is one call of the bare segmenter on
embeddings that are already in memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.runs.memory import peak_memory_mb, reset_peak_memory

if TYPE_CHECKING:
    from envs.executors.config import ExecutorConfig
    from envs.workload import Workload

PHASES = {
    "peers": "peers' way, float32",
    "peers_in_our_dtype": "peers' way, our type",
    "cold": "ours, cold cache",
    "warm": "ours, warm cache",
    "limit": "decode-only limit",
}

FLOAT32_ONLY = ("box", "onnx")
"""Families whose peers' way knows one type: there is nothing to compute, or a graph that fixes it."""


@dataclass(frozen=True)
class Phase:
    """What one way of doing the work took.

    Args:
        seconds, cpu_seconds: wall time, and CPU time of this process (both cores' together).
        images, completions, instances: how much of the work was done.
        peak_memory_mb: highest resident memory of this process meanwhile.
        peak_gpu_memory_mb: highest memory allocated by PyTorch on a GPU meanwhile, 0 without one.
    """

    seconds: float
    cpu_seconds: float
    images: int
    completions: int
    instances: int
    peak_memory_mb: float
    peak_gpu_memory_mb: float

    @property
    def seconds_per_image(self) -> float:
        """Wall time per image with all its completions."""
        return self.seconds / self.images

    @property
    def masks_per_second(self) -> float:
        """Instances per second of wall time."""
        return self.instances / self.seconds


def bench_executor(
    config: ExecutorConfig, workload: Workload, *, peer_images: int = 2, repeats: int = 3
) -> dict[str, Any]:
    """Run all ways on one workload and return everything that was measured, JSON-ready.

    Args:
        config: the segmenter; a pool is not used, and its caches are this function's own.
        workload: see `make_workload`.
        peer_images: images on which the peers' way is timed.
        repeats: the warm run and the limit are timed this often, the fastest counts.

    Returns:
        Keys: `executor` (the config), `environment`, `workload`, `phases` (see `PHASES`; without
        "peers_in_our_dtype" where that is float32), `ratios`, `agreement` (between the peers' masks in
        float32 and ours, on the images of the former).
    """
    import torch

    from envs.executors.base import Segmentation
    from envs.executors.families import build_segmenter
    from envs.executors.families.reference import reference_predictor
    from envs.executors.serving.embedding_cache import MemoryCache
    from envs.executors.serving.local import LocalExecutor
    from envs.masks import intersection_and_union

    executor = build_segmenter(config)
    cached = LocalExecutor(
        executor,
        name=config.name,
        storage=config.cache_dtype,
        memory=MemoryCache(1 << 62),
        encode_batch=config.encode_batch,
    )
    requests = workload.requests()
    warm_up = LocalExecutor(executor, storage=config.cache_dtype)
    warm_up.segment(requests[:1])  # first calls allocate, and choose kernels

    cold, results = _timed(workload, lambda: cached.segment(requests))
    if not all(isinstance(result, Segmentation) for result in results):
        raise RuntimeError(f"the segmenter failed on its own benchmark: {results}")
    warm = min(
        (_timed(workload, lambda: cached.segment(requests))[0] for _ in range(repeats)),
        key=lambda phase: phase.seconds,
    )
    embeddings = cached.embeddings(workload.images)
    repeated = [e for e, group in zip(embeddings, workload.prompts, strict=True) for _ in group]
    limit = min(
        (
            _timed(workload, lambda: executor.decode(repeated, [request.prompts for request in requests]))[0]
            for _ in range(repeats)
        ),
        key=lambda phase: phase.seconds,
    )
    part = workload.first(peer_images)
    peers, peer_masks = _time_peers(reference_predictor(config), part)
    phases = {"peers": peers, "cold": cold, "warm": warm, "limit": limit}
    if config.dtype != "float32" and config.family not in FLOAT32_ONLY:
        phases["peers_in_our_dtype"], _ = _time_peers(reference_predictor(config, config.dtype), part)

    intersections = unions = different = 0
    for mask, result in zip(peer_masks, results, strict=False):
        intersection, union = intersection_and_union(mask, result.mask)
        intersections, unions, different = (
            intersections + intersection,
            unions + union,
            different + union - intersection,
        )
    return {
        "executor": config.model_dump(mode="json"),
        "environment": {
            "threads": torch.get_num_threads(),
            "device": str(getattr(executor, "device", "cpu")),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "torch": torch.__version__,
            "cpu": _cpu_name(),
        },
        "workload": {
            "images": len(workload.images),
            "image_hw": list(workload.images[0].shape[:2]),
            "completions": workload.completions,
            "instances": workload.instances,
        },
        "phases": {
            name: {
                **asdict(phase),
                "seconds_per_image": phase.seconds_per_image,
                "masks_per_second": phase.masks_per_second,
            }
            for name, phase in phases.items()
        },
        "ratios": _ratios(phases),
        "agreement": {
            "completions": len(peer_masks),
            "iou": intersections / unions if unions else 1.0,
            "different_pixels": different,
            "pixels": sum(mask.size for mask in peer_masks),
        },
        "counters": cached.counters.to_dict(),
    }


def _ratios(phases: dict[str, Phase]) -> dict[str, float]:
    """How many times as long as ours the peers' way takes, by wall and CPU time; and warm over the limit."""
    ratios = {"warm_over_limit": phases["limit"].seconds / phases["warm"].seconds}
    for other in ("peers", "peers_in_our_dtype"):
        for own in ("cold", "warm"):
            if other in phases:
                theirs, ours = phases[other], phases[own]
                ratios[f"{own}_over_{other}"] = theirs.seconds_per_image / ours.seconds_per_image
                ratios[f"{own}_over_{other}_cpu"] = (theirs.cpu_seconds / theirs.images) / (
                    ours.cpu_seconds / ours.images
                )
    return ratios


def _time_peers(predictor: Any, workload: Workload) -> tuple[Phase, list[Any]]:
    """Time the peers' way on a workload, after one call of each kind; returns its union masks too."""
    predictor.set_image(workload.images[0])
    predictor.predict(workload.prompts[0][0].instances[0])
    return _timed(workload, lambda: _peers_way(predictor, workload))


def _peers_way(predictor: Any, workload: Workload) -> list[Any]:
    """Union mask of every completion: the image is set for each of them, instances go one by one."""
    import numpy as np

    masks = []
    for image, group in zip(workload.images, workload.prompts, strict=True):
        for prompt_set in group:
            predictor.set_image(image)
            union = np.zeros(image.shape[:2], dtype=np.bool_)
            for instance in prompt_set.instances:
                union |= predictor.predict(instance)[0]
            masks.append(union)
    return masks


def _timed(workload: Workload, work: Callable[[], Any]) -> tuple[Phase, Any]:
    """Run `work`, which does all of `workload`, and measure it."""
    import torch

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    reset_peak_memory()
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    phase = Phase(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        images=len(workload.images),
        completions=workload.completions,
        instances=workload.instances,
        peak_memory_mb=peak_memory_mb(),
        peak_gpu_memory_mb=torch.cuda.max_memory_allocated() / 1e6 if on_gpu else 0.0,
    )
    return phase, result


def _cpu_name() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else "unknown"
