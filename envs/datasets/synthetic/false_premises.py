"""Questions about a scene whose premise is false: a class that is absent, or a colour that none has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from envs.datasets.synthetic import wording
from envs.datasets.synthetic.drawing import pick
from envs.datasets.synthetic.objects import OBJECT_CLASSES
from envs.datasets.synthetic.queries import LONG_SHARE, Query, Rng, Templates
from envs.datasets.synthetic.scene import Scene, SceneObject
from envs.premise import FalsePremise


@dataclass(frozen=True)
class _Candidate:
    """A question with a false premise, before its wording is chosen."""

    premise: FalsePremise
    family: str
    category: str
    templates: Templates
    words: dict[str, str]


def replaced_queries(scene: Scene, rng: Rng, share: float, n: int) -> list[Query | None]:
    """For each of a scene's first `n` questions None, or one with a false premise to put in its place.

    Args:
        scene: what is asked about.
        rng: a generator of its own, so that the questions that stay are what they were without it.
        share: chance of each question to be replaced; half of them by a wrong colour where there is one.
        n: how many; the first k do not depend on it.
    """
    by_kind: dict[str, list[_Candidate]] = {}
    for candidate in _candidates(scene):
        by_kind.setdefault(candidate.premise.kind, []).append(candidate)
    found: list[Query | None] = []
    texts: set[str] = set()
    for _ in range(n):
        if not by_kind or rng.random() >= share:
            found.append(None)
            continue
        query = _query(rng, pick(rng, by_kind[pick(rng, list(by_kind))]))
        found.append(None if query.text in texts else query)
        texts.add(query.text)
    return found


def _query(rng: Rng, one: _Candidate) -> Query:
    long = bool(rng.random() < LONG_SHARE)
    tags = {
        "granularity": "semantic" if one.family == "name" else "instance",
        "multiplicity": "none",
        "reasoning": "explicit",
        "length": "long" if long else "short",
        "category": one.category,
        "family": one.family,
        **one.premise.to_tags(),
    }
    return Query(pick(rng, one.templates[int(long)]).format(**one.words), (), (), tags)


def _candidates(scene: Scene) -> Iterator[_Candidate]:
    """Everything that can be asked and is certainly not there."""
    members: dict[str, list[SceneObject]] = {kind: [] for kind in OBJECT_CLASSES}
    for one in scene.instances:
        members[one.category].append(one)
    there = names_there(scene.instances)
    for kind, objects in members.items():
        yield from _wrong_colours(kind, objects, there) if objects else _absent(kind, members, there)


def _absent(kind: str, members: dict[str, list[SceneObject]], there: tuple[str, ...]) -> Iterator[_Candidate]:
    premise = FalsePremise("absent", kind, there, _stand_in(kind, members))
    words = {"one": kind, "many": OBJECT_CLASSES[kind].plural}
    yield _Candidate(premise, "name", kind, wording.NAME_ONE, words)
    yield _Candidate(premise, "name", kind, wording.NAME_ALL, words)
    for word in wording.SIZES:
        yield _Candidate(premise, "size", kind, wording.SIZE, {**words, "word": word})
    for word in wording.REGIONS.values():
        yield _Candidate(premise, "region", kind, wording.REGION, {**words, "word": word})
    for other, objects in members.items():
        if len(objects) == 1:
            yield _Candidate(premise, "near", kind, wording.NEAR, {**words, "other": other})


def _wrong_colours(kind: str, objects: list[SceneObject], there: tuple[str, ...]) -> Iterator[_Candidate]:
    """Colours of the class that none of its objects has, nor one that could be taken for it."""
    colours = OBJECT_CLASSES[kind].looks.get("colour", ())
    present = [one.attributes.get("colour", "") for one in objects]
    for colour in dict.fromkeys(colours):
        if colour in present or any(wording.alike(colour, other) for other in present):
            continue
        look = wording.look_word(kind, colour)
        premise = FalsePremise("attribute", f"{look} {kind}", there, _called(_foremost(objects)))
        words = {"one": kind, "many": OBJECT_CLASSES[kind].plural, "look": look}
        yield _Candidate(premise, "colour", kind, wording.LOOK, words)
        if len(objects) > 1:
            yield _Candidate(premise, "colour", kind, wording.LOOK_ALL, words)


def _stand_in(kind: str, members: dict[str, list[SceneObject]]) -> str:
    """What to name for an absent class: what could be taken for it, else what there is most of."""
    kin = [other for _, _, kinds in wording.GROUPS.values() if kind in kinds for other in kinds]
    alike = [one for other in kin for one in members[other]]
    rest = max(members.values(), key=lambda objects: (len(objects), sum(one.area for one in objects)))
    objects = alike or rest
    return _called(_foremost(objects)) if objects else ""


def _foremost(objects: Sequence[SceneObject]) -> SceneObject:
    """The largest object of the most frequent name."""
    names = [_called(one) for one in objects]
    return max(objects, key=lambda one: (names.count(_called(one)), one.area))


def _called(one: SceneObject) -> str:
    """An object's class with its colour, if it has one."""
    colour = one.attributes.get("colour")
    return f"{wording.look_word(one.category, colour)} {one.category}" if colour else one.category


def names_there(objects: Sequence[SceneObject]) -> tuple[str, ...]:
    """Every name that fits something in a scene: classes with and without colours, and groups of classes."""
    kinds = {one.category for one in objects}
    names = [name for one in objects for name in (_called(one), one.category)]
    names += [group for group, (_, _, members) in wording.GROUPS.items() if not kinds.isdisjoint(members)]
    return tuple(dict.fromkeys(names))
