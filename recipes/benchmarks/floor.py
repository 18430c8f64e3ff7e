"""The least time that a step's parts could take on a machine: operations over what the machine reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from envs.executors.config import ExecutorConfig
from envs.executors.families import build_segmenter, resolve_dtype
from envs.rollouts import image_key
from envs.sample import SampleSource
from prompter.policy import Policy
from prompter.types import PromptSet
from recipes.benchmarks.limits import Machine, flops_of, measure_machine
from recipes.training.scoring import ScoredGroup

_PASSES = {"adapters": 4, "all": 6}
"""Operations per weight and token of a forward and a backward pass: 2 forward, 2 for the gradients of
activations, 2 for those of weights, which frozen weights do not need."""


@dataclass(frozen=True)
class Floor:
    """The least seconds of a step's parts, one after the other.

    Args:
        sample: prompts once, every completion's tokens once; or all weights read once for each token of
            the longest completion, whichever takes longer.
        segment: every image encoded once, every instance decoded, in a batch.
        train: one forward and one backward pass over every prompt once and every completion.
    """

    sample: float
    segment: float
    train: float

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self.sample + self.segment + self.train


def floor_of(
    groups: list[ScoredGroup],
    prompts: list[int],
    model: Any,
    source: SampleSource,
    policy: Policy,
    executor: ExecutorConfig,
    device: str,
) -> Floor:
    """The floor of the step that trained on `groups`.

    Attention between tokens, the vision tower and everything that is no matrix product are left out, so
    the true floor is a little higher.

    Args:
        groups: what was sampled and scored.
        prompts: tokens of each group's prompt, image tokens included.
        model: the policy's model, with adapters or without.
        source: the training set.
        policy: reads the completions.
        executor: the segmenter.
        device: where all of it runs.
    """
    dtype = next(model.parameters()).dtype
    machine = measure_machine(device, dtype)
    body, head = _weights(model)
    lengths = [[len(one.token_ids) for one in group.completions] for group in groups]
    completed = sum(sum(group) for group in lengths)
    prefilled = sum(prompts) * body
    operations = 2.0 * (prefilled + completed * (body + head))
    longest = max(max(group) for group in lengths)
    reading = longest * (body + head) * dtype.itemsize / machine.bandwidth
    trained = "adapters" if hasattr(model, "get_base_model") else "all"
    return Floor(
        sample=max(operations / machine.flops, reading),
        segment=_segmenting(groups, source, policy, executor, device),
        train=_PASSES[trained] * (prefilled + completed * (body + head)) / machine.flops,
    )


def _weights(model: Any) -> tuple[int, int]:
    """Weights of the language model's linear layers, and of the head, adapters left out."""
    body = head = 0
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or "lora_" in name or ".visual." in name:
            continue
        if name.endswith("lm_head"):
            head += module.weight.numel()
        else:
            body += module.weight.numel()
    return body, head


def _segmenting(
    groups: list[ScoredGroup], source: SampleSource, policy: Policy, executor: ExecutorConfig, device: str
) -> float:
    """Seconds for encoding every image once and decoding every completion's instances together."""
    segmenter = build_segmenter(executor)
    kind: torch.dtype = getattr(torch, resolve_dtype(executor).dtype)
    machine: Machine = measure_machine(device, kind)
    images: dict[str, Any] = {}
    asked: list[tuple[str, PromptSet]] = []
    for group in groups:
        sample = source[group.index]
        for completion in group.completions:
            reading = policy.read(completion, sample.image_wh).reading
            if isinstance(reading, PromptSet) and not reading.is_empty:
                images.setdefault(image_key(sample), sample.image_array())
                asked.append((image_key(sample), reading))
    if not asked:
        return 0.0
    found: dict[str, Any] = {}

    def work() -> None:
        found.update(zip(images, segmenter.encode(list(images.values())), strict=True))
        segmenter.decode([found[key] for key, _ in asked], [prompts for _, prompts in asked])

    return flops_of(work) / machine.flops
