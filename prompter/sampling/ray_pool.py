"""A pool of vLLM engines, each a Ray actor: one prompt's group is sampled by one engine.

A call is cut into small shares that wait in one queue, so that a slow engine takes fewer of them. An engine
that dies or hangs is replaced (counted, up to a limit), and its share is sampled again by whichever engine
is free first; so is, by an idle engine, a share that takes far longer than the others. Engines hold no state
that matters: what brings one to the version to sample from goes with each share as references, and seeds
belong to prompts. So the samples are those that the other engine would have given, and neither how many
engines there are nor how a call is cut changes a result.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from PIL import Image

from prompter.chat import SamplingRequest
from prompter.runs.actors import ActorPool, Call, PooledActor
from prompter.runs.dispatch import Dispatcher
from prompter.runs.machinery import Machinery
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.token_sampler import TokenPrompt, TokenSampler
from prompter.sampling.vllm_engine import VllmSampler, check_adapter_rank, engine_rank
from prompter.sampling.weights import check_takes_weights, pack, unpack
from prompter.types import Completion

if TYPE_CHECKING:
    import torch

    from prompter.checkpoint import Checkpoint

START_SECONDS = 1800.0
"""Longest that an engine may take to start: it may have to fetch its weights and to capture its graphs."""

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Shipment:
    """What makes engines sample from another version: an adapter, or all weights.

    Args:
        number: of this shipment, unlike any other of its pool.
        version: of the policy, see `Sampler.version`.
        is_adapter: whether it is an adapter, and not all weights.
        references: into the object store: of an adapter, one to its files' contents by name; of weights,
            one for each parcel (`prompter.sampling.weights.pack`).
    """

    number: int
    version: int
    is_adapter: bool
    references: list[ray.ObjectRef]


class RayVllmPool(TokenSampler):
    """`config.actors` vLLM engines, each in an actor of its own, on this machine or on a cluster.

    Args:
        policy: what to sample from. Every node must be able to open `policy.source`.
        config: see `SamplerConfig`.
        lora_rank: rank of the adapters that `sync_adapter` will be given; None if it never is.
        machinery: what the engines are made of, to measure the pool without any; None is Ray.

    Ray must be running (`prompter.runs.ray_runtime.ensure_ray`). Engines start in the background: the
    constructor returns at once, `wait_ready` waits, and so does the first call that samples.

    Raises:
        UserError: if a Ray on this machine alone is too small for the engines, or vLLM for the rank.

    Attributes:
        resampled_prompts: prompts that were sampled again because their engine died or hung.
        repeated_prompts: prompts that an idle engine was given too because the first was slow.
        shipped_images: images put into the object store so far, each once per call.
    """

    def __init__(
        self,
        policy: Checkpoint,
        config: SamplerConfig | None = None,
        *,
        lora_rank: int | None = None,
        machinery: Machinery | None = None,
    ) -> None:
        super().__init__(policy.processor)
        self.config = config or SamplerConfig()
        self.resampled_prompts = self.repeated_prompts = self.shipped_images = 0
        self._share_seconds: list[float] = []
        source = Path(policy.source)  # actors have another working folder
        if source.is_dir():
            policy = replace(policy, source=str(source.resolve()))
        self._engine_rank = engine_rank(lora_rank)
        self._folder = Path(tempfile.gettempdir()) / f"prompter-adapters-{uuid.uuid4().hex[:12]}"
        self._numbers = count()
        # In order, what makes a fresh engine one of the present version: weights, an adapter, both or none.
        self._shipments: list[Shipment] = []
        words = ("engines", "the sampler", "sampler")
        options: dict[str, Any] = {
            "start_seconds": START_SECONDS,
            "queue_depth": self.config.queue_depth,
            "side_by_side": True,
            "slow_factor": self.config.slow_factor,
        }
        if machinery is None:
            arguments = (policy, self.config, lora_rank, self._folder)
            self._pool: Dispatcher = ActorPool(
                VllmWorker, arguments, self.config, words, environment=_environment(self.config), **options
            )
        else:
            self._pool = Dispatcher(machinery, self.config, words, **options)
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
        files = {name: (adapter / name).read_bytes() for name in _ADAPTER_FILES}
        references = [self._pool.machinery.put(files)]
        kept = [shipment for shipment in self._shipments if not shipment.is_adapter]
        self._shipments = [*kept, Shipment(next(self._numbers), version, True, references)]
        self.version = version

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Sample from these weights from now on; set `version`. See `Sampler.sync_weights`.

        They go to the object store once, and each engine reads them there when it next samples. The store
        holds two versions while one takes the other's place, and one between calls.

        Raises:
            UserError: if an engine of the config takes none.
        """
        check_takes_weights(self.config)
        references = [self._pool.machinery.put(parcel) for parcel in pack(weights)]
        self._shipments = [Shipment(next(self._numbers), version, False, references)]
        self.version = version

    def sample_in_parts(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> Generator[list[tuple[int, list[Completion]]], None, None]:
        """See `Sampler.sample_in_parts`: a part is a share, or as many as are there; the engines go on."""
        return self._parts(self._prompts(requests, settings), settings, logprobs)

    def counters(self) -> dict[str, int]:
        """See `Sampler.counters`."""
        return {
            "engine_restarts": self._pool.restarts,
            "engine_timeouts": self._pool.timeouts,
            "resampled_prompts": self.resampled_prompts,
            "repeated_prompts": self.repeated_prompts,
            "late_shares": self._pool.late,
        }

    def take_share_seconds(self) -> list[float]:
        """See `Sampler.take_share_seconds`; `prompter bench scale` reads them from a run's metrics."""
        taken, self._share_seconds = self._share_seconds, []
        return taken

    def _generate(
        self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool
    ) -> list[list[Completion]]:
        groups = dict(chain.from_iterable(self._parts(prompts, settings, logprobs)))
        return [groups[place] for place in range(len(prompts))]

    def _parts(
        self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool
    ) -> Generator[list[tuple[int, list[Completion]]], None, None]:
        shipped = self._ship(prompts)
        places: dict[Call, range] = {}
        for start, end in pairwise(share_bounds(len(shipped), settings.n, self.config)):
            share = shipped[start:end]
            places[Call("generate", (share, settings, logprobs, self._shipments))] = range(start, end)
        try:
            for part in self._pool.in_parts(list(places)):
                yield [group for call in part for group in zip(places[call], call.answer, strict=True)]
        finally:
            self.resampled_prompts += sum(call.tries * len(share) for call, share in places.items())
            self.repeated_prompts += sum(call.again * len(share) for call, share in places.items())
            self._share_seconds += [call.seconds for call in places if call.seconds is not None]

    def _ship(self, prompts: Sequence[TokenPrompt]) -> list[TokenPrompt]:
        """Prompts with a reference in place of the image; each image is put into the object store once."""
        references: dict[object, ray.ObjectRef] = {}
        shipped = []
        for prompt in prompts:
            image = prompt.image
            key = prompt.image_key or (image.mode, image.size, image.tobytes())
            if key not in references:
                references[key] = self._pool.machinery.put(np.asarray(image.convert("RGB")))
            shipped.append(replace(prompt, image=references[key]))
        self.shipped_images += len(references)
        return shipped

    def close(self) -> None:
        """End all engines and remove their copies of adapters. Safe to call twice."""
        self._pool.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def share_bounds(prompts: int, completions: int, config: SamplerConfig) -> list[int]:
    """Where a call of `prompts` prompts, `completions` each, is cut: share k is from bound k to bound k + 1.

    A share fills an engine once (`max_num_seqs`), unless the config says otherwise; there is one for each
    engine, though, if there are prompts for it. Shares of a call differ by one prompt at most.
    """
    size = config.share_prompts or math.ceil(config.max_num_seqs / completions)
    shares = min(prompts, max(config.actors, math.ceil(prompts / size)))
    return [prompts * share // shares for share in range(shares + 1)] if prompts else [0]


def _environment(config: SamplerConfig) -> dict[str, str]:
    """Variables of the engines' processes."""
    if config.threads is None:
        return {}
    environment = {"OMP_NUM_THREADS": str(config.threads)}
    if config.threads > 1 and "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait by spinning starve as soon as another process wants their cores:
        # 200 tokens/s instead of 1,900 (two threads on two cores, one of them busy).
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    return environment


class VllmWorker(PooledActor):
    """What runs in an actor: a `VllmSampler`.

    Shares are sampled side by side, so that the engine is full until the last: `generate` is a coroutine, and
    whichever share's turn it is lets the engine do a step for all.
    """

    def __init__(
        self, policy: Checkpoint, config: SamplerConfig, lora_rank: int | None, folder: Path
    ) -> None:
        self._folder = folder / uuid.uuid4().hex[:12]
        self._sampler = VllmSampler(policy, config, lora_rank=lora_rank)
        self._received: list[int] = []  # numbers of the shipments that made the engine what it is
        self._active = 0  # shares that are sampled

    async def generate(
        self,
        prompts: list[TokenPrompt],
        settings: SamplingSettings,
        logprobs: bool,
        shipments: list[Shipment],
    ) -> list[list[Completion]]:
        """Sample a share of a call's prompts, whose images are references, from a version of the policy.

        `shipments` make a fresh engine one of that version; those that this one has are not taken again.
        Shares of another version (which nobody waits for any more) are finished first.
        """
        opened = {
            reference: Image.fromarray(await reference) for reference in {prompt.image for prompt in prompts}
        }
        while self._active and self._received != [shipment.number for shipment in shipments]:
            await asyncio.sleep(0)
        for place, shipment in enumerate(shipments):
            if self._received[place : place + 1] != [shipment.number]:
                self._received = self._received[:place]
                self._receive(shipment)
                self._received.append(shipment.number)
        self._active += 1
        try:
            ticket = self._sampler.enqueue(
                [replace(prompt, image=opened[prompt.image]) for prompt in prompts], settings, logprobs
            )
            while (groups := self._sampler.collect(ticket)) is None:
                self._sampler.step()
                await asyncio.sleep(0)  # other shares come in, or find that they are finished
            return groups
        finally:
            self._active -= 1

    def _receive(self, shipment: Shipment) -> None:
        """Sample from a shipment from now on. An adapter's files are written beside this engine."""
        if not shipment.is_adapter:
            self._sampler.sync_weights(_tensors(shipment.references), shipment.version)
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        folder = self._folder / str(shipment.version)
        folder.mkdir(parents=True)
        for name, content in ray.get(shipment.references[0]).items():
            (folder / name).write_bytes(content)
        self._sampler.sync_adapter(folder, shipment.version)


def _tensors(references: Iterable[ray.ObjectRef]) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights by name, one parcel fetched at a time."""
    for reference in references:
        yield from unpack(ray.get(reference))
