"""Referring expressions that follow from the geometry of the buildings seen in a window.

A question is only asked when its answer is clear by a margin, so that a person looking at the
window would agree: the largest building is a quarter larger than the next, the northernmost lies
a sixteenth of the window further north by its centre and also by its outline, and so on. Parts of
buildings that the window cuts off too much can win no question, but they can spoil one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from envs.datasets.building_words import EMPTY_KINDS, SEMANTIC_KINDS, WORDINGS
from envs.masks import Mask, mask_to_box

AREA_RATIO = 1.25
"""The largest must be this much larger than the next, the smallest this much smaller."""
OFFSET_MARGIN = 1 / 16
"""By how much of the window's side a place must be clear."""
DISTANCE_RATIO = 1.2
"""The nearest pair must be this much nearer than the next."""


@dataclass(frozen=True)
class VisibleBuilding:
    """The part of a building that a window shows, in the window's pixels.

    Args:
        area: visible pixels.
        centre: (x, y) of the visible part's centre of mass.
        box: XYXY half-open, of the visible part.
        elongation: longer over shorter side of its smallest enclosing rectangle; 1 for a square.
        centre_distance: pixels from the window's centre to the nearest pixel of the building.
        askable: whether enough of it is visible for it to be an answer.
    """

    area: int
    centre: tuple[float, float]
    box: tuple[float, float, float, float]
    elongation: float
    centre_distance: float
    askable: bool


@dataclass(frozen=True)
class BuildingQuery:
    """A question and the indices of the buildings that answer it; none means "no target"."""

    kind: str
    text: str
    targets: tuple[int, ...]
    tags: Mapping[str, str]


Buildings = Sequence[VisibleBuilding]


def describe_building(part: Mask, area: int, askable: bool) -> VisibleBuilding:
    """Describe the part of a building that a square window shows.

    Args:
        part: [side, side] bool, not empty.
        area: its pixels.
        askable: whether it may be an answer.
    """
    rows, columns = np.nonzero(part)
    middle = part.shape[0] / 2
    offsets = np.hypot(columns + 0.5 - middle, rows + 0.5 - middle)
    corners = np.stack([columns, rows], axis=1).astype(np.float32)
    sides = sorted(length + 1 for length in cv2.minAreaRect(corners)[1])
    box = mask_to_box(part)
    assert box is not None  # the caller left out empty parts
    return VisibleBuilding(
        area=area,
        centre=(float(columns.mean()) + 0.5, float(rows.mean()) + 0.5),
        box=box,
        elongation=sides[1] / sides[0],
        centre_distance=float(offsets.min()),
        askable=askable,
    )


def building_queries(
    buildings: Buildings,
    side: int,
    limit: int,
    generator: random.Random,
    kinds: Collection[str] | None = None,
) -> list[BuildingQuery]:
    """Draw up to `limit` questions of different kinds about one window.

    Args:
        buildings: every building of which the window shows at least one pixel.
        side: the window's side in pixels.
        limit: most questions to return; a window without buildings gets at most two.
        generator: decides which kinds and wordings are taken; the same state gives the same result.
        kinds: of `KINDS`, those that may be asked; None is all.

    Returns:
        Questions with clear answers; an empty list when there are none.
    """
    if not buildings:
        possible = [kind for kind in EMPTY_KINDS if kinds is None or kind in kinds]
        return [
            _query(kind, (), generator) for kind in generator.sample(possible, min(limit, 2, len(possible)))
        ]
    answers = clear_answers(buildings, side, kinds)
    clear = list(answers)
    empty = [kind for kind in clear if not answers[kind]]
    if empty:  # at most one question without a target beside those that have one
        keep = generator.choice(empty)
        clear = [kind for kind in clear if answers[kind] or kind == keep]
    chosen = generator.sample(clear, min(limit, len(clear)))
    return [_query(kind, answers[kind], generator) for kind in chosen]


def clear_answers(
    buildings: Buildings, side: int, kinds: Collection[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """The kinds of questions that have a clear answer, with the indices of the buildings that give it.

    Args:
        buildings: every building of which the window shows at least one pixel; at least one.
        side: the window's side in pixels.
        kinds: of `KINDS`, those that may be asked; None is all.

    Returns:
        kind -> indices, () for a certain "no target", in the order of `KINDS`.
    """
    rules = {kind: rule for kind, rule in _RULES.items() if kinds is None or kind in kinds}
    answers = {kind: rule(buildings, side) for kind, rule in rules.items()}
    return {kind: answer for kind, answer in answers.items() if answer is not None}


def _query(kind: str, targets: tuple[int, ...], generator: random.Random) -> BuildingQuery:
    text, reasoning = generator.choice(WORDINGS[kind])
    tags = {
        "granularity": "semantic" if kind in SEMANTIC_KINDS else "instance",
        "multiplicity": "none" if not targets else "one" if len(targets) == 1 else "several",
        "reasoning": reasoning,
        "length": "long" if len(text.split()) >= 12 else "short",
        "kind": kind,
    }
    return BuildingQuery(kind, text, targets, tags)


# Each rule returns the answer's indices, () for a certain "no target", or None when unclear.
Choice = tuple[int, ...] | None


def _largest(buildings: Buildings, side: int) -> Choice:
    order = sorted(range(len(buildings)), key=lambda i: -buildings[i].area)
    return _first_if_clear(buildings, order, lambda i: buildings[i].area)


def _smallest(buildings: Buildings, side: int) -> Choice:
    order = sorted(range(len(buildings)), key=lambda i: buildings[i].area)
    return _first_if_clear(buildings, order, lambda i: 1 / max(buildings[i].area, 1))


def _first_if_clear(buildings: Buildings, order: list[int], size: Callable[[int], float]) -> Choice:
    if len(order) < 2 or size(order[0]) < AREA_RATIO * size(order[1]):
        return None
    return (order[0],) if buildings[order[0]].askable else None


def _two_largest(buildings: Buildings, side: int) -> Choice:
    order = sorted(range(len(buildings)), key=lambda i: -buildings[i].area)
    if len(order) < 3 or buildings[order[1]].area < AREA_RATIO * buildings[order[2]].area:
        return None
    pair = tuple(sorted(order[:2]))
    return pair if all(buildings[i].askable for i in pair) else None


def _extreme(axis: int, sign: int) -> Callable[[Buildings, int], Choice]:
    """The building furthest along an axis (0 x, 1 y; sign -1 towards 0), by centre and by outline."""

    def rule(buildings: Buildings, side: int) -> Choice:
        def centre(i: int) -> float:
            return sign * buildings[i].centre[axis]

        def edge(i: int) -> float:
            return sign * buildings[i].box[axis if sign < 0 else axis + 2]

        order = sorted(range(len(buildings)), key=centre, reverse=True)
        if len(order) < 2 or centre(order[0]) - centre(order[1]) < OFFSET_MARGIN * side:
            return None
        if any(edge(i) >= edge(order[0]) for i in order[1:]):
            return None
        return (order[0],) if buildings[order[0]].askable else None

    return rule


def _central(buildings: Buildings, side: int) -> Choice:
    middle = (side / 2, side / 2)
    order = sorted(range(len(buildings)), key=lambda i: math.dist(buildings[i].centre, middle))
    if len(order) < 2:
        return None
    first, second = (math.dist(buildings[i].centre, middle) for i in order[:2])
    if second - first < OFFSET_MARGIN * side:
        return None
    nearest = buildings[order[0]].centre_distance
    if any(buildings[i].centre_distance <= nearest for i in order[1:]):
        return None
    return (order[0],) if buildings[order[0]].askable else None


def _elongated(buildings: Buildings, side: int) -> Choice:
    order = sorted(range(len(buildings)), key=lambda i: -buildings[i].elongation)
    if len(order) < 2 or buildings[order[0]].elongation < 2.2:
        return None
    if buildings[order[0]].elongation < AREA_RATIO * buildings[order[1]].elongation:
        return None
    x1, y1, x2, y2 = buildings[order[0]].box
    is_cut = min(x1, y1) <= 0 or max(x2, y2) >= side
    return (order[0],) if buildings[order[0]].askable and not is_cut else None


def _distances(buildings: Buildings) -> dict[tuple[int, int], float]:
    count = len(buildings)
    pairs = ((i, j) for i in range(count) for j in range(i + 1, count))
    return {(i, j): math.dist(buildings[i].centre, buildings[j].centre) for i, j in pairs}


def _closest_pair(buildings: Buildings, side: int) -> Choice:
    distances = _distances(buildings)
    order = sorted(distances, key=distances.__getitem__)
    if len(order) < 2 or distances[order[1]] < DISTANCE_RATIO * distances[order[0]]:
        return None
    return order[0] if all(buildings[i].askable for i in order[0]) else None


def _isolated(buildings: Buildings, side: int) -> Choice:
    if len(buildings) < 3:
        return None
    distances = _distances(buildings)
    nearest = [min(d for pair, d in distances.items() if i in pair) for i in range(len(buildings))]
    order = sorted(range(len(buildings)), key=lambda i: -nearest[i])
    if nearest[order[0]] < 1.5 * nearest[order[1]]:
        return None
    return (order[0],) if buildings[order[0]].askable else None


def _beside_largest(buildings: Buildings, side: int) -> Choice:
    largest = _largest(buildings, side)
    if not largest or len(buildings) < 3:
        return None
    others = [i for i in range(len(buildings)) if i != largest[0]]
    distance = {i: math.dist(buildings[i].centre, buildings[largest[0]].centre) for i in others}
    order = sorted(others, key=distance.__getitem__)
    if distance[order[1]] < DISTANCE_RATIO * distance[order[0]]:
        return None
    return (order[0],) if buildings[order[0]].askable else None


def _askable(buildings: Buildings) -> tuple[int, ...]:
    return tuple(i for i, building in enumerate(buildings) if building.askable)


def _all(buildings: Buildings, side: int) -> Choice:
    askable = _askable(buildings)
    return askable if len(askable) >= 2 else None


def _all_but_largest(buildings: Buildings, side: int) -> Choice:
    largest = _largest(buildings, side)
    rest = tuple(i for i in _askable(buildings) if largest and i != largest[0])
    return rest if len(rest) >= 2 else None


def _half(axis: int, sign: int) -> Callable[[Buildings, int], Choice]:
    """Buildings whose centre lies in one half; unclear when an outline reaches across the middle."""

    def rule(buildings: Buildings, side: int) -> Choice:
        middle, margin = side / 2, OFFSET_MARGIN * side / 2
        inside = []
        for i, building in enumerate(buildings):
            low, high = building.box[axis], building.box[axis + 2]
            crosses = low < middle < high and abs(building.centre[axis] - middle) < margin + (high - low) / 4
            if crosses:
                return None
            if sign * (building.centre[axis] - middle) > 0:
                inside.append(i)
        if len(inside) == len(buildings):
            return None
        answer = tuple(i for i in inside if buildings[i].askable)
        return answer if answer or not inside else None

    return rule


def _quarter(right: bool, bottom: bool) -> Callable[[Buildings, int], Choice]:
    """The only building in a quarter of the window; () when no outline comes near the quarter."""

    def rule(buildings: Buildings, side: int) -> Choice:
        margin = OFFSET_MARGIN * side
        near = []
        for i, building in enumerate(buildings):
            x1, y1, x2, y2 = building.box
            reaches_x = x2 > side / 2 - margin if right else x1 < side / 2 + margin
            reaches_y = y2 > side / 2 - margin if bottom else y1 < side / 2 + margin
            if reaches_x and reaches_y:
                near.append(i)
        if not near:
            return ()
        if len(near) > 1 or not buildings[near[0]].askable:
            return None
        x, y = buildings[near[0]].centre
        inside_x = x > side / 2 + margin if right else x < side / 2 - margin
        inside_y = y > side / 2 + margin if bottom else y < side / 2 - margin
        return (near[0],) if inside_x and inside_y else None

    return rule


_RULES: dict[str, Callable[[Buildings, int], Choice]] = {
    "largest": _largest,
    "smallest": _smallest,
    "northernmost": _extreme(1, -1),
    "southernmost": _extreme(1, 1),
    "westernmost": _extreme(0, -1),
    "easternmost": _extreme(0, 1),
    "central": _central,
    "elongated": _elongated,
    "isolated": _isolated,
    "beside_largest": _beside_largest,
    "closest_pair": _closest_pair,
    "two_largest": _two_largest,
    "all": _all,
    "all_but_largest": _all_but_largest,
    "north_half": _half(1, -1),
    "south_half": _half(1, 1),
    "west_half": _half(0, -1),
    "east_half": _half(0, 1),
    "top_left": _quarter(False, False),
    "top_right": _quarter(True, False),
    "bottom_left": _quarter(False, True),
    "bottom_right": _quarter(True, True),
}

KINDS: tuple[str, ...] = tuple(_RULES)
"""Every kind of question."""
