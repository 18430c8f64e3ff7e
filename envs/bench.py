"""Time a frozen segmenter as a reward: as others use it, ours cold, ours warm, and the decode-only limit.

All on the same rollouts in one process. "Peers' way" sets the image for every completion and predicts
one instance at a time, with the published package's own predictor; it is timed on the first few images
(--peer-images) and compared per image. The decode-only limit is one call of the bare segmenter on
embeddings that are already in memory.

prompter bench executor
prompter bench executor --executor onnx --images 16 --json bench.json
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from prompter.files import atomic_write
from prompter.memory import peak_memory_mb, reset_peak_memory

if TYPE_CHECKING:
    from envs.executors.config import ExecutorConfig
    from envs.workload import Workload

PHASES = {
    "peers": "peers' way",
    "cold": "ours, cold cache",
    "warm": "ours, warm cache",
    "limit": "decode-only limit",
}


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
    """Run the four ways on one workload and return everything that was measured, JSON-ready.

    Args:
        config: the segmenter; a pool is not used, and its caches are this function's own.
        workload: see `make_workload`.
        peer_images: images on which the peers' way is timed.
        repeats: the warm run and the limit are timed this often, the fastest counts.

    Returns:
        Keys: `executor` (the config), `environment`, `workload`, `phases` (see `PHASES`), `ratios`,
        `agreement` (between the peers' masks and ours, on the images of the former).
    """
    import torch

    from envs.executors import build_executor
    from envs.executors.base import Segmentation
    from envs.executors.cache import MemoryCache
    from envs.executors.cached import CachedExecutor
    from envs.executors.reference import reference_predictor
    from envs.masks import intersection_and_union

    executor = build_executor(config)
    cached = CachedExecutor(
        executor,
        name=config.name,
        storage=config.cache_dtype,
        memory=MemoryCache(1 << 62),
        encode_batch=config.encode_batch,
    )
    images, prompts = workload.flat()
    warm_up = CachedExecutor(executor, storage=config.cache_dtype)
    warm_up.segment(images[:1], prompts[:1])  # first calls allocate, and choose kernels

    cold, results = _timed(workload, lambda: cached.segment(images, prompts))
    if not all(isinstance(result, Segmentation) for result in results):
        raise RuntimeError(f"the segmenter failed on its own benchmark: {results}")
    warm = min(
        (_timed(workload, lambda: cached.segment(images, prompts))[0] for _ in range(repeats)),
        key=lambda phase: phase.seconds,
    )
    embeddings = cached.embeddings(workload.images)
    repeated = [e for e, group in zip(embeddings, workload.prompts, strict=True) for _ in group]
    limit = min(
        (_timed(workload, lambda: executor.decode(repeated, prompts))[0] for _ in range(repeats)),
        key=lambda phase: phase.seconds,
    )
    part = workload.first(peer_images)
    predictor = reference_predictor(config)
    predictor.set_image(images[0])
    predictor.predict(prompts[0].instances[0])
    peers, peer_masks = _timed(part, lambda: _peers_way(predictor, part))

    intersections = unions = different = 0
    for mask, result in zip(peer_masks, results, strict=False):
        intersection, union = intersection_and_union(mask, result.mask)
        intersections, unions, different = (
            intersections + intersection,
            unions + union,
            different + union - intersection,
        )
    phases = {"peers": peers, "cold": cold, "warm": warm, "limit": limit}
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
            "image_size": list(workload.images[0].shape[:2]),
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
        "ratios": {
            "cold_over_peers": peers.seconds_per_image / cold.seconds_per_image,
            "warm_over_peers": peers.seconds_per_image / warm.seconds_per_image,
            "warm_over_limit": limit.seconds / warm.seconds,
            "cold_over_peers_cpu": (peers.cpu_seconds / peers.images) / (cold.cpu_seconds / cold.images),
            "warm_over_peers_cpu": (peers.cpu_seconds / peers.images) / (warm.cpu_seconds / warm.images),
        },
        "agreement": {
            "completions": len(peer_masks),
            "iou": intersections / unions if unions else 1.0,
            "different_pixels": different,
            "pixels": sum(mask.size for mask in peer_masks),
        },
        "counters": cached.counters.to_dict(),
    }


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


def render(result: dict[str, Any]) -> str:
    """The measurements as text: a row per way, then the ratios."""
    work, environment = result["workload"], result["environment"]
    config = result["executor"]
    lines = [
        f"executor {config['family']} ({config['model'] or 'default weights'}), {config['dtype']}, "
        f"cache {config['cache_dtype']}, on {environment['device']}, {environment['threads']} threads",
        f"{work['images']} images of {work['image_size'][1]} x {work['image_size'][0]}, "
        f"{work['completions']} completions, {work['instances']} instances",
        "",
        f"{'':<20}{'images':>8}{'seconds':>10}{'s/image':>10}{'masks/s':>10}{'CPU s':>10}{'peak MB':>10}",
    ]
    for name, title in PHASES.items():
        phase = result["phases"][name]
        lines.append(
            f"{title:<20}{phase['images']:>8}{phase['seconds']:>10.2f}{phase['seconds_per_image']:>10.3f}"
            f"{phase['masks_per_second']:>10.1f}{phase['cpu_seconds']:>10.2f}{phase['peak_memory_mb']:>10.0f}"
        )
    ratios, agreement = result["ratios"], result["agreement"]
    lines += [
        "",
        *(
            f"{way} is {ratios[f'{way}_over_peers']:.1f} x the peers' way "
            f"(by CPU time {ratios[f'{way}_over_peers_cpu']:.1f} x)"
            for way in ("cold", "warm")
        ),
        f"warm reaches {ratios['warm_over_limit']:.2f} of the decode-only limit",
        f"masks agree with the peers': IoU {agreement['iou']:.6f}, {agreement['different_pixels']} of "
        f"{agreement['pixels']} pixels differ over {agreement['completions']} completions",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", choices=["executor"], help="what to time")
    parser.add_argument("--executor", default="mobile-sam", metavar="FAMILY[:MODEL]", help="the segmenter")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--multimask", help="single or best; default: best for onnx, whose exported graph knows nothing else"
    )
    parser.add_argument("--cache-dtype", default="float32", help="float32, float16 or int8")
    parser.add_argument("--encode-batch", type=int, default=1, help="images per forward pass of the encoder")
    parser.add_argument("--dataset", default="aerial-buildings:train", metavar="NAME:SPLIT")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=512, help="side of the images in pixels")
    parser.add_argument("--group", type=int, default=16, help="completions per image")
    parser.add_argument("--instances", type=int, default=4, help="most instances per completion")
    parser.add_argument("--peer-images", type=int, default=2, help="images on which the peers' way is timed")
    parser.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for everything that was measured")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, write the JSON if asked to, return 0."""
    from envs.datasets import split_name
    from envs.executors import ExecutorConfig, resolve_dtype
    from envs.workload import make_workload

    for name in ("images", "side", "group", "instances", "peer_images"):
        if getattr(arguments, name) < 1:
            raise UserError(
                f"--{name.replace('_', '-')} must be at least 1, but is {getattr(arguments, name)}."
            )
    dataset, split = split_name(arguments.dataset)
    family = arguments.executor.partition(":")[0]
    config = resolve_dtype(
        ExecutorConfig.from_text(
            arguments.executor,
            dtype=arguments.dtype,
            device=arguments.device,
            multimask=arguments.multimask or ("best" if family == "onnx" else "single"),
            cache_dtype=arguments.cache_dtype,
            encode_batch=arguments.encode_batch,
        )
    )
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    workload = make_workload(
        dataset,
        split or "train",
        images=arguments.images,
        side=arguments.side,
        group=arguments.group,
        most_instances=arguments.instances,
        seed=arguments.seed,
    )
    result = bench_executor(config, workload, peer_images=min(arguments.peer_images, arguments.images))
    print(render(result))
    if arguments.json:
        with atomic_write(arguments.json) as handle:
            json.dump(result, handle, indent=1)
    return 0
