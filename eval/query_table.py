"""The table every metric is computed from: one row per query, as compact columns.

Rollouts are read once, one at a time; what stays in memory is a few numbers per query (about
150 bytes, names as digests), so a benchmark of any length fits.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from envs.datasets.tiles import tile_of
from envs.masks import Mask, mask_to_box
from envs.rollout import Rollout
from eval.box_cases import BoxCase, BoxJudge, Verdicts, case_of, enclosing, iou_with
from eval.instance_scores import rollout_instance_score
from eval.mask_views import Counts, MaskPair, View, count
from prompter.errors import UserError
from prompter.types import Box, ParseFailure, mends
from rewards.box import answered_boxes
from rewards.mask import score_counts


class Outcome(IntEnum):
    """What became of a query."""

    TARGETS = 0
    """The answer parsed and names at least one instance."""

    NO_TARGET = 1
    """The answer parsed and is empty: "there is no such thing here"."""

    PARSE_FAILED = 2
    """The completion is not an answer."""

    EXECUTOR_FAILED = 3
    """The segmenter failed. Such a query is left out of every metric and counted apart."""


@dataclass(frozen=True)
class Areas:
    """Pixel counts of all queries under one view, each int64 [queries]."""

    intersection: NDArray[np.int64]
    union: NDArray[np.int64]
    predicted: NDArray[np.int64]
    target: NDArray[np.int64]


@dataclass(frozen=True)
class QueryTable:
    """Facts about queries, in the order of the rollouts.

    Args:
        samples: `sample_digest` of each query, int64 [queries]; the same in every run on a benchmark.
        images: number of each query's image, from 0 in order of appearance, int64 [queries].
        tiles: the same for the tile its image was cut from (`envs.datasets.tiles`), which is the image
            itself where nothing coarser is known; int64 [queries].
        outcomes: `Outcome` values, int8 [queries].
        has_target: whether the native target mask holds a pixel (before `ignore`), or, in box-only
            sets, whether there is a box; bool [queries].
        has_mask: whether the target is a mask; bool [queries]. False rows carry zero areas.
        areas: pixel counts per view.
        scores: the reward `mask_iou` of each query, float64 [queries]; NaN without a mask or
            where the segmenter failed.
        box_ious: IoU of the box around the answer and the box around the target, float64
            [queries]; NaN where there is no target.
        executor_scores: mean of the segmenter's own IoU estimates, float64 [queries]; NaN if none.
        selection: precision, recall and F1 of the answer's instances (`eval.instance_scores`),
            float64 [queries, 3]; NaN where objects are not told apart.
        pixels: pixels of the image, int64 [queries].
        tokens: completion tokens, int64 [queries].
        tag_sets: the distinct sets of breakdown keys, in order of appearance.
        tags: each query's position in `tag_sets`, int64 [queries].
        mended: answers that reading mended, by how (`clipped`, `sorted`; see `PromptSet`).
        failures: parse failures by kind.
        objects: how many target objects are told apart, int64 [queries]; 0 without a target.
        named: how many instances the answer names, int64 [queries]; 0 where it says "no target" or does
            not parse.
        verdicts: what rules about boxes make of the queries, by the name of the protocol.
    """

    samples: NDArray[np.int64]
    images: NDArray[np.int64]
    tiles: NDArray[np.int64]
    outcomes: NDArray[np.int8]
    has_target: NDArray[np.bool_]
    has_mask: NDArray[np.bool_]
    areas: Mapping[View, Areas] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    box_ious: NDArray[np.float64] = field(repr=False)
    executor_scores: NDArray[np.float64] = field(repr=False)
    selection: NDArray[np.float64] = field(repr=False)
    pixels: NDArray[np.int64] = field(repr=False)
    tokens: NDArray[np.int64] = field(repr=False)
    tags: NDArray[np.int64] = field(repr=False)
    tag_sets: Sequence[Mapping[str, str]] = field(repr=False)
    objects: NDArray[np.int64] = field(repr=False)
    named: NDArray[np.int64] = field(repr=False)
    mended: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, Verdicts] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> QueryTable:
        """Return the table of some rows (a bool mask or indices [rows]); `failures` is kept whole."""
        if rows.dtype == np.bool_ and rows.all():
            return self  # no copy of a long table for nothing
        indices: NDArray[np.intp] = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.intp)
        areas = {
            view: Areas(
                all_areas.intersection[indices],
                all_areas.union[indices],
                all_areas.predicted[indices],
                all_areas.target[indices],
            )
            for view, all_areas in self.areas.items()
        }
        return QueryTable(
            samples=self.samples[indices],
            images=self.images[indices],
            tiles=self.tiles[indices],
            outcomes=self.outcomes[indices],
            has_target=self.has_target[indices],
            has_mask=self.has_mask[indices],
            areas=areas,
            scores=self.scores[indices],
            box_ious=self.box_ious[indices],
            executor_scores=self.executor_scores[indices],
            selection=self.selection[indices],
            pixels=self.pixels[indices],
            tokens=self.tokens[indices],
            tags=self.tags[indices],
            tag_sets=self.tag_sets,
            objects=self.objects[indices],
            named=self.named[indices],
            mended=self.mended,
            failures=self.failures,
            verdicts={name: one.select(indices) for name, one in self.verdicts.items()},
        )

    def answered(self) -> QueryTable:
        """Return the table without the queries whose segmenter failed."""
        return self.select(self.outcomes != Outcome.EXECUTOR_FAILED)


class TableBuilder:
    """Collects rollouts into a `QueryTable`.

    Args:
        views: the views whose pixel counts are needed.
        judges: rules about boxes whose verdicts are needed, by the name of their protocol.
        tile: names the tile of a rollout's image within its dataset and split.
    """

    def __init__(
        self,
        views: Iterable[View] = (View.NATIVE,),
        judges: Mapping[str, BoxJudge] | None = None,
        tile: Callable[[Rollout], str] = tile_of,
    ) -> None:
        self._tile = tile
        self._views = list(dict.fromkeys(views))
        self._judges = dict(judges or {})
        self._box_ious_of: dict[str, array[float]] = {name: array("d") for name in self._judges}
        self._centres_of: dict[str, array[int]] = {name: array("b") for name in self._judges}
        self._read_of: dict[str, array[int]] = {name: array("b") for name in self._judges}
        self._areas: dict[View, array[int]] = {view: array("q") for view in self._views}
        self._samples: array[int] = array("q")
        self._images: array[int] = array("q")
        self._tiles: array[int] = array("q")
        self._outcomes: array[int] = array("b")
        self._has_target: array[int] = array("b")
        self._has_mask: array[int] = array("b")
        self._scores: array[float] = array("d")
        self._box_ious: array[float] = array("d")
        self._executor_scores: array[float] = array("d")
        self._selection: array[float] = array("d")
        self._pixels: array[int] = array("q")
        self._tokens: array[int] = array("q")
        self._tags: array[int] = array("q")
        self._objects: array[int] = array("q")
        self._named: array[int] = array("q")
        self._tag_sets: dict[tuple[tuple[str, str], ...], int] = {}
        self._mended: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def add(self, rollout: Rollout) -> None:
        """Add one rollout.

        Raises:
            ValueError: if a mask of it does not have the size of its image.
        """
        outcome = outcome_of(rollout)
        pair = None if rollout.target is None else _mask_pair(rollout)
        counts = {
            view: Counts(0, 0, 0, 0) if pair is None else count(pair, view)
            for view in {*self._views, View.NATIVE}
        }
        has_target = rollout.has_target
        score = np.nan
        if pair is not None and outcome is not Outcome.EXECUTOR_FAILED:
            native = counts[View.NATIVE]
            score = score_counts(rollout.reading, has_target, native.intersection, native.union)
        for view in self._views:
            one = counts[view]
            self._areas[view].extend((one.intersection, one.union, one.predicted, one.target))
        image, tile = (
            "\0".join((rollout.dataset, rollout.split, name))
            for name in (rollout.image_id, self._tile(rollout))
        )
        tags = tuple(sorted(rollout.tags.items()))
        self._samples.append(sample_digest(rollout.sample_id))
        self._images.append(sample_digest(image))
        self._tiles.append(sample_digest(tile))
        self._outcomes.append(int(outcome))
        self._has_target.append(has_target)
        self._has_mask.append(pair is not None)
        self._scores.append(score)
        case = case_of(rollout)
        self._objects.append(case.objects)
        self._named.append(0 if isinstance(rollout.reading, ParseFailure) else len(rollout.reading))
        self._box_ious.append(_enclosing_box_iou(rollout, case) if has_target else np.nan)
        self._executor_scores.append(
            float(np.mean(rollout.predicted_ious)) if rollout.predicted_ious else np.nan
        )
        selection = rollout_instance_score(rollout)
        self._selection.extend(
            (np.nan, np.nan, np.nan)
            if selection is None
            else (selection.precision, selection.recall, selection.f1)
        )
        self._pixels.append(rollout.image_wh[0] * rollout.image_wh[1])
        self._tokens.append(rollout.completion_tokens)
        self._tags.append(self._tag_sets.setdefault(tags, len(self._tag_sets)))
        self._mended.update(mends(rollout.reading))
        if isinstance(rollout.reading, ParseFailure):
            self._failures[str(rollout.reading.kind)] += 1
        if self._judges and rollout.offset_xy is not None:
            raise UserError(
                f"{', '.join(self._judges)} is about boxes as they are written, and the text of sample "
                f"{rollout.sample_id!r} is about a moved image (--shift): score it by a protocol of masks."
            )
        for name, judge in self._judges.items():
            verdict = judge(case)
            self._box_ious_of[name].append(verdict.iou)
            self._centres_of[name].append(verdict.centre)
            self._read_of[name].append(verdict.read)

    def build(self) -> QueryTable:
        """Return the table of everything added; nothing can be added afterwards."""
        # The table looks at the collected numbers where they lie: a copy would double what a query takes.
        long, double, byte = np.int64, np.float64, np.int8
        return QueryTable(
            samples=np.frombuffer(self._samples, dtype=long),
            images=_numbered(np.frombuffer(self._images, dtype=long)),
            tiles=_numbered(np.frombuffer(self._tiles, dtype=long)),
            outcomes=np.frombuffer(self._outcomes, dtype=byte),
            has_target=np.frombuffer(self._has_target, dtype=np.bool_),
            has_mask=np.frombuffer(self._has_mask, dtype=np.bool_),
            areas={
                view: Areas(*np.frombuffer(counts, dtype=long).reshape(-1, 4).T)
                for view, counts in self._areas.items()
            },
            scores=np.frombuffer(self._scores, dtype=double),
            box_ious=np.frombuffer(self._box_ious, dtype=double),
            executor_scores=np.frombuffer(self._executor_scores, dtype=double),
            selection=np.frombuffer(self._selection, dtype=double).reshape(-1, 3),
            pixels=np.frombuffer(self._pixels, dtype=long),
            tokens=np.frombuffer(self._tokens, dtype=long),
            tags=np.frombuffer(self._tags, dtype=long),
            tag_sets=[dict(tags) for tags in self._tag_sets],
            objects=np.frombuffer(self._objects, dtype=long),
            named=np.frombuffer(self._named, dtype=long),
            mended=dict(self._mended),
            failures=dict(self._failures),
            verdicts={
                name: Verdicts(
                    np.frombuffer(self._box_ious_of[name], dtype=double),
                    np.frombuffer(self._centres_of[name], dtype=np.bool_),
                    np.frombuffer(self._read_of[name], dtype=np.bool_),
                )
                for name in self._judges
            },
        )


def sample_digest(name: str) -> int:
    """64 bits of a name's BLAKE2b hash, as a signed number: names of a benchmark in 8 bytes each."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _numbered(digests: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replace digests by numbers from 0 in order of appearance: int64 [queries] to int64 [queries]."""
    _, first, codes = np.unique(digests, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), dtype=np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[codes]


def build_table(
    rollouts: Iterable[Rollout],
    views: Iterable[View] = (View.NATIVE,),
    judges: Mapping[str, BoxJudge] | None = None,
    tile: Callable[[Rollout], str] = tile_of,
) -> QueryTable:
    """Read rollouts one by one into the table that a `TableBuilder` with these arguments makes."""
    builder = TableBuilder(views, judges, tile)
    for rollout in rollouts:
        builder.add(rollout)
    return builder.build()


def outcome_of(rollout: Rollout) -> Outcome:
    """What became of the query of a rollout."""
    if isinstance(rollout.reading, ParseFailure):
        return Outcome.PARSE_FAILED
    if rollout.executor_error is not None:
        return Outcome.EXECUTOR_FAILED
    return Outcome.NO_TARGET if rollout.reading.is_empty else Outcome.TARGETS


def _mask_pair(rollout: Rollout) -> MaskPair:
    target, prediction = rollout.target_mask, rollout.prediction_mask
    assert target is not None
    if prediction is None:
        prediction = np.zeros(rollout.mask_hw, dtype=np.bool_)
    instances: list[tuple[Mask, Box | None]] = []
    if rollout.predicted_instances and not isinstance(rollout.reading, ParseFailure):
        boxes = [instance.box for instance in rollout.reading.instances]
        instances = list(zip(rollout.predicted_instance_masks, boxes, strict=True))
    return MaskPair(prediction, target, rollout.ignore_mask, instances, answered_boxes(rollout))


def _enclosing_box_iou(rollout: Rollout, case: BoxCase) -> float:
    """IoU of the box around the answer (its boxes, else its mask) and the box around the target."""
    box = enclosing(case.boxes or ())
    if box is None and rollout.prediction_mask is not None:
        box = mask_to_box(rollout.prediction_mask)
    return 0.0 if box is None else iou_with(box, case.target)
