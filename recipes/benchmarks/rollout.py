"""Rollouts alone: what sampling costs with each sampler, and rewards with each kind of executor.

All samplers are asked the same questions with the same seeds, and all executors score the completions that
the first sampler gave. Starting engines is not timed, and a first round that nobody times warms up caches
and kernels; the timed rounds ask other questions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from envs.datasets import open_dataset
from envs.executors import open_executor
from envs.rollouts import make_requests
from envs.sample import Sample, SampleSource, first_samples
from prompter.checkpoint import load_policy, load_weights
from prompter.errors import UserError
from prompter.runs.tables import text_table
from prompter.sampling import open_sampler
from prompter.sampling.base import SamplingSettings
from prompter.types import Completion
from recipes.benchmarks.limits import synchronise
from recipes.benchmarks.step import with_merged
from recipes.config import TrainConfig
from recipes.training.checks import executor_configs, grpo_arguments, training_device
from recipes.training.order import window_indices, window_prompts
from recipes.training.scoring import RolloutScorer
from recipes.training.window import sampling_settings
from rewards.registry import build_reward

SAMPLERS = ("hf", "vllm", "ray")
"""In the order in which they are opened: vLLM changes the process that it runs in."""

EXECUTORS = ("local", "ray")

Groups = list[list[Completion]]


def bench_rollout(config: TrainConfig, *, rounds: int, adapter: Path | None = None) -> dict[str, Any]:
    """Time every sampler and every executor on a config's questions.

    Args:
        config: policy, data, sampler and executor; `backend` of the latter two is set here.
        rounds: timed windows; a window is the questions of one training step.
        adapter: folder of a LoRA adapter that is merged into the policy first.

    Returns:
        Keys: `environment`, `samplers` and `executors` (a row each), `completions` and `questions` of the
        timed rounds.

    Raises:
        UserError: for anything wrong with the config or the data.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prompter-bench-")))
        if adapter is not None:
            config = with_merged(config, adapter, folder / "policy")
        set_seed(config.seed)
        policy = load_policy(config.policy.model, config.policy.setting_overrides())
        dataset = config.dataset
        source: SampleSource = first_samples(
            open_dataset(dataset.name, dataset.split, **dataset.options), dataset.samples
        )
        trainer = {**config.trainer, "max_steps": 1}
        arguments = grpo_arguments(
            config.model_copy(update={"trainer": trainer, "run_dir": str(folder / "run")}),
            policy.settings.max_new_tokens,
        )
        prompts = window_prompts(arguments)
        if len(source) < prompts:
            raise UserError(f"dataset {dataset.name} gives {len(source)} samples, but a round asks {prompts}")
        windows = [
            window_indices(seed=config.seed, window=number, samples=len(source), prompts=prompts)
            for number in range(rounds + 1)
        ]
        samples = [[source[index] for index in window] for window in windows]
        settings = replace(sampling_settings(config, arguments), seed=config.seed)
        device = training_device(arguments)
        rows, answers = _time_samplers(config, policy, samples, settings, device)
        return {
            "environment": {
                "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "policy": config.policy.model if adapter is None else f"with {adapter.name}",
                "num_generations": settings.n,
            },
            "questions": sum(map(len, windows[1:])),
            "completions": sum(len(group) for window in answers[1:] for group in window),
            "samplers": rows,
            "executors": _time_executors(config, policy, windows, samples, answers),
        }


def _time_samplers(
    config: TrainConfig,
    policy: Any,
    samples: Sequence[Sequence[Sample]],
    settings: SamplingSettings,
    device: str,
) -> tuple[list[dict[str, Any]], list[Groups]]:
    """A row per sampler, and each window's completions of the first."""
    rows: list[dict[str, Any]] = []
    first: list[Groups] = []
    for backend in SAMPLERS if find_spec("vllm") is not None else SAMPLERS[:1]:
        chosen = config.sampler.model_copy(update={"backend": backend})
        if backend == "ray":
            config.ray.ensure()
        model = None
        if backend == "hf":
            model = load_weights(policy, dtype=config.policy.dtype, device=device)
        sampler = open_sampler(policy, chosen, model=model)
        try:
            seconds, answers = [], []
            for window in samples:
                requests = make_requests(policy, window)
                synchronise(device)
                started = time.perf_counter()
                answers.append(sampler.sample(requests, settings, logprobs=True))
                synchronise(device)
                seconds.append(time.perf_counter() - started)
        finally:
            sampler.close()
        first = first or answers
        timed = [one for window in answers[1:] for group in window for one in group]
        tokens = sum(len(one.token_ids) for one in timed)
        rows.append(
            {
                "backend": backend,
                "seconds": sum(seconds[1:]),
                "completions_per_second": len(timed) / sum(seconds[1:]),
                "tokens_per_second": tokens / sum(seconds[1:]),
                "settings": _sampler_settings(chosen, backend, device),
            }
        )
    return rows, first


def _sampler_settings(chosen: Any, backend: str, device: str) -> str:
    """The settings that decide how fast a sampler is."""
    if backend == "hf":
        return f"batch_size {chosen.batch_size}"
    memory = (
        f"{chosen.kv_cache_gib:g} GiB of keys and values"
        if device == "cpu"
        else f"{chosen.gpu_memory_utilization:g} of the GPU"
    )
    engines = f"{chosen.actors} engines of {chosen.threads or 1} threads, " if backend == "ray" else ""
    return f"{engines}max_num_seqs {chosen.max_num_seqs}, {memory}"


def _time_executors(
    config: TrainConfig,
    policy: Any,
    windows: Sequence[Sequence[int]],
    samples: Sequence[Sequence[Sample]],
    answers: Sequence[Groups],
) -> list[dict[str, Any]]:
    """A row per kind of executor: seconds of its encoder and decoder, and of reading and comparing."""
    rows = []
    asked = executor_configs(config)[0]
    for backend in EXECUTORS:
        if backend == "ray":
            config.ray.ensure()
        executor = open_executor(asked.model_copy(update={"backend": backend}))
        try:
            scorer = RolloutScorer(policy, {asked.name: executor}, build_reward(config.rewards))
            scorer.score(windows[0], samples[0], answers[0], 0)
            before = executor.counters.copy()
            started = time.perf_counter()
            for number in range(1, len(windows)):
                scorer.score(windows[number], samples[number], answers[number], number)
            seconds = time.perf_counter() - started
            used = executor.counters.since(before)
        finally:
            executor.close()
        completions = sum(len(group) for window in answers[1:] for group in window)
        rows.append(
            {
                "backend": backend,
                "executor": asked.name,
                "seconds": seconds,
                "completions_per_second": completions / seconds,
                "encode_seconds": used.encode_seconds,
                "decode_seconds": used.decode_seconds,
                "images_encoded": used.encodes,
                "instances": used.instances,
                "settings": f"{asked.actors} actors of {asked.threads or max(1, int(asked.num_cpus))} threads"
                if backend == "ray"
                else "",
            }
        )
    return rows


def rollout_text(result: Mapping[str, Any]) -> str:
    """The measurements as text: a table of samplers, one of executors, and both after each other."""
    env = result["environment"]
    samplers = [["sampling", "completions/s", "tokens/s", "seconds", "settings"]]
    for row in result["samplers"]:
        shown = ("completions_per_second", "tokens_per_second", "seconds")
        samplers.append([row["backend"], *(f"{row[key]:.2f}" for key in shown), row["settings"]])
    executors = [["rewards", "completions/s", "seconds", "encode", "decode", "read, compare", "settings"]]
    for row in result["executors"]:
        keys = ("completions_per_second", "seconds", "encode_seconds", "decode_seconds")
        rest = row["seconds"] - row["encode_seconds"] - row["decode_seconds"]
        figures = [*(row[key] for key in keys), max(0.0, rest)]
        executors.append([row["backend"], *(f"{value:.2f}" for value in figures), row["settings"]])
    both = [["one after the other, completions/s", *(row["backend"] for row in result["executors"])]]
    for sampler in result["samplers"]:
        rates = (
            result["completions"] / (sampler["seconds"] + executor["seconds"])
            for executor in result["executors"]
        )
        both.append([sampler["backend"], *(f"{rate:.2f}" for rate in rates)])
    last = result["executors"][-1]
    return "\n".join(
        [
            f"{env['device']}, {env['threads']} threads; {result['questions']} questions with "
            f"{env['num_generations']} completions each; "
            f"{last['executor']}: {last['instances']} instances on "
            f"{last['images_encoded']} images",
            "",
            *text_table(samplers, numbers=True),
            "",
            *text_table(executors, numbers=True),
            "",
            *text_table(both, numbers=True),
        ]
    )
