"""A pool of vLLM engines, each a Ray actor: one prompt's group is sampled by one engine.

An engine that dies is replaced (counted, up to a limit) and given the current adapter; its share of
the call is sampled again by whichever engine is free first. Seeds belong to prompts, so the samples
are those that the dead engine would have given.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from PIL import Image
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from prompter.errors import InfrastructureError, UserError
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.token_sampler import TokenSampler
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
        UserError: if a Ray on this machine alone is too small for the engines, which would wait for ever.

    Attributes:
        restarts: engines replaced so far.
        resampled_prompts: prompts that were sampled again because their engine died.
        shipped_images: images put into the object store so far, each once per call.
    """

    def __init__(
        self, policy: Checkpoint, config: SamplerConfig | None = None, *, lora_rank: int | None = None
    ) -> None:
        super().__init__(policy.processor)
        self.config = config or SamplerConfig()
        self._check_room()
        self.restarts = 0
        self.resampled_prompts = 0
        self.shipped_images = 0
        source = Path(policy.source)  # actors have another working folder
        self._policy = replace(policy, source=str(source.resolve())) if source.is_dir() else policy
        self._lora_rank = lora_rank
        self._folder = Path(tempfile.gettempdir()) / f"prompter-adapters-{uuid.uuid4().hex[:12]}"
        self._adapter: tuple[ray.ObjectRef, int] | None = None
        self._engines = [self._start_engine() for _ in range(self.config.actors)]

    def _check_room(self) -> None:
        if ray.util.get_node_ip_address() != "127.0.0.1":
            return  # a cluster may grow
        there = ray.cluster_resources()
        for resource, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
            wanted = self.config.actors * getattr(self.config, key)
            if wanted > there.get(resource, 0):
                raise UserError(
                    f"{self.config.actors} engines of sampler.{key} {getattr(self.config, key):g} need "
                    f"{wanted:g} {resource}s, but Ray has {there.get(resource, 0):g}: lower sampler.actors "
                    f"or sampler.{key}" + (", or raise ray.num_cpus" if resource == "CPU" else "")
                )

    def wait_ready(self) -> None:
        """Return when every engine can sample.

        Raises:
            RuntimeError: if an engine cannot be started; the message ends with the cause.
        """
        self._call_all("version")

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """Send the LoRA adapter in folder `adapter` to every engine, once; set `version`.

        Raises:
            UserError: as `VllmSampler.sync_adapter`.
            RuntimeError: if more engines died than `max_restarts`.
        """
        files = {name: (adapter / name).read_bytes() for name in _ADAPTER_FILES}
        self._adapter = (ray.put(files), version)
        self._call_all("load_adapter", *self._adapter)
        self.version = version

    def process_ids(self) -> list[int]:
        """Process id of each engine, on its own node."""
        return [ray.get(engine.process_id.remote()) for engine in self._engines]

    def _generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        images: Sequence[Image.Image],
        settings: SamplingSettings,
        seeds: Sequence[int | None],
        logprobs: bool,
    ) -> list[list[Completion]]:
        shipped = self._ship(images)
        bounds = np.linspace(0, len(prompt_ids), min(len(self._engines), len(prompt_ids)) + 1).astype(int)
        waiting = deque(range(start, end) for start, end in pairwise(bounds))
        idle = deque(range(len(self._engines)))
        running: dict[ray.ObjectRef, tuple[int, range]] = {}
        groups: list[list[Completion]] = [[] for _ in prompt_ids]
        while waiting or any(share for _, share in running.values()):
            while waiting and idle:
                share, number = waiting.popleft(), idle.popleft()
                call = self._engines[number].generate.remote(
                    [list(prompt_ids[i]) for i in share],
                    [shipped[i] for i in share],
                    settings,
                    [seeds[i] for i in share],
                    logprobs,
                )
                running[call] = (number, share)
            finished, _ = ray.wait(list(running), timeout=self.config.timeout_seconds)
            for call in finished or list(running):
                number, share = running.pop(call)
                try:
                    answer = ray.get(call, timeout=0)
                except RayTaskError as error:
                    raise error.cause from None
                except (RayActorError, GetTimeoutError) as error:
                    self._replace_engine(number, error)
                    if share:
                        waiting.append(share)
                        self.resampled_prompts += len(share)
                    # The new engine takes a share when it is up, unless another is free before.
                    running[self._engines[number].version.remote()] = (number, range(0))
                    continue
                idle.append(number)
                if share:
                    self._place(groups, number, share, answer)
        return groups

    def _place(
        self,
        groups: list[list[Completion]],
        number: int,
        share: range,
        answer: tuple[int, list[list[Completion]]],
    ) -> None:
        """Put an engine's answer for the prompts of `share` where it belongs."""
        version, sampled = answer
        if version != self.version:
            raise RuntimeError(f"engine {number} sampled version {version} of the policy, not {self.version}")
        for i, group in zip(share, sampled, strict=True):
            groups[i] = group

    def _ship(self, images: Sequence[Image.Image]) -> list[ray.ObjectRef]:
        """Put each distinct image into the object store once; one reference per image given."""
        references: dict[tuple[tuple[int, int], bytes], ray.ObjectRef] = {}
        shipped = []
        for image in images:
            pixels = np.asarray(image.convert("RGB"))
            key = (image.size, pixels.tobytes())
            if key not in references:
                references[key] = ray.put(pixels)
            shipped.append(references[key])
        self.shipped_images += len(references)
        return shipped

    def _start_engine(self) -> Any:
        environment = {}
        if self.config.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.config.threads)
            if self.config.threads > 1 and "OMP_WAIT_POLICY" not in os.environ:
                # Threads that wait by spinning starve as soon as another process wants their cores:
                # 200 tokens/s instead of 1,900 (two threads on two cores, one of them busy).
                environment["OMP_WAIT_POLICY"] = "PASSIVE"
        actor = _Engine.options(  # type: ignore[attr-defined]
            num_cpus=self.config.num_cpus,
            num_gpus=self.config.num_gpus,
            runtime_env={"env_vars": environment} if environment else None,
        ).remote(self._policy, self.config, self._lora_rank, self._folder)
        if self._adapter is not None:
            actor.load_adapter.remote(*self._adapter)  # an actor works through its calls in order
        return actor

    def _replace_engine(self, number: int, error: Exception) -> None:
        """Start another engine in place of a dead one, or give up."""
        if getattr(error, "actor_init_failed", False):
            raise InfrastructureError(f"a vLLM engine could not be started: {_cause(error)}") from error
        if self.restarts >= self.config.max_restarts:
            raise InfrastructureError(
                f"a vLLM engine died after {self.restarts} others had been replaced, and "
                f"sampler.max_restarts is {self.config.max_restarts}: {_cause(error)}"
            ) from error
        self.restarts += 1
        ray.kill(self._engines[number])  # a silent one may still be running
        self._engines[number] = self._start_engine()

    def _call_all(self, method: str, *arguments: Any) -> None:
        """Call a method of every engine, replacing those that are dead until all have answered."""
        calls = {
            number: getattr(engine, method).remote(*arguments) for number, engine in enumerate(self._engines)
        }
        failure: Exception | None = None
        while calls:
            for number, call in list(calls.items()):
                try:
                    ray.get(call, timeout=self.config.timeout_seconds)
                    del calls[number]
                except RayTaskError as error:
                    failure = error.cause
                    del calls[number]
                except (RayActorError, GetTimeoutError) as error:
                    self._replace_engine(number, error)
                    calls[number] = getattr(self._engines[number], method).remote(*arguments)
        if failure is not None:
            raise failure from None

    def close(self) -> None:
        """End all engines and remove their copies of adapters. Safe to call twice."""
        for engine in self._engines:
            ray.kill(engine)
        self._engines = []
        shutil.rmtree(self._folder, ignore_errors=True)


@ray.remote(max_restarts=0)
class _Engine:
    """One `VllmSampler` in a process of its own."""

    def __init__(
        self, policy: Checkpoint, config: SamplerConfig, lora_rank: int | None, folder: Path
    ) -> None:
        from prompter.sampling.vllm_engine import VllmSampler

        self._folder = folder / uuid.uuid4().hex[:12]
        self._sampler = VllmSampler(policy, config, lora_rank=lora_rank)

    def version(self) -> int:
        """Version of the policy that is sampled."""
        return self._sampler.version

    def process_id(self) -> int:
        """Id of this process on its node."""
        return os.getpid()

    def load_adapter(self, files: dict[str, bytes], version: int) -> None:
        """Write an adapter's files beside this engine, sample from them, and drop the ones before."""
        folder = self._folder / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        self._sampler.sync_adapter(folder, version)
        for old in self._folder.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def generate(
        self,
        prompt_ids: list[list[int]],
        images: list[ray.ObjectRef],
        settings: SamplingSettings,
        seeds: list[int | None],
        logprobs: bool,
    ) -> tuple[int, list[list[Completion]]]:
        """Sample a share of a call's prompts; return the policy's version and the completions."""
        opened = {reference: Image.fromarray(ray.get(reference)) for reference in set(images)}
        groups = self._sampler._generate(
            prompt_ids, [opened[reference] for reference in images], settings, seeds, logprobs
        )
        return self._sampler.version, groups


def _cause(error: Exception) -> str:
    """The innermost exception of a remote traceback on one line, or the message's last line."""
    text = str(error)
    exceptions = list(re.finditer(r"^[ \t]*[\w.]*(?:Error|Exception)\b.*", text, re.MULTILINE))
    lines = text[exceptions[-1].start() :] if exceptions else text.strip().rpartition("\n")[2]
    return " ".join(lines.split())[:500] or type(error).__name__
