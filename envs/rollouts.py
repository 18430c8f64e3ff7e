"""From samples and parsed answers to rollouts: the one place where answers meet a segmenter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from envs.executors.base import Executor, ExecutorFailure, Segmentation
from envs.masks import encode_rle
from envs.rollout import Rollout
from envs.sample import RGB, Sample
from prompter.types import ParseFailure, PromptSet


def image_key(sample: Sample) -> str:
    """Identity of a sample's image across datasets and splits."""
    return f"{sample.dataset}/{sample.split}/{sample.image_id}"


def make_rollouts(
    samples: Sequence[Sample],
    completions: Sequence[str],
    answers: Sequence[PromptSet | ParseFailure],
    segmenter: Executor,
    *,
    step: int = -1,
    executor: str = "",
    completion_tokens: Sequence[int] | None = None,
    keep_instances: bool = False,
) -> list[Rollout]:
    """Segment every answer that parsed and return one rollout per completion, in order.

    Each distinct image is loaded once. A parse failure never reaches the segmenter. An empty
    answer does (segmenters answer it with an empty mask), so that decodes count completions.

    Args:
        samples, completions, answers: one entry per completion; a group's completions repeat
            their sample.
        segmenter: see `Executor`.
        step: optimiser step, or -1 outside training.
        executor: name of the segmenter, stored in the rollouts.
        completion_tokens: number of sampled tokens of each completion, if known.
        keep_instances: store one predicted mask per instance as well; the segmenter must return
            `instance_masks`.

    Raises:
        ValueError: if the sequences differ in length, or the segmenter returns another number of
            results, or `keep_instances` is set and it returns no instance masks.
    """
    tokens = [0] * len(samples) if completion_tokens is None else list(completion_tokens)
    lengths = {len(samples), len(completions), len(answers), len(tokens)}
    if len(lengths) != 1:
        raise ValueError(
            f"expected equally many samples, completions, answers and token counts, but got "
            f"{len(samples)}, {len(completions)}, {len(answers)} and {len(tokens)}"
        )
    indices: list[int] = []
    prompts: list[PromptSet] = []
    for index, answer in enumerate(answers):
        if isinstance(answer, PromptSet):
            indices.append(index)
            prompts.append(answer)
    loaded: dict[str, RGB] = {}
    for index in indices:
        key = image_key(samples[index])
        if key not in loaded:
            loaded[key] = samples[index].image_array()
    keys = [image_key(samples[index]) for index in indices]
    results: list[Segmentation | ExecutorFailure] = []
    if prompts:
        results = segmenter.segment(
            [loaded[key] for key in keys], prompts, keys, keep_instances=keep_instances
        )
    if len(results) != len(prompts):
        raise ValueError(f"the segmenter returned {len(results)} results for {len(prompts)} prompt sets")
    by_index = dict(zip(indices, results, strict=True))
    rollouts = []
    for index, sample in enumerate(samples):
        rollout = Rollout(
            sample_id=sample.sample_id,
            dataset=sample.dataset,
            split=sample.split,
            image_id=sample.image_id,
            image_wh=sample.image_wh,
            query=sample.query,
            target=sample.target,
            completion=completions[index],
            answer=answers[index],
            prediction=None,
            instances=sample.instances,
            ignore=sample.ignore,
            boxes=sample.boxes,
            tags=sample.tags,
            executor=executor,
            completion_tokens=tokens[index],
            step=step,
        )
        rollouts.append(_with_result(rollout, by_index.get(index), keep_instances))
    return rollouts


def _with_result(
    rollout: Rollout, result: Segmentation | ExecutorFailure | None, keep_instances: bool
) -> Rollout:
    """Add what the segmenter said; None means that it was not asked (a parse failure)."""
    if result is None:
        return rollout
    if isinstance(result, ExecutorFailure):
        return replace(rollout, executor_error=result.message)
    masks = result.instance_masks if keep_instances else ()
    if masks is None:
        raise ValueError(
            f"the segmenter {rollout.executor!r} returned no instance masks, but they were asked for"
        )
    return replace(
        rollout,
        prediction=encode_rle(result.mask),
        predicted_ious=tuple(float(value) for value in result.predicted_ious),
        predicted_instances=tuple(encode_rle(mask) for mask in masks),
    )
