"""Samples' prompts given to a segmenter: which image it encodes, and whose frame prompts and masks are in.

A segmenter encodes a sample's image, or the larger one that it was cut from (`envs.sample.Scene`): once for
all cuts, where encoding is what costs. Prompts are moved there, and masks cut back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from envs.executors.base import Executor, ExecutorFailure, Segmentation, SegmentRequest
from envs.masks import Mask
from envs.sample import RGB, Sample, as_rgb, full_name
from prompter.types import PromptSet


def segment(
    samples: Sequence[Sample],
    prompts: Sequence[PromptSet],
    executor: Executor,
    *,
    keep_instances: bool = False,
    images: dict[str, RGB] | None = None,
) -> list[Segmentation | ExecutorFailure]:
    """What a segmenter makes of prompts, one result each, in order; each distinct image is loaded once.

    Args:
        samples: whose images are asked about.
        prompts: one prompt set per sample, image frame.
        executor: the segmenter.
        keep_instances: return one mask per instance as well.
        images: what earlier calls about these samples loaded, added to here; None begins with nothing.

    Returns:
        Masks of each sample's `mask_hw`, image frame.

    Raises:
        ValueError: if the executor returns another number of results.
    """
    if not samples:
        return []
    keys = [_encoded_key(sample) for sample in samples]
    loaded = {} if images is None else images
    for key, sample in zip(keys, samples, strict=True):
        if key not in loaded:
            loaded[key] = _encoded_image(sample)
    requests = [
        SegmentRequest(loaded[key], _into_scene(sample, own), key)
        for key, sample, own in zip(keys, samples, prompts, strict=True)
    ]
    results = executor.segment(requests, keep_instances=keep_instances)
    if len(results) != len(requests):
        raise ValueError(f"the executor returned {len(results)} results for {len(requests)} prompt sets")
    return [_out_of_scene(sample, result) for sample, result in zip(samples, results, strict=True)]


def encoded_images(samples: Sequence[Sample]) -> Iterator[RGB]:
    """The distinct images that a segmenter will encode for samples; each is loaded as it is taken."""
    distinct = {_encoded_key(sample): sample for sample in samples}
    return (_encoded_image(sample) for sample in distinct.values())


def _encoded_key(sample: Sample) -> str:
    """Identity of the image across datasets and splits."""
    return full_name(sample.dataset, sample.split, (sample.scene or sample).image_id)


def _encoded_image(sample: Sample) -> RGB:
    return as_rgb((sample.scene or sample).load_image())


def _into_scene(sample: Sample, prompts: PromptSet) -> PromptSet:
    if sample.scene is None:
        return prompts
    return replace(prompts, instances=tuple(one.moved(*sample.scene.corner_xy) for one in prompts.instances))


def _out_of_scene(sample: Sample, result: Segmentation | ExecutorFailure) -> Segmentation | ExecutorFailure:
    if sample.scene is None or isinstance(result, ExecutorFailure):
        return result
    (x, y), (height, width) = sample.scene.corner_xy, sample.mask_hw

    def cut(mask: Mask) -> Mask:
        return np.ascontiguousarray(mask[y : y + height, x : x + width])

    instances = result.instance_masks
    return replace(
        result,
        mask=cut(result.mask),
        instance_masks=None if instances is None else tuple(map(cut, instances)),
    )
