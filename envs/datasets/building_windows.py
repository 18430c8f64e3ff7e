"""Windows cut out of photographs with building outlines, and the questions asked about each.

A building that a window cuts off is kept when enough of it is visible; else its pixels are ignored by
questions about groups of buildings. Questions can be held out by their kind, place by place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from envs.datasets.building_queries import (
    KINDS,
    BuildingQuery,
    VisibleBuilding,
    building_queries,
    describe_building,
)
from envs.masks import Mask, encode_rle, mask_to_box, union
from envs.sample import Sample, Scene
from prompter.errors import UserError

Box = tuple[int, int, int, int]
"""XYXY half-open, whole pixels."""

Questions = Literal["all", "asked", "held-out"]

Encoded = Literal["window", "region"]


@dataclass(frozen=True)
class BuildingWindow:
    """A square of a photograph.

    Args:
        image_id: its name.
        load_image: loads it, as `Sample.load_image`.
        corner_xy: (x, y) of its upper left pixel in the region that it was cut from.
        buildings: what it shows of each building.
        masks: the same as pixels, bool [side, side] each.
    """

    image_id: str
    load_image: Callable[[], Image.Image]
    corner_xy: tuple[int, int]
    buildings: tuple[VisibleBuilding, ...]
    masks: tuple[Mask, ...]


def _cut_windows(
    name: str,
    load: Callable[[Box], Callable[[], Image.Image]],
    region: Box,
    masks: Sequence[Mask],
    *,
    side: int,
    stride: int,
    min_visible: float,
    min_area: int,
) -> Iterator[BuildingWindow]:
    """The squares that `window_samples` asks about; arguments as there."""
    masks = [mask for mask in masks if mask.any()]
    areas = [int(mask.sum()) for mask in masks]
    boxes = [mask_to_box(mask) for mask in masks]
    for down in window_starts(region[3] - region[1], side, stride):
        for right in window_starts(region[2] - region[0], side, stride):
            x, y = region[0] + right, region[1] + down
            parts, views = [], []
            for mask, area, box in zip(masks, areas, boxes, strict=True):
                assert box is not None  # empty masks were left out
                if box[0] >= x + side or box[2] <= x or box[1] >= y + side or box[3] <= y:
                    continue
                part = np.ascontiguousarray(mask[y : y + side, x : x + side])
                visible = int(part.sum())
                if visible:
                    askable = visible >= min_area and visible >= min_visible * area
                    parts.append(describe_building(part, visible, askable))
                    views.append(part)
            window, corner = load((x, y, x + side, y + side)), (right, down)
            yield BuildingWindow(f"{name}_x{right}_y{down}", window, corner, tuple(parts), tuple(views))


def window_starts(length: int, side: int, stride: int) -> Sequence[int]:
    """Where windows start along one axis: evenly spaced from edge to edge, at most `stride` apart.

    A strip narrower than a sixty-fourth of a window is left out rather than given a window that shows
    almost the same again: the tiles have 571 or 572 pixels.
    """
    last = length - side
    if last < side / 64:
        return [0]
    steps = -(-last // stride)  # rounded up
    return [round(last * step / steps) for step in range(steps + 1)]


def window_samples(
    dataset: str,
    split: str,
    name: str,
    load: Callable[[Box], Callable[[], Image.Image]],
    region: Box,
    masks: Sequence[Mask],
    *,
    side: int,
    stride: int,
    min_visible: float,
    min_area: int,
    limit: int,
    max_targets: int | None,
    no_target: float,
    seed: int,
    kinds: Collection[str] | None,
    encode: Encoded,
) -> Iterator[Sample]:
    """Cut a region of a photograph into overlapping squares, and ask about each what its geometry answers.

    Args:
        dataset, split: of the samples.
        name: of the photograph; a window's is NAME_xX_yY, from the region's corner.
        load: gives the loader of a window.
        region: XYXY in the photograph's pixels.
        masks: its buildings, bool [height, width] of the photograph.
        side: of the squares, pixels.
        stride: most pixels from one to the next.
        min_visible, min_area: share and number of its pixels that a window must show of a building for it to
            be an answer.
        limit: most questions about a window.
        max_targets: leave out questions with more targets; None keeps all.
        no_target: share of the questions without a target that is kept.
        seed: draws kinds and wordings; a window's questions are independent of all other windows.
        kinds: that may be asked; None is all.
        encode: what a segmenter encodes: each window, or the whole region once for all windows of it, which
            shows it larger or smaller than a window would.

    Raises:
        UserError: if `no_target` is no share.
    """
    if not 0 <= no_target <= 1:
        raise UserError(
            f"option 'no_target' of dataset {dataset!r} must be between 0 and 1, but is {no_target:g}."
        )
    windows = _cut_windows(
        name, load, region, masks, side=side, stride=stride, min_visible=min_visible, min_area=min_area
    )
    whole = load(region) if encode == "region" else None
    for view in windows:
        scene = None if whole is None else Scene(name, whole, view.corner_xy)
        generator = random.Random(f"{seed}/{view.image_id}")
        most = len(view.masks) if max_targets is None else max_targets
        for query in building_queries(view.buildings, side, limit, generator, kinds):
            if len(query.targets) > most:
                continue
            # Drawn for each question by itself, so that the other questions stay what they are.
            lot = f"{seed}/{view.image_id}/{query.kind}"
            if query.targets or random.Random(lot).random() < no_target:
                yield _sample(dataset, split, side, view, query, scene)


def kinds_by_place(
    dataset: str, places: int, questions: Questions, share: float, seed: int
) -> list[set[str] | None]:
    """The kinds of questions that are asked about each of several places; None is all.

    Whole kinds are held out on a place, because windows of it overlap: the same question about the next
    window would often have the same answer. Each kind is held out on about `share` of the places, so that
    training does not miss any.

    Args:
        dataset: for errors.
        places: how many.
        questions: "all", "asked" (those that are not held out) or "held-out".
        share: of all kinds that is held out on each place.
        seed: decides which.

    Raises:
        UserError: if an option is out of range.
    """
    count = round(share * len(KINDS))
    if not 0 < count < len(KINDS):
        raise UserError(
            f"option 'held_out_share' of dataset {dataset!r} must leave some kinds on both sides, "
            f"but is {share:g}."
        )
    if questions == "all":
        return [None] * places
    kinds = random.Random(f"{seed}/held-out kinds").sample(KINDS, len(KINDS))
    # One after another around the circle of kinds, so that places share as few as they can.
    held = [{kinds[(place * count + one) % len(kinds)] for one in range(count)} for place in range(places)]
    return [one if questions == "held-out" else set(KINDS) - one for one in held]


def _sample(
    dataset: str, split: str, side: int, view: BuildingWindow, query: BuildingQuery, scene: Scene | None
) -> Sample:
    target = union((view.masks[i] for i in query.targets), (side, side))
    ignore = None
    if query.tags["granularity"] == "semantic":
        cut_off = [m for m, b in zip(view.masks, view.buildings, strict=True) if not b.askable]
        hidden = union(cut_off, (side, side)) & ~target
        ignore = encode_rle(hidden) if hidden.any() else None
    return Sample(
        sample_id=f"{view.image_id}/{query.kind}",
        dataset=dataset,
        split=split,
        image_id=view.image_id,
        image_wh=(side, side),
        load_image=view.load_image,
        query=query.text,
        target=encode_rle(target),
        instances=tuple(encode_rle(view.masks[i]) for i in query.targets),
        ignore=ignore,
        tags=query.tags,
        scene=scene,
    )
