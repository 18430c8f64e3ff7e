"""How false premises were answered: refused or not, and whether what was said to be there instead is there.

A correction is what an answer without a target says in words: "there is no purple tank here, but there is a
white tank". Which words name a thing is decided by `stated`, for every policy alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.datasets.synthetic.wording import LOOKALIKES
from envs.premise import FalsePremise
from envs.rollout import Rollout
from envs.rollouts import image_key
from eval.bootstrap import Bootstrap, Ratio
from eval.figures import with_interval
from eval.metrics import with_intervals
from prompter.errors import UserError
from prompter.runs.tables import text_table
from prompter.types import PromptSet

COLOURS = frozenset().union(
    *LOOKALIKES, ("gray", "purple", "pink", "silver", "beige", "violet", "golden", "cyan")
)

_STATES = re.compile(
    r"(?:\bthere(?:\s+is|\s+are|'s|’s)|\b(?:i|we)\s+(?:can\s+)?(?:only\s+)?see|"
    r"\b(?:image|picture|scene|view)\s+(?:only\s+)?(?:shows|contains|has))\s+"
)
_SIGN = re.compile(r"[.;:!?<>\[\]{}\n]")
_AGAIN = re.compile(r"\b(?:there(?:\s+is|\s+are|'s|’s)|but|however|instead|though)\b")
_ENDS = re.compile(
    r"\b(?:in|on|at|near|beside|by|here|that|which|with|where|visible|present|shown|within|inside|below|above|"
    r"from|to|of|as|is|are|so|because)\b"
)
_BEFORE = re.compile(
    r"^(?:(?:a|an|the|some|only|just|also|actually|instead|one|two|three|four|five|six|several|many|few|\d+)\s+)+"
)
_DENIED = re.compile(r"^(?:no|not|none|nothing|neither|never|isn't|aren't)\b")


def stated(text: str) -> list[str]:
    """The things that a text says are there, in lower case and without articles.

    Read are the words behind "there is", "there are", "I see" and "the image shows", "contains" or "has",
    up to the next sign or a word of place, parted at "and" and commas; those that deny ("no", "not",
    "nothing") are not. Thoughts count: they are where a policy says it.
    """
    phrases = []
    lowered = text.lower()
    for found in _STATES.finditer(lowered):
        phrase = _AGAIN.split(_SIGN.split(lowered[found.end() :], maxsplit=1)[0])[0].strip()
        if _DENIED.match(phrase):
            continue
        phrase = _ENDS.split(phrase)[0]
        for part in re.split(r",|\band\b|\bor\b", phrase):
            name = _BEFORE.sub("", part.strip()).strip(" \"'“”")
            if name and not _DENIED.match(name):
                phrases.append(name)
    return phrases


def is_there(phrase: str, there: Iterable[str]) -> bool:
    """Whether a thing that was said to be there is: whether the phrase ends in a name of what is there.

    Plurals, hyphens and underscores do not matter. Words before the name are free, but a colour is wrong
    where the truth knows the thing's colours and this is none of them.
    """
    words = _words(phrase)
    names = sorted((_words(name) for name in there), key=len, reverse=True)
    for name in names:
        if name and words[-len(name) :] == name:
            has_colours = any(len(one) > len(name) and one[-len(name) :] == name for one in names)
            return not (has_colours and COLOURS & set(words[: -len(name)]))
    return False


def _words(name: str) -> list[str]:
    words = re.sub(r"[\s_-]+", " ", name.lower()).split()
    return [
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in words
    ]


class _Row(NamedTuple):
    """One rollout: its image's number, whether it has a target, and what was answered and said."""

    image: int
    targeted: bool
    found: bool
    kind: str = ""
    nameable: bool = False
    refused: bool = False
    named: bool = False
    right: bool = False
    expected: bool = False


class PremiseTally:
    """Gathers, rollout by rollout, what `summary` needs; rollouts whose segmenter failed are left out."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._images: dict[str, int] = {}

    def watch(self, rollouts: Iterable[Rollout]) -> Iterator[Rollout]:
        """Pass rollouts on, counting each.

        Raises:
            UserError: if the tags of one contradict each other.
        """
        for rollout in rollouts:
            if rollout.executor_error is None:
                self._rows.append(self._row(rollout))
            yield rollout

    def _row(self, rollout: Rollout) -> _Row:
        try:
            premise = FalsePremise.from_tags(rollout.tags)
        except ValueError as error:
            raise UserError(
                f"the tags of sample {rollout.sample_id!r} tell no false premise: {error}."
            ) from None
        image = self._images.setdefault(image_key(rollout), len(self._images))
        read = rollout.reading
        is_empty = isinstance(read, PromptSet) and read.is_empty
        if premise is None:
            targeted = rollout.has_target
            return _Row(image, targeted, targeted and isinstance(read, PromptSet) and not is_empty)
        named = stated(rollout.completion) if is_empty and premise.there else []
        right = bool(named) and all(is_there(name, premise.there) for name in named)
        expected = right and any(is_there(name, [premise.instead]) for name in named if premise.instead)
        return _Row(
            image, False, False, premise.kind, bool(premise.there), is_empty, bool(named), right, expected
        )

    def summary(self, bootstrap: Bootstrap | None = None) -> dict[str, Any] | None:
        """What is reported, JSON-ready; None where no question had a false premise.

        Returns:
            `queries` (kind -> how many false premises), `metrics` (name -> `value`, `by_query`, `by_image` as
            `eval.metrics.with_intervals` gives them):

            - N-acc: share of false premises with an empty answer; also by kind. A failed parse is none.
            - T-acc: share of questions with a target that are answered with one.
            - corrections: share of these empty answers that say what is there, of images where something is.
            - true corrections: share of corrections of which everything they name is there.
            - expected corrections: share that name what stands in the place of what was asked for, too.
        """
        if not any(row.kind for row in self._rows):
            return None
        kinds = np.array([row.kind for row in self._rows])
        images = np.array([row.image for row in self._rows], np.int64)

        def column(name: str) -> NDArray[np.bool_]:
            return np.array([getattr(row, name) for row in self._rows], np.bool_)

        false, refused, named = kinds != "", column("refused"), column("named")
        ratios = {"N-acc": Ratio.of(refused, false)}
        for kind in sorted(set(kinds[false])):
            ratios[f"N-acc, {kind}"] = Ratio.of(refused & (kinds == kind), kinds == kind)
        ratios |= {
            "T-acc": Ratio.of(column("found"), column("targeted")),
            "corrections": Ratio.of(named, refused & column("nameable")),
            "true corrections": Ratio.of(column("right"), named),
            "expected corrections": Ratio.of(column("expected"), named),
        }
        return {
            "queries": {kind: int((kinds == kind).sum()) for kind in sorted(set(kinds[false]))},
            "metrics": with_intervals(ratios, images, bootstrap),
        }


def premise_lines(summary: Mapping[str, Any]) -> list[str]:
    """A summary as lines of text: what was asked, and a row per metric."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["queries"].items())
    rows = [[name, with_interval(metric)] for name, metric in summary["metrics"].items()]
    return [f"false premises ({kinds}):", *(f"  {line}" for line in text_table(rows, numbers=True))]
