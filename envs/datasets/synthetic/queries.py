"""Queries about a scene: everything that can be asked without ambiguity, and a balanced draw from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from envs.datasets.synthetic import wording
from envs.datasets.synthetic.drawing import pick, pick_weighted
from envs.datasets.synthetic.objects import OBJECT_CLASSES
from envs.datasets.synthetic.scene import Scene, SceneObject
from envs.masks import Mask

Rng = np.random.Generator
Templates = tuple[tuple[str, ...], tuple[str, ...]]

MOST_TARGETS = 4
"""No query has more targets than this."""
SIZE_RATIO = 1.35
"""A superlative of size needs the areas to differ by at least this factor."""
PLACE_MARGIN = 0.08
"""A statement about place must hold by at least this share of the image's side."""
SMALLEST_PART = 0.0012
"""A part is asked for only if it covers at least this share of the image."""

MIX = {"one": 0.55, "several": 0.31, "none": 0.12, "part": 0.24}
"""How often each kind of question is tried; parts exist in about half of the scenes."""
FAMILY_WEIGHTS = {
    "name": 3.2,
    "implicit": 1.1,
    "size": 1.6,
    "extreme": 0.8,
    "region": 1.0,
    "colour": 0.9,
    "shape": 0.3,
    "near": 1.2,
    "two largest": 0.7,
    "half": 0.6,
    "part": 1.0,
    "part of which": 0.4,
    "wings": 0.6,
    "implicit part": 0.3,
}
LONG_SHARE = 0.25


@dataclass(frozen=True)
class Query:
    """A question about a scene and its answer.

    Args:
        text: lower case.
        targets: indices into the scene's instances (their owner's, for parts); empty for no target.
        masks: one [size, size] mask per target.
        tags: `granularity` (semantic, instance, part), `multiplicity` (one, several, none),
            `reasoning` (explicit, implicit), `length` (short, long), `category` (class or group asked
            for) and `family` (how the question picks its targets: name, size, extreme, …).
    """

    text: str
    targets: tuple[int, ...]
    masks: tuple[Mask, ...] = field(repr=False)
    tags: dict[str, str]


@dataclass(frozen=True)
class _Candidate:
    """A question that may be asked, before its wording is chosen."""

    family: str
    granularity: str
    category: str
    targets: tuple[int, ...]
    templates: Templates
    words: dict[str, str]
    part: str | None = None
    implicit: bool = False

    @property
    def bucket(self) -> str:
        if self.part is not None:
            return "part"
        return ("none", "one")[len(self.targets)] if len(self.targets) < 2 else "several"


def scene_queries(scene: Scene, rng: Rng, n: int) -> list[Query]:
    """Ask `n` different questions about a scene; the first k do not depend on n."""
    buckets: dict[str, dict[str, list[_Candidate]]] = {}
    for candidate in _candidates(scene):
        buckets.setdefault(candidate.bucket, {}).setdefault(candidate.family, []).append(candidate)
    mix = {bucket: share for bucket, share in MIX.items() if bucket in buckets}
    asked: dict[str, Query] = {}
    attempts = 0
    while len(asked) < n:
        families = buckets[pick_weighted(rng, mix)]
        candidate = pick(rng, families[pick_weighted(rng, {name: FAMILY_WEIGHTS[name] for name in families})])
        long = rng.random() < LONG_SHARE
        text = pick(rng, candidate.templates[int(long)]).format(**candidate.words)
        attempts += 1
        if text not in asked:
            asked[text] = _query(scene, candidate, text, long)
        elif attempts > 60 * n:
            # Fewer different questions exist than were asked for: repeat one.
            asked[f"{text}#{attempts}"] = _query(scene, candidate, text, long)
    return list(asked.values())


def _query(scene: Scene, candidate: _Candidate, text: str, long: bool) -> Query:
    masks: tuple[Mask, ...]
    if candidate.part == "wings":
        owner = scene.instances[candidate.targets[0]]
        masks = (owner.parts["left wing"], owner.parts["right wing"])
    elif candidate.part is not None:
        masks = tuple(scene.instances[target].parts[candidate.part] for target in candidate.targets)
    else:
        masks = tuple(scene.instances[target].mask for target in candidate.targets)
    tags = {
        "granularity": candidate.granularity,
        "multiplicity": ("none", "one")[len(masks)] if len(masks) < 2 else "several",
        "reasoning": "implicit" if candidate.implicit else "explicit",
        "length": "long" if long else "short",
        "category": candidate.category,
        "family": candidate.family,
    }
    return Query(text=text, targets=candidate.targets, masks=masks, tags=tags)


def _names(category: str) -> dict[str, str]:
    if category in OBJECT_CLASSES:
        return {"one": category, "many": OBJECT_CLASSES[category].plural}
    one, many, _ = wording.GROUPS[category]
    return {"one": one, "many": many}


def _candidates(scene: Scene) -> Iterator[_Candidate]:
    """Everything that can be asked about a scene and has exactly one right answer."""
    members: dict[str, list[int]] = {kind: [] for kind in OBJECT_CLASSES}
    for number, instance in enumerate(scene.instances):
        members[instance.category].append(number)
    for kind, numbers in members.items():
        yield from _by_name(kind, numbers)
        yield from _by_reasoning(scene, kind, numbers)
        if numbers:
            objects = [scene.instances[number] for number in numbers]
            yield from _by_size(kind, numbers, objects)
            yield from _by_extreme(kind, numbers, objects)
            yield from _by_region(kind, numbers, objects)
            yield from _by_half(kind, numbers, objects)
            yield from _by_look(kind, numbers, objects)
            yield from _by_nearness(scene, kind, numbers, members)
            yield from _by_part(scene, kind, numbers)
    for group, (_, _, kinds) in wording.GROUPS.items():
        numbers = [number for kind in kinds for number in members[kind]]
        if sum(bool(members[kind]) for kind in kinds) != 1:  # else the class's own name says it better
            yield from _by_name(group, numbers)
        yield from _by_reasoning(scene, group, numbers)


def _by_name(kind: str, numbers: list[int]) -> Iterator[_Candidate]:
    if len(numbers) > MOST_TARGETS:
        return
    targets = tuple(numbers)
    if len(numbers) < 2:
        yield _Candidate("name", "semantic", kind, targets, wording.NAME_ONE, _names(kind))
    if len(numbers) != 1:
        yield _Candidate("name", "semantic", kind, targets, wording.NAME_ALL, _names(kind))


def _by_reasoning(scene: Scene, kind: str, numbers: list[int]) -> Iterator[_Candidate]:
    if kind not in wording.IMPLICIT or len(numbers) > MOST_TARGETS:
        return
    if kind == "swimming pool" and scene.theme in ("harbour", "river"):
        return  # one could swim there, too
    yield _Candidate("implicit", "semantic", kind, tuple(numbers), wording.IMPLICIT[kind], {}, implicit=True)


def _by_size(kind: str, numbers: list[int], objects: list[SceneObject]) -> Iterator[_Candidate]:
    if len(numbers) < 2:
        return
    order = sorted(range(len(numbers)), key=lambda k: -objects[k].area)
    areas = [objects[k].area for k in order]
    if areas[0] >= SIZE_RATIO * areas[1]:
        yield _pointed("size", kind, numbers[order[0]], wording.SIZE, word="largest")
    if areas[-2] >= SIZE_RATIO * areas[-1]:
        yield _pointed("size", kind, numbers[order[-1]], wording.SIZE, word="smallest")
    if len(areas) > 2 and areas[1] >= SIZE_RATIO * areas[2]:
        pair = (numbers[order[0]], numbers[order[1]])
        yield _Candidate("two largest", "instance", kind, pair, wording.TWO_LARGEST, _names(kind))


def _pointed(family: str, kind: str, target: int, templates: Templates, **words: str) -> _Candidate:
    return _Candidate(family, "instance", kind, (target,), templates, {**_names(kind), **words})


def _extremes(objects: Sequence[SceneObject]) -> Iterator[tuple[int, str]]:
    """(index, side) of each object that is clearly further to a side than all others."""
    for axis, sides in ((0, ("west", "east")), (1, ("north", "south"))):
        order = sorted(range(len(objects)), key=lambda k: objects[k].centre[axis])
        for first, second, side in ((order[0], order[1], sides[0]), (order[-1], order[-2], sides[1])):
            if abs(objects[first].centre[axis] - objects[second].centre[axis]) >= PLACE_MARGIN:
                yield first, side


def _by_extreme(kind: str, numbers: list[int], objects: list[SceneObject]) -> Iterator[_Candidate]:
    if len(numbers) < 2:
        return
    for index, side in _extremes(objects):
        for word in wording.EXTREMES[side]:
            yield _pointed("extreme", kind, numbers[index], wording.EXTREME, word=word, side=side)


def _by_region(kind: str, numbers: list[int], objects: list[SceneObject]) -> Iterator[_Candidate]:
    offsets = [np.asarray(one.centre) - 0.5 for one in objects]
    for (right, low), word in wording.REGIONS.items():
        signs = np.array([1 if right else -1, 1 if low else -1])
        depth = [float((offset * signs).min()) for offset in offsets]  # > 0: inside the quarter
        inside = [k for k, value in enumerate(depth) if value >= PLACE_MARGIN]
        if len(inside) == 1 and sum(value > -PLACE_MARGIN for value in depth) == 1:
            yield _pointed("region", kind, numbers[inside[0]], wording.REGION, word=word)
    distance = [float(np.abs(offset).max()) for offset in offsets]
    middle = [k for k, value in enumerate(distance) if value < 0.12]
    if len(middle) == 1 and sum(value < 0.12 + PLACE_MARGIN for value in distance) == 1:
        yield _pointed("region", kind, numbers[middle[0]], wording.CENTRE)


def _by_half(kind: str, numbers: list[int], objects: list[SceneObject]) -> Iterator[_Candidate]:
    for axis, sign, word in ((0, -1, "left"), (0, 1, "right"), (1, -1, "top"), (1, 1, "bottom")):
        depth = [sign * (one.centre[axis] - 0.5) for one in objects]
        inside = tuple(numbers[k] for k, value in enumerate(depth) if value > 0)
        clear = all(abs(value) >= PLACE_MARGIN / 2 for value in depth)
        if clear and 2 <= len(inside) <= MOST_TARGETS:
            yield _Candidate("half", "instance", kind, inside, wording.HALF, {**_names(kind), "word": word})


def _by_look(kind: str, numbers: list[int], objects: list[SceneObject]) -> Iterator[_Candidate]:
    colours = OBJECT_CLASSES[kind].looks.get("colour", ())
    present = [one.attributes.get("colour", "") for one in objects]
    for colour in dict.fromkeys(colours):
        if len(set(colours)) < 2 or any(wording.alike(colour, other) for other in present):
            continue
        having = tuple(number for number, own in zip(numbers, present, strict=True) if own == colour)
        words = {**_names(kind), "look": wording.look_word(kind, colour)}
        if len(having) < 2:
            yield _Candidate("colour", "instance", kind, having, wording.LOOK, words)
        elif len(having) <= MOST_TARGETS:
            yield _Candidate("colour", "instance", kind, having, wording.LOOK_ALL, words)
    if kind == "building":
        having = tuple(
            n for n, one in zip(numbers, objects, strict=True) if one.attributes["shape"] == "L-shaped"
        )
        if len(having) < 2:
            yield _Candidate(
                "shape", "instance", kind, having, wording.LOOK, {**_names(kind), "look": "l-shaped"}
            )


def _by_nearness(
    scene: Scene, kind: str, numbers: list[int], members: dict[str, list[int]]
) -> Iterator[_Candidate]:
    if len(numbers) < 2:
        return
    for other, owners in members.items():
        if other == kind or len(owners) != 1:
            continue
        landmark = np.asarray(scene.instances[owners[0]].centre)
        distance = [float(np.linalg.norm(landmark - scene.instances[n].centre)) for n in numbers]
        order = np.argsort(distance)
        nearest, second = distance[order[0]], distance[order[1]]
        if second - nearest >= 0.12 and second >= 1.4 * nearest:
            yield _pointed("near", kind, numbers[int(order[0])], wording.NEAR, other=other)


def _by_part(scene: Scene, kind: str, numbers: list[int]) -> Iterator[_Candidate]:
    least = SMALLEST_PART * scene.size**2
    objects = [scene.instances[number] for number in numbers]
    for part in wording.PART_NAMES.get(kind, ()):
        visible = [int(np.count_nonzero(one.parts[part])) >= least for one in objects]
        if len(numbers) == 1 and visible[0]:
            words = {**_names(kind), "part": part}
            yield _Candidate("part", "part", kind, (numbers[0],), wording.PART, words, part)
            for text in wording.IMPLICIT_PARTS.get((kind, part), ()):
                templates = ((text,), (text,))
                yield _Candidate(
                    "implicit part", "part", kind, (numbers[0],), templates, {}, part, implicit=True
                )
        if len(numbers) > 1:
            for index, side in _extremes(objects):
                if visible[index]:
                    words = {**_names(kind), "part": part, "word": wording.EXTREMES[side][0]}
                    yield _Candidate(
                        "part of which", "part", kind, (numbers[index],), wording.PART_OF_WHICH, words, part
                    )
    if kind == "aircraft" and len(numbers) == 1:
        yield _Candidate("wings", "part", kind, (numbers[0],), wording.WINGS, _names(kind), "wings")
