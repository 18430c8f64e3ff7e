"""Greedy evaluation of the policy in training, with the evaluator everybody else uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.sample import SampleSource
from envs.segmentation import Segmenter
from eval.answerers import SamplerAnswerer
from eval.runner import EvaluationRun, evaluate
from prompter.policy import Policy
from prompter.run_folder import RunFolder
from prompter.sampling.base import Sampler, SamplingSettings
from recipes.config import TrainConfig


def evaluate_policy(
    name: str,
    folder: RunFolder,
    held_out: SampleSource,
    policy: Policy,
    sampler: Sampler,
    executors: Mapping[str, Segmenter],
    config: TrainConfig,
) -> EvaluationRun:
    """Answer the held-out samples greedily and segment the answers; write `run_dir/eval/NAME`.

    The evaluation is resumable like any other: what an interrupted run did is not done again.
    """
    settings = SamplingSettings(max_new_tokens=policy.settings.max_new_tokens, temperature=0.0, n=1)
    identity: dict[str, Any] = {
        "dataset": config.eval.dataset or config.dataset.name,
        "split": config.eval.split,
        "policy": config.policy.model,
        "policy_version": sampler.version,
        "executors": list(executors),
    }
    return evaluate(
        held_out,
        SamplerAnswerer(policy, sampler, settings),
        executors,
        folder.path / "eval" / name,
        config=identity,
        limit=config.eval.samples,
        chunk=60,
        step=sampler.version,
    )
