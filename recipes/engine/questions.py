"""Which masks are asked about, and the questions that follow offline from categories and geometry.

Which objects are meant is decided as for `aerial-buildings` (`envs.datasets.building_queries`): only where it
is clear by a margin, among everything of a category that the detections tell of, also what has no good mask.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np

from envs.datasets.building_queries import OFFSET_MARGIN, VisibleBuilding, clear_answers, describe_building
from envs.datasets.building_words import SEMANTIC_KINDS
from envs.datasets.false_premises import plain_name
from envs.masks import Mask, decode_rle
from envs.premise import with_article
from prompter.types import Point
from recipes.engine.detections import Detection
from recipes.engine.masks import Candidate
from recipes.engine.words import AND, LONG, SHORT, WHICH, names, plural

Reasoning = Literal["explicit", "implicit"]
Length = Literal["short", "long"]

AXES: tuple[tuple[Reasoning, Length], ...] = (
    ("explicit", "short"),
    ("implicit", "short"),
    ("explicit", "long"),
    ("implicit", "long"),
)
PLACES = tuple(
    f"{side}{rest}"
    for side, rest in (
        *((side, "ernmost") for side in ("north", "south", "west", "east")),
        *((side, "_half") for side in ("north", "south", "west", "east")),
        ("top", "_left"),
        ("top", "_right"),
        ("bottom", "_left"),
        ("bottom", "_right"),
    )
)
"""Kinds about where something is, by axis: true of an image of any ratio when it is stretched to a square."""
OTHERS = ("largest", "smallest", "two_largest", "elongated", "isolated", "beside_largest", "closest_pair")
GROUPS = ("all", "all_but_largest")
NEAREST: dict[str, tuple[float, float]] = {
    "central": (0.5, 0.5),
    "near_top_left": (0.0, 0.0),
    "near_top_right": (1.0, 0.0),
    "near_bottom_left": (0.0, 1.0),
    "near_bottom_right": (1.0, 1.0),
}
"""Kinds about what is closest to a place, given as shares of width and height."""

SQUARE = 1000
MOST_TARGETS = 8
"""No question has more targets."""


@dataclass(frozen=True)
class Meant:
    """Masks that a question is to be about.

    Args:
        kind: how they are picked: of `recipes.engine.words.WHICH`, "marked" (nothing but themselves), or two
            kinds joined by " and ".
        masks: positions in the image's kept masks.
        categories: the plain name of each mask's category.
    """

    kind: str
    masks: tuple[int, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question in several wordings, with its answer.

    Args:
        meant: what it is about.
        reasoning, length: of LaSeRS' axes.
        wordings: up to three.
        answer: one sentence that names the categories, without marks of masks.
        by: who asked: "offline", or the model.
    """

    meant: Meant
    reasoning: Reasoning
    length: Length
    wordings: tuple[str, ...]
    answer: str
    by: str = "offline"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Question:
        """Inverse of `to_json`."""
        meant = data["meant"]
        about = Meant(meant["kind"], tuple(meant["masks"]), tuple(meant["categories"]))
        return cls(**{**data, "meant": about, "wordings": tuple(data["wordings"])})


@dataclass
class Named:
    """The masks of an image that have a category.

    Args:
        kept: the image's masks that stay.
        categories: plain name of each; "" for none.
    """

    kept: Sequence[Candidate]
    categories: Sequence[str]
    by_category: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_category = {}
        for number, category in enumerate(self.categories):
            if category:
                self.by_category.setdefault(category, []).append(number)


def meant_by_geometry(
    named: Named, detections: Sequence[Detection], image_wh: tuple[int, int], *, unique: bool
) -> list[Meant]:
    """Everything that can be meant with one right answer, of categories that the detections tell of.

    Args:
        named: masks and categories; those made from boxes are found by their detection.
        detections: all of the image, whether their masks stayed or not.
        image_wh: (width, height) in pixels.
        unique: only categories of which there is one detection.
    """
    found: list[Meant] = []
    mask_of = {one.detection: n for n, one in enumerate(named.kept) if one.source == "box"}
    labels: dict[str, list[int]] = {}
    for number, detection in enumerate(detections):
        labels.setdefault(plain_name(detection.label), []).append(number)
    for category, numbers in labels.items():
        masks = [mask_of.get(number) for number in numbers]
        if len(numbers) == 1:
            if masks[0] is not None and named.categories[masks[0]] == category:
                found.append(Meant("only", (masks[0],), (category,)))
            continue
        if unique:
            continue
        for kind, answer in _answers(named, detections, numbers, masks, image_wh).items():
            picked = [masks[position] for position in answer]
            if picked and len(picked) <= MOST_TARGETS and all(one is not None for one in picked):
                targets = tuple(one for one in picked if one is not None)
                found.append(Meant(kind, targets, (category,) * len(targets)))
    return found + _pairs(found)


def _answers(
    named: Named,
    detections: Sequence[Detection],
    numbers: Sequence[int],
    masks: Sequence[int | None],
    image_wh: tuple[int, int],
) -> dict[str, tuple[int, ...]]:
    """Kind -> positions in `numbers`, of everything that is clear among the detections of one category."""
    width, height = image_wh
    true: list[VisibleBuilding] = []
    square: list[VisibleBuilding] = []
    for number, mask in zip(numbers, masks, strict=True):
        if mask is None:
            pixels = _filled(detections[number].box, image_wh)
        else:
            pixels = decode_rle(named.kept[mask].mask, (height, width))
        one = describe_building(pixels, max(1, int(np.count_nonzero(pixels))), mask is not None)
        true.append(one)
        sx, sy = SQUARE / width, SQUARE / height
        x1, y1, x2, y2 = one.box
        square.append(
            replace(
                one,
                centre=(one.centre[0] * sx, one.centre[1] * sy),
                box=(x1 * sx, y1 * sy, x2 * sx, y2 * sy),
            )
        )
    whole = all(mask is not None for mask in masks)
    kinds = OTHERS + (GROUPS if whole else ())
    places = [kind for kind in PLACES if whole or kind not in SEMANTIC_KINDS]
    return {
        **clear_answers(square, SQUARE, places),
        **clear_answers(true, max(width, height), kinds),
        **_nearest([one.centre for one in true], image_wh),
    }


def _nearest(centres: Sequence[Point], image_wh: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Kind of `NEAREST` -> the one whose centre is closest to its place, where it is so by a margin."""
    found: dict[str, tuple[int, ...]] = {}
    for kind, (across, down) in NEAREST.items():
        place = (across * image_wh[0], down * image_wh[1])
        order = sorted((math.dist(centre, place), number) for number, centre in enumerate(centres))
        if order[1][0] - order[0][0] >= OFFSET_MARGIN * max(image_wh):
            found[kind] = (order[0][1],)
    return found


def _filled(box: tuple[float, float, float, float], image_wh: tuple[int, int]) -> Mask:
    """A box as a mask [height, width]: the object that was seen there and has no mask."""
    width, height = image_wh
    mask = np.zeros((height, width), np.uint8)
    x1, y1 = (int(np.clip(box[n], 0, image_wh[n] - 1)) for n in (0, 1))
    x2, y2 = (int(np.clip(np.ceil(box[n + 2]) - 1, 0, image_wh[n] - 1)) for n in (0, 1))
    cv2.rectangle(mask, (x1, y1), (x2, y2), 1, -1)
    return mask.astype(np.bool_)


def _pairs(found: Sequence[Meant]) -> list[Meant]:
    """Two of different categories asked about in one question."""
    pairs = []
    for number, first in enumerate(found):
        for second in found[number + 1 :]:
            apart = set(first.categories).isdisjoint(second.categories)
            if apart and len(first.masks) + len(second.masks) <= MOST_TARGETS:
                kind = f"{first.kind} and {second.kind}"
                pairs.append(Meant(kind, first.masks + second.masks, first.categories + second.categories))
    return pairs


def choose(candidates: Sequence[Meant], count: int, generator: random.Random) -> list[Meant]:
    """Draw up to `count`: one target and several in turns while there are both, kinds as even as can be."""
    pools: dict[bool, list[Meant]] = {False: [], True: []}
    for one in generator.sample(list(candidates), len(candidates)):
        pools[len(one.masks) > 1].append(one)
    used: dict[str, int] = {}
    chosen: list[Meant] = []
    while len(chosen) < count and (pools[False] or pools[True]):
        pool = pools[len(chosen) % 2 == 1] or pools[len(chosen) % 2 == 0]
        best = min(pool, key=lambda one: used.get(one.kind, 0))
        pool.remove(best)
        used[best.kind] = used.get(best.kind, 0) + 1
        chosen.append(best)
    return chosen


def axes_of(number: int, first: int = 0) -> tuple[Reasoning, Length]:
    """The axes of an image's question by its number, in turns from the `first` of `AXES`; two questions have
    the same, as one target and several are asked about in turns."""
    return AXES[(number // 2 + first) % len(AXES)]


def ask_offline(
    meant: Meant, reasoning: Reasoning, length: Length, wordings: int, generator: random.Random
) -> Question:
    """Word a question; where a category has no implicit words it is asked explicitly, and tagged so."""
    kinds = meant.kind.split(" and ")
    own = (
        [next(iter(dict.fromkeys(meant.categories)))]
        if len(kinds) == 1
        else list(dict.fromkeys(meant.categories))
    )
    words = [names(category, implicit=reasoning == "implicit") for category in own]
    if any(one is None for one in words):
        reasoning = "explicit"
        words = [names(category, implicit=False) for category in own]
    frames = generator.sample(SHORT if length == "short" else LONG, wordings)
    ways = generator.sample(range(3), wordings)
    texts = []
    for frame, way in zip(frames, ways, strict=True):
        parts = [WHICH[kind][way].format(**one) for kind, one in zip(kinds, words, strict=True) if one]
        it = parts[0] if len(parts) == 1 else AND.format(first=parts[0], second=parts[1])
        texts.append(frame.format(it=it))
    return Question(meant, reasoning, length, tuple(texts), answer_of(meant))


def answer_of(meant: Meant) -> str:
    """A sentence that names what the question is about."""
    said = []
    for category in dict.fromkeys(meant.categories):
        count = meant.categories.count(category)
        said.append(with_article(category) if count == 1 else f"{count} {plural(category)}")
    return f"It is {' and '.join(said)}." if len(meant.masks) == 1 else f"They are {' and '.join(said)}."
