"""False premises: questions about what is not there, the truth about it, and the refusal that tells it.

A question has a false premise if it takes for granted what the image does not show: an object that is absent,
or one whose attribute is wrong ("the purple tank" where all are white). Its target is empty. Its tags say
what was asked for, what there is instead, and all that is there by name, so that an answer can be told right
or wrong without the image. After SESAME (Wu et al., "See, Say, and Segment", CVPR 2024: find out, say so and
correct, segment) and GSVA (Xia et al., CVPR 2024: the target that is rejected).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

PremiseKind = Literal["absent", "attribute"]

PREMISE = "premise"
"""The tag that marks a false premise; its value is a `PremiseKind`."""
ASKED, INSTEAD, THERE = "premise-asked", "premise-instead", "premise-there"
TRUTH_TAGS = (ASKED, INSTEAD, THERE)
"""Tags that tell the truth about one image; no breakdown is made by them."""

_BETWEEN = "; "


@dataclass(frozen=True)
class FalsePremise:
    """What is wrong with a question, and what is true.

    Args:
        kind: `absent`, nothing of the kind is there; `attribute`, it is, but not such.
        asked: what was asked for, singular, as in "purple storage tank".
        there: everything that is there, singular, with and without what is known of its looks, as in
            ("white storage tank", "storage tank", "car"); empty if nothing that has a name is.
        instead: the one of `there` that a refusal should name; "" if there is none.

    Raises:
        ValueError: if the kind is unknown, nothing was asked for, `instead` is not there, or what was asked
            for is.
    """

    kind: PremiseKind
    asked: str
    there: tuple[str, ...] = ()
    instead: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(PremiseKind):
            raise ValueError(f"a premise is false by {' or '.join(get_args(PremiseKind))}, not {self.kind!r}")
        if not self.asked.strip():
            raise ValueError("a false premise must say what was asked for")
        if self.instead and self.instead not in self.there:
            raise ValueError(f"{self.instead!r} is to be named, but is not among what is there: {self.there}")
        if self.asked in self.there:
            raise ValueError(f"{self.asked!r} is there, so the premise is true")

    def to_tags(self) -> dict[str, str]:
        """The tags of a sample; `from_tags` is the inverse."""
        tags = {PREMISE: str(self.kind), ASKED: self.asked, THERE: _BETWEEN.join(self.there)}
        return {**tags, INSTEAD: self.instead} if self.instead else tags

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> FalsePremise | None:
        """What a sample's or rollout's tags say; None where they do not say what was falsely asked for.

        Raises:
            ValueError: if the tags contradict each other, or the kind is unknown.
        """
        if ASKED not in tags:
            return None
        there = tuple(name for name in tags.get(THERE, "").split(_BETWEEN) if name)
        kind: PremiseKind = tags.get(PREMISE, "")  # type: ignore[assignment]  # checked on construction
        return cls(kind, tags[ASKED], there, tags.get(INSTEAD, ""))

    def refusal(self) -> str:
        """The sentence that says that it is not there, and what is: for a thought, or beside `[REJ]`."""
        if not self.instead:
            return f"there is no {self.asked} here."
        return f"there is no {self.asked} here, but there is {with_article(self.instead)}."


def with_article(name: str) -> str:
    """A name with "a" or "an", by its first letter."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
