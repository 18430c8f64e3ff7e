"""A pool of vLLM engines, each a Ray actor: one prompt's group is sampled by one engine.

An engine that dies is replaced (counted, up to a limit), and its share of a call is sampled again by
whichever engine is free first. Engines hold no state that matters: the adapter to sample from goes
with each call, and seeds belong to prompts, so the samples are those that the dead engine would have
given.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray
from PIL import Image

from prompter.runs.actors import ActorPool, Call, PooledActor
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.token_sampler import TokenPrompt, TokenSampler
from prompter.sampling.vllm_engine import VllmSampler, check_adapter_rank, engine_rank
from prompter.types import Completion

if TYPE_CHECKING:
    from prompter.checkpoint import Checkpoint

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class RayVllmPool(TokenSampler):
    """`config.actors` vLLM engines, each in an actor of its own, on this machine or on a cluster.

    Args:
        policy: what to sample from. Every node must be able to open `policy.source`.
        config: see `SamplerConfig`.
        lora_rank: rank of the adapters that `sync_adapter` will be given; None if it never is.

    Ray must be running (`prompter.runs.ray_runtime.ensure_ray`). Engines start in the background: the
    constructor returns at once, `wait_ready` waits, and so does the first call that samples.

    Raises:
        UserError: if a Ray on this machine alone is too small for the engines, or vLLM for the rank.

    Attributes:
        resampled_prompts: prompts that were sampled again because their engine died.
        shipped_images: images put into the object store so far, each once per call.
    """

    def __init__(
        self, policy: Checkpoint, config: SamplerConfig | None = None, *, lora_rank: int | None = None
    ) -> None:
        super().__init__(policy.processor)
        self.config = config or SamplerConfig()
        self.resampled_prompts = 0
        self.shipped_images = 0
        source = Path(policy.source)  # actors have another working folder
        if source.is_dir():
            policy = replace(policy, source=str(source.resolve()))
        self._engine_rank = engine_rank(lora_rank)
        self._folder = Path(tempfile.gettempdir()) / f"prompter-adapters-{uuid.uuid4().hex[:12]}"
        self._adapter: list[ray.ObjectRef] = []
        environment = {}
        if self.config.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.config.threads)
            if self.config.threads > 1 and "OMP_WAIT_POLICY" not in os.environ:
                # Threads that wait by spinning starve as soon as another process wants their cores:
                # 200 tokens/s instead of 1,900 (two threads on two cores, one of them busy).
                environment["OMP_WAIT_POLICY"] = "PASSIVE"
        self._pool = ActorPool(
            VllmWorker,
            (policy, self.config, lora_rank, self._folder),
            self.config,
            ("engines", "the sampler", "sampler"),
            environment=environment,
            start_seconds=self.config.timeout_seconds,
        )
        self.wait_ready, self.process_ids = self._pool.wait_ready, self._pool.process_ids

    @property
    def restarts(self) -> int:
        """Engines replaced so far."""
        return self._pool.restarts

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """Sample from the LoRA adapter in folder `adapter` from now on; set `version`.

        Its files go to the object store once, and each engine fetches them when it next samples.

        Raises:
            UserError: as `VllmSampler.sync_adapter`.
        """
        check_adapter_rank(adapter, self._engine_rank)
        self._adapter = [ray.put({name: (adapter / name).read_bytes() for name in _ADAPTER_FILES})]
        self.version = version

    def _generate(
        self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool
    ) -> list[list[Completion]]:
        shipped = self._ship(prompts)
        bounds = np.linspace(0, len(shipped), min(self.config.actors, len(shipped)) + 1).astype(int)
        shares = [shipped[start:end] for start, end in pairwise(bounds)]
        calls = [
            Call("generate", (share, settings, logprobs, self._adapter, self.version)) for share in shares
        ]
        try:
            self._pool.run(calls)
        finally:
            self.resampled_prompts += sum(
                call.tries * len(share) for call, share in zip(calls, shares, strict=True)
            )
        return [group for call in calls for group in call.answer]

    def _ship(self, prompts: Sequence[TokenPrompt]) -> list[TokenPrompt]:
        """Prompts with a reference in place of the image; each image is put into the object store once."""
        references: dict[object, ray.ObjectRef] = {}
        shipped = []
        for prompt in prompts:
            image = prompt.image
            key = prompt.image_key or (image.mode, image.size, image.tobytes())
            if key not in references:
                references[key] = ray.put(np.asarray(image.convert("RGB")))
            shipped.append(replace(prompt, image=references[key]))
        self.shipped_images += len(references)
        return shipped

    def close(self) -> None:
        """End all engines and remove their copies of adapters. Safe to call twice."""
        self._pool.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class VllmWorker(PooledActor):
    """What runs in an actor: a `VllmSampler`."""

    def __init__(
        self, policy: Checkpoint, config: SamplerConfig, lora_rank: int | None, folder: Path
    ) -> None:
        self._folder = folder / uuid.uuid4().hex[:12]
        self._sampler = VllmSampler(policy, config, lora_rank=lora_rank)
        self._loaded: int | None = None

    def generate(
        self,
        prompts: list[TokenPrompt],
        settings: SamplingSettings,
        logprobs: bool,
        adapter: list[ray.ObjectRef],
        version: int,
    ) -> list[list[Completion]]:
        """Sample a share of a call's prompts, whose images are references, from a version of the policy.

        `adapter` holds the reference to the version's files by name, or nothing.
        """
        if adapter and version != self._loaded:
            self._load(ray.get(adapter[0]), version)
        references = {prompt.image for prompt in prompts}
        opened = {reference: Image.fromarray(ray.get(reference)) for reference in references}
        prompts = [replace(prompt, image=opened[prompt.image]) for prompt in prompts]
        return self._sampler._generate(prompts, settings, logprobs)

    def _load(self, files: dict[str, bytes], version: int) -> None:
        """Write an adapter's files beside this engine, sample from them, and drop the ones before."""
        shutil.rmtree(self._folder, ignore_errors=True)
        folder = self._folder / str(version)
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        self._sampler.sync_adapter(folder, version)
        self._loaded = version
