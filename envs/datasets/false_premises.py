"""False premises about any set whose samples name a category: the option `false_premises` of every set.

Each is a question that the set asks elsewhere about a category that this image does not show, or one of this
image's own with its colour exchanged. What is absent is what the set's questions about the image do not
mention: in a set that does not ask about everything an image shows, some of it may be there after all.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from envs.datasets.synthetic.wording import LOOKALIKES, alike
from envs.masks import encode_rle
from envs.premise import FalsePremise
from envs.sample import Sample, SampleSource
from prompter.errors import UserError

OPTION = "false_premises"
OPTION_TYPES: dict[str, Any] = {OPTION: float}
"""The option of every set, as `envs.datasets.registry` checks it: how many false premises for a question that
has a target and a category, 0 to 1."""

COLOURS = tuple(sorted(frozenset().union(*LOOKALIKES)))


def with_false_premises(source: SampleSource, share: float) -> SampleSource:
    """A source with a question of false premise behind a share of its own, which all stay as they are.

    Reads the whole source once, to know what each image shows. Which questions are followed by one, and by
    which, depends on their ids alone.

    Args:
        source: whose samples have the tag `category`.
        share: chance of each question that has a category and a target.

    Raises:
        UserError: if the share is out of range, or no question with a target names a category.
    """
    if not 0 <= share <= 1:
        raise UserError(f"option {OPTION!r} is a share between 0 and 1, but is {share}.")
    return source if share == 0 else FalsePremises(source, share)


@dataclass
class _Shown:
    """What a set says of one image: its categories, and the colours it names of each ("" for none)."""

    colours: dict[str, set[str]] = field(default_factory=dict)


class FalsePremises:
    """The source that `with_false_premises` gives. A false premise has the id of the question before it, with
    `~false` behind it."""

    def __init__(self, source: SampleSource, share: float) -> None:
        self.name, self.split = source.name, source.split
        self._source = source
        self._shown: dict[str, _Shown] = {}
        self._asking: dict[str, array[int]] = {}  # category -> the questions about it
        followed = array("q")
        for number in range(len(source)):
            sample = source[number]
            category = plain_name(sample.tags.get("category", ""))
            if not category or not _has_target(sample):
                continue
            shown = self._shown.setdefault(sample.image_id, _Shown())
            shown.colours.setdefault(category, set()).add(colour_of(sample.query, category))
            self._asking.setdefault(category, array("q")).append(number)
            if _draw(sample.sample_id, "share") < share:
                followed.append(number)
        if not self._asking:
            raise UserError(
                f"option {OPTION!r} needs questions with the tag 'category', but "
                f"{source.name}:{source.split} has none with a target."
            )
        # (question, follows): entry k of the set is the question itself, or the false premise behind it.
        behind = set(followed)
        self._order = array("q")
        for number in range(len(source)):
            self._order.append(2 * number)
            if number in behind and self._made(source[number]) is not None:
                self._order.append(2 * number + 1)

    def __getattr__(self, name: str) -> Any:
        """What the source itself knows of its reading: `faults`, `skipped`, `left_out`, `noted`."""
        if name in ("faults", "skipped", "left_out", "noted"):
            return getattr(self._source, name)
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        number, is_false = divmod(self._order[index], 2)
        sample = self._source[number]
        made = self._made(sample) if is_false else sample
        assert made is not None  # else it would not be in the order
        return made

    def _made(self, sample: Sample) -> Sample | None:
        """The false premise behind a question; None where the image shows every category of the set."""
        category = plain_name(sample.tags["category"])
        shown = self._shown[sample.image_id]
        found = self._wrong_colour(sample, category, shown)
        if found is not None and _draw(sample.sample_id, "kind") < 0.5:
            return found
        absent = sorted(name for name in self._asking if name not in shown.colours)
        if not absent:
            return found
        asked = absent[int(_draw(sample.sample_id, "category") * len(absent))]
        numbers = self._asking[asked]
        other = self._source[numbers[int(_draw(sample.sample_id, "question") * len(numbers))]]
        premise = FalsePremise("absent", asked, _names(shown), _called(category, shown))
        return _false(sample, other.query, {**other.tags, **premise.to_tags()})

    def _wrong_colour(self, sample: Sample, category: str, shown: _Shown) -> Sample | None:
        """The question with another colour, where the set names the colour of all of the category."""
        colour, named = colour_of(sample.query, category), shown.colours[category]
        if not colour or "" in named:
            return None
        other = [one for one in COLOURS if one not in named and not any(alike(one, it) for it in named)]
        if not other:
            return None
        wrong = other[int(_draw(sample.sample_id, "colour") * len(other))]
        query = _beside(colour, category).sub(lambda found: f"{wrong}{found['between']}", sample.query)
        there, instead = _names(shown), f"{colour} {category}"
        premise = FalsePremise("attribute", f"{wrong} {category}", there, instead)
        return _false(sample, query, {**sample.tags, **premise.to_tags()})


def plain_name(category: str) -> str:
    """A category as people write it: "Expressway_Service-area" is "expressway service area"."""
    return " ".join(re.split(r"[\s_-]+", category.strip().lower())).strip()


def colour_of(query: str, category: str) -> str:
    """The colour that a question gives a category, as in "the white car" for "car"; "" if none."""
    for colour in COLOURS:
        if _beside(colour, category).search(query):
            return colour
    return ""


def _beside(colour: str, category: str) -> re.Pattern[str]:
    """A colour directly before a category's name, which may be written as one word or in the plural."""
    name = r"[\s_-]*".join(map(re.escape, category.split()))
    return re.compile(rf"\b{colour}(?P<between>\s+(?={name}(?:s|es)?\b))", re.IGNORECASE)


def _names(shown: _Shown) -> tuple[str, ...]:
    names = [
        f"{colour} {category}".strip()
        for category in sorted(shown.colours)
        for colour in sorted({*shown.colours[category], ""}, reverse=True)
    ]
    return tuple(dict.fromkeys(names))


def _called(category: str, shown: _Shown) -> str:
    """A category with its colour, where the set names one and the same."""
    named = shown.colours[category]
    return f"{next(iter(named))} {category}".strip() if len(named) == 1 else category


def _false(sample: Sample, query: str, tags: dict[str, str]) -> Sample:
    width, height = sample.image_wh
    empty = None if sample.target is None else encode_rle(np.zeros((height, width), np.bool_))
    return replace(
        sample,
        sample_id=f"{sample.sample_id}~false",
        query=query,
        target=empty,
        instances=(),
        ignore=None,
        boxes=(),
        tags={**tags, "multiplicity": "none"},
    )


def _has_target(sample: Sample) -> bool:
    return bool(sample.boxes) if sample.target is None else bool(sample.target_mask().any())


def _draw(sample_id: str, what: str) -> float:
    """A number in [0, 1) that a sample's id decides."""
    digest = hashlib.blake2b(f"{what}\0{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
