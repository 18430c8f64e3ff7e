"""Both ways between samples and a policy: questions out, answers in and through an executor.

samples --make_requests--> requests --sampler--> completions --Policy.read--> answers
samples, answers --make_rollouts (executor)--> rollouts --rewards--> scores
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from envs.executors.base import Executor, ExecutorFailure, Segmentation
from envs.masks import Mask, decode_rle, encode_rle, union
from envs.rollout import Rollout
from envs.sample import Sample, full_name
from envs.segmenting import segment
from prompter.chat import SamplingRequest
from prompter.errors import UserError
from prompter.policy import Policy
from prompter.types import Answer, PromptSet


def image_key(sample: Sample | Rollout) -> str:
    """Identity of the image of a sample or rollout across datasets and splits."""
    return full_name(sample.dataset, sample.split, sample.image_id)


def question_key(sample: Sample | Rollout) -> str:
    """Identity of the question of a sample or rollout across datasets and splits."""
    return full_name(sample.dataset, sample.split, sample.sample_id)


def make_requests(policy: Policy, samples: Sequence[Sample]) -> list[SamplingRequest]:
    """One request per sample, in order; each distinct image is loaded once."""
    images: dict[str, Image.Image] = {}
    requests = []
    for sample in samples:
        key = image_key(sample)
        if key not in images:
            images[key] = sample.load_image()
        requests.append(policy.request(sample.query, images[key], key))
    return requests


def make_rollouts(
    samples: Sequence[Sample],
    answers: Sequence[Answer],
    executor: Executor | None,
    *,
    name: str = "",
    step: int = -1,
    keep_instances: bool = False,
    keep_stability: bool = False,
) -> list[Rollout]:
    """Segment every answer that was read and return one rollout per answer, in order.

    Each distinct image is loaded once, and each distinct target decoded once. A parse failure never
    reaches the executor. An empty answer does (it is answered with an empty mask), so that decodes
    count completions.

    Args:
        samples, answers: one entry per answer; a group's answers repeat their sample.
        executor: segments the answers' prompts; None takes the masks that the answers brought along.
        name: of the executor, stored in the rollouts.
        step: optimiser step, or -1 outside training.
        keep_instances: store one predicted mask per instance as well; the executor must return
            `instance_masks`.
        keep_stability: store the masks' stability as well.

    Raises:
        ValueError: if the sequences differ in length, or the executor returns another number of
            results, or `keep_instances` is set and it returns no instance masks.
        UserError: if there is no executor and an answer brought no masks.
    """
    if len(samples) != len(answers):
        raise ValueError(
            f"expected equally many samples and answers, but got {len(samples)} and {len(answers)}"
        )
    asked = {
        index: reading
        for index, answer in enumerate(answers)
        if isinstance(reading := answer.reading, PromptSet)
    }
    results: Sequence[Segmentation | ExecutorFailure]
    if executor is None:
        results = [_brought(samples[index], answers[index], name) for index in asked]
    else:
        results = segment(
            [samples[index] for index in asked],
            list(asked.values()),
            executor,
            keep_instances=keep_instances,
        )
    by_index = dict(zip(asked, results, strict=True))
    targets: dict[int, Mask | None] = {}
    rollouts = []
    for index, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        result = by_index.get(index)
        rollout = _rollout(sample, answer, result, name, step, keep_instances, keep_stability)
        if id(sample) not in targets:
            targets[id(sample)] = rollout.target_mask
        rollout.keep_decoded(target_mask=targets[id(sample)])
        rollouts.append(rollout)
    return rollouts


def _brought(sample: Sample, answer: Answer, name: str) -> Segmentation:
    """The masks that an answer brought along, as an executor would have returned them."""
    if answer.masks is None:
        raise UserError(f"This policy answers with prompts, not masks; name an executor other than {name}.")
    masks = tuple(decode_rle(rle, sample.mask_hw) for rle in answer.masks)
    scores = np.asarray(answer.scores, dtype=np.float32)
    return Segmentation(union(masks, sample.mask_hw), scores, instance_masks=masks)


def _rollout(
    sample: Sample,
    answer: Answer,
    result: Segmentation | ExecutorFailure | None,
    name: str,
    step: int,
    keep_instances: bool,
    keep_stability: bool,
) -> Rollout:
    """One rollout; a result of None means that the executor was not asked (a parse failure)."""
    done = result if isinstance(result, Segmentation) else None
    masks = done.instance_masks if done is not None and keep_instances else ()
    if masks is None:
        raise ValueError(f"the executor {name!r} returned no instance masks, but they were asked for")
    rollout = Rollout(
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        split=sample.split,
        image_id=sample.image_id,
        image_wh=sample.image_wh,
        query=sample.query,
        target=sample.target,
        completion=answer.text,
        reading=answer.reading,
        prediction=None if done is None else encode_rle(done.mask),
        instances=sample.instances,
        ignore=sample.ignore,
        boxes=sample.boxes,
        tags=sample.tags,
        predicted_ious=() if done is None else tuple(float(value) for value in done.predicted_ious),
        predicted_instances=tuple(encode_rle(mask) for mask in masks),
        executor_error=result.message if isinstance(result, ExecutorFailure) else None,
        executor=name,
        completion_tokens=answer.tokens,
        step=step,
        stability=tuple(float(one) for one in done.stability) if done is not None and keep_stability else (),
        offset_xy=answer.offset_xy,
    )
    if done is not None:
        rollout.keep_decoded(prediction_mask=done.mask, predicted_instance_masks=masks)
    return rollout
