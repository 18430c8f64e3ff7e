"""The data of a run: is it here, is it whole, and do its boxes come back from the policy's frame."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from envs.assets import nothing_fetched
from envs.datasets.reading.roots import default_root
from envs.datasets.reading.tables.hub import is_hub_id
from envs.datasets.registry import dataset_info, open_dataset
from envs.oracle import oracle_prompts, reading_order, target_masks
from envs.sample import Sample, SampleSource, first_samples
from prompter.checkpoint import Checkpoint
from prompter.coords import Frame
from prompter.errors import UserError
from prompter.policy import Policy
from prompter.types import Instance, ParseFailure, PromptSet
from recipes.config_sets import DatasetConfig
from recipes.dry_run.findings import NotHere

SAMPLES = 8
"""Samples that are looked at, evenly spaced over the set."""


def open_here(data: DatasetConfig) -> SampleSource:
    """A set of a config, if it is on this machine.

    Raises:
        NotHere: if it would be fetched, or nobody said where it is.
        UserError: if it cannot be opened.
    """
    info, root = dataset_info(data.name), data.options.get("root")
    if root is not None and is_hub_id(root):
        raise NotHere(f"{data.name}:{data.split} would be read from the hub ({root})")
    try:
        with nothing_fetched():
            source = open_dataset(data.name, data.split, **data.options)
    except UserError as error:
        folder = default_root(data.name)
        unsaid = root is None and (folder is None or not folder.is_dir())
        if info.needs_files and info.splits and unsaid:
            raise NotHere(f"{data.name}:{data.split} is in no known place: {error}") from None
        raise
    return first_samples(source, data.samples)


_REWARDS_OF_MASKS = (
    "mask_iou",
    "instance_mask_iou",
    "disjoint_mask_iou",
    "tiered_mask_iou",
    "tiered_instance_iou",
)


def check_masks(source: SampleSource, rewards: Iterable[str]) -> None:
    """Raise UserError if a reward of masks is to be earned on a set that has boxes only."""
    wanting = [name for name in rewards if name in _REWARDS_OF_MASKS]
    if wanting and source[0].target is None:
        raise UserError(f"{source.name} has boxes and no masks, which {wanting[0]} needs: take box_iou")


def counted(source: SampleSource, name: str) -> str:
    """How many samples a set has, by the name that a config calls it, beside how many are published."""
    info = dataset_info(name)
    published = info.counts.get(source.split)
    said = f"{name}:{source.split}, {len(source):,} samples"
    if published is None:
        return said
    return f"{said} ({published:,} {info.count_unit} are published)"


def round_trip(source: SampleSource, policy: Policy) -> str:
    """Say each sample's boxes and points as the policy would, read that back, and compare.

    The image is resized for the model, and, where the processor is here, must leave it at that size.

    Raises:
        UserError: naming the sample whose coordinates do not come back, or whose image the processor resizes.
    """
    space, frame_kind = policy.settings.action_space, policy.frame_kind
    instances, worst, most = 0, 0.0, 0
    numbers = sorted({round(n) for n in np.linspace(0, len(source) - 1, min(SAMPLES, len(source)))})
    for sample in (source[number] for number in numbers):
        _check_size(sample, policy)
        prompts = _prompts(sample, policy)
        most = max(most, len(prompts))
        prompts = PromptSet(prompts.instances[: space.max_instances])
        frame = policy.frame(sample.image_wh)
        read = _there_and_back(prompts, policy, sample)
        for given, found in zip(prompts.instances, read.instances, strict=True):
            worst = max(worst, _apart(given, found, frame, sample))
        instances += len(prompts)
    said = (
        f"{len(numbers)} samples, {instances} objects: at most {worst:.2f} units of frame {frame_kind} apart"
    )
    if most > space.max_instances:
        said += f"; a sample has {most} objects, but action_space.max_instances is {space.max_instances}"
    return said


def _prompts(sample: Sample, policy: Policy) -> PromptSet:
    """What a perfect policy would say."""
    kind = policy.settings.action_space.kind
    if sample.target is None:
        return PromptSet(tuple(map(Instance, sample.boxes)) if kind in ("box", "any") else ())
    points = 0 if kind == "box" else policy.settings.action_space.positive_points
    return oracle_prompts(reading_order(target_masks(sample)), box=kind != "points", points=points)


def _there_and_back(prompts: PromptSet, policy: Policy, sample: Sample) -> PromptSet:
    text = policy.write_answer(prompts, sample.image_wh)
    read = policy.parse(text, sample.image_wh)
    if isinstance(read, ParseFailure):
        raise UserError(
            f"sample {sample.sample_id!r}: its true boxes, said as the policy should, are read as "
            f"{read.kind} ({read.message})"
        )
    if len(read) != len(prompts):
        raise UserError(f"sample {sample.sample_id!r}: {len(prompts)} objects come back as {len(read)}")
    return read


def _apart(given: Instance, found: Instance, frame: Frame, sample: Sample) -> float:
    """Largest distance of a coordinate from where it was, in units of the model frame.

    Rounding moves one by half a unit; a thin box is kept apart, which moves an edge by one more.
    """
    scale = [frame.extent[axis] / frame.image_wh[axis] for axis in (0, 1)]
    worst, allowed = 0.0, 0.5
    pairs: Iterable[tuple[Any, Any]] = [
        *zip(_corners(given), _corners(found), strict=True),
        *zip(given.positive_points, found.positive_points, strict=True),
    ]
    for one, other in pairs:
        worst = max(worst, *(abs(one[axis] - other[axis]) * scale[axis] for axis in (0, 1)))
    for low, high in pairwise(_corners(given)):
        if min((high[axis] - low[axis]) * scale[axis] for axis in (0, 1)) < 1:
            allowed = 1.5
    if worst > allowed + 1e-6:
        raise UserError(
            f"sample {sample.sample_id!r}: a coordinate comes back {worst:.1f} units of the model's frame "
            f"from where it was: {given} became {found}"
        )
    return worst


def _corners(instance: Instance) -> list[tuple[float, float]]:
    box = instance.box
    return [] if box is None else [(box[0], box[1]), (box[2], box[3])]


def _check_size(sample: Sample, policy: Policy) -> None:
    """The image is as large as its sample says, and the processor keeps the size the policy gives it."""
    image = sample.load_image()
    if image.size != sample.image_wh:
        raise UserError(
            f"sample {sample.sample_id!r}: its image is {image.size}, but {sample.image_wh} was said"
        )
    processor = policy.processor if isinstance(policy, Checkpoint) else None
    image_processor = getattr(processor, "image_processor", None)
    if not callable(image_processor):
        return
    shown = policy.model_image(image)
    _, rows, columns = image_processor(images=[shown], return_tensors="np")["image_grid_thw"][0]
    seen = (int(columns) * image_processor.patch_size, int(rows) * image_processor.patch_size)
    if seen != shown.size:
        raise UserError(
            f"sample {sample.sample_id!r}: shown at {shown.size}, but the processor makes it {seen}: its "
            "coordinates would be in a wrong frame"
        )
