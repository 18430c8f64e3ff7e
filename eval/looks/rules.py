"""Rules that make one answer of several looks, by name; "module:function" for one of your own.

A rule sees a `Ballot` and returns a `Choice`. Looks whose completion was not read, or whose segmenter failed,
have no vote. Where no sampled look has one, every rule but `greedy` and `mbr` takes the first of them, so
that the question counts as what it is: not answered. Of equals, the segmenter's own score decides, then the
order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from envs.masks import Mask, iou
from eval.looks.ballot import AGREE, Ballot
from prompter.registry import Entry, Registry


@dataclass(frozen=True)
class Choice:
    """What a rule answers.

    Args:
        look: place in `Ballot.looks` of the look that is the answer.
        mask: bool [height, width], if the answer's mask is nobody's own; the look then lends its text and
            its prompts. None for the look's own mask.
    """

    look: int
    mask: Mask | None = field(default=None, repr=False)


CombineRule = Callable[[Ballot], Choice]

DEFAULT_RULE = "consensus"

RULES: Registry[CombineRule] = Registry(
    "combine rule",
    {
        "consensus": Entry(
            "eval.looks.rules:consensus",
            'the middle of the largest cluster of masks, or a majority of "none"',
        ),
        "medoid": Entry("eval.looks.rules:medoid", "the sample that agrees most with all others"),
        "mbr": Entry("eval.looks.rules:mbr", "the same with the greedy answer among them, which wins ties"),
        "vote": Entry(
            "eval.looks.rules:vote", "pixels that most samples hold; text and prompts of the nearest"
        ),
        "score": Entry("eval.looks.rules:score", "the sample with the segmenter's best own score"),
        "greedy": Entry("eval.looks.rules:greedy", "the greedy answer; the samples only measure confidence"),
        "best": Entry("eval.looks.rules:best", "the sample nearest to the TRUTH: an upper bound, no answer"),
    },
)

USES_TRUTH = ("best",)
"""Rules that look at the target; what they give is a bound, and is called so wherever it is shown."""


def greedy(ballot: Ballot) -> Choice:
    """The greedy look, whatever was sampled."""
    return Choice(0)


def medoid(ballot: Ballot) -> Choice:
    """The sample with the highest mean agreement with the others that have a vote."""
    voters = ballot.voters
    return Choice(_central(ballot, voters)) if voters else Choice(1)


def mbr(ballot: Ballot) -> Choice:
    """The look with the highest mean agreement with all others, the greedy one being one of them.

    Minimum Bayes risk decoding (Kumar and Byrne 2004) with IoU as the gain and the looks as what may be
    true. One sample and the greedy answer agree with each other alike: the greedy one stays.
    """
    readable = [place for place in range(len(ballot.looks)) if ballot.masks[place] is not None]
    if not readable:
        return Choice(0)
    gains = _mean_agreement(ballot, readable, readable)
    if readable[0] == 0 and _tied(gains[0]) == _tied(gains.max()):
        return Choice(0)
    return Choice(_highest(ballot, readable, gains))


def consensus(ballot: Ballot) -> Choice:
    """ "none" if more than half of the voters say so; else the medoid of the largest cluster of masks.

    Those that name something are clustered by average linkage at an IoU of `AGREE`
    (`scipy.cluster.hierarchy`). Of clusters of one size, that with the higher mean agreement inside counts,
    then that with the better mean of own scores.
    """
    decided = _decided_early(ballot)
    if decided is not None:
        return decided
    # Where distances are equal, the order decides what is merged first: let it be the masks', not the draws'.
    naming = np.array(sorted(ballot.naming, key=lambda place: str(ballot.looks[place].prediction)))
    if len(naming) == 1:
        return Choice(int(naming[0]))
    distances = 1 - ballot.agreement[np.ix_(naming, naming)]
    tree = linkage(squareform(distances, checks=False), method="average")
    labels = fcluster(tree, t=1 - AGREE, criterion="distance")
    clusters = [sorted(naming[labels == label].tolist()) for label in np.unique(labels)]

    def weight(members: Sequence[int]) -> tuple[int, float, float, int]:
        inside = _mean_agreement(ballot, members, members).mean()
        own = _comparable(ballot.own_scores[list(members)]).mean()
        return len(members), _tied(inside), _tied(own), -members[0]

    return Choice(_central(ballot, max(clusters, key=weight)))


def vote(ballot: Ballot) -> Choice:
    """ "none" if more than half of the voters say so; else the pixels that more than half of the others hold.

    Text and prompts are those of the sample that names something and is nearest to that mask.
    """
    decided = _decided_early(ballot)
    if decided is not None:
        return decided
    naming = ballot.naming
    drawn = [one for place in naming if (one := ballot.masks[place]) is not None]
    mask: Mask = np.asarray(np.sum(drawn, axis=0, dtype=np.int32) * 2 > len(drawn))
    nearness = np.array([iou(mask, given) for given in drawn])
    return Choice(_highest(ballot, naming, nearness), mask)


def score(ballot: Ballot) -> Choice:
    """ "none" if more than half of the voters say so; else the sample with the best own score.

    An answer that says "none" has no score. Where no sample has one, or several have the same, the one that
    agrees most with the others that name something counts.
    """
    decided = _decided_early(ballot)
    if decided is not None:
        return decided
    naming = ballot.naming
    own = _comparable(ballot.own_scores[naming])
    top = [place for place, value in zip(naming, own, strict=True) if _tied(value) == _tied(own.max())]
    return Choice(_highest(ballot, top, _mean_agreement(ballot, top, naming)))


def best(ballot: Ballot) -> Choice:
    """The sample with the highest IoU with the target: what a perfect choice would reach."""
    return Choice(1 + int(np.argmax(_comparable(ballot.truth[1:]))))


def _decided_early(ballot: Ballot) -> Choice | None:
    """The answer where nobody has a vote, or most say "none"; else None."""
    if not ballot.voters:
        return Choice(1)
    if ballot.none_has_majority:
        return Choice(next(place for place in ballot.voters if ballot.says_none(place)))
    return None


def _central(ballot: Ballot, members: Sequence[int]) -> int:
    """The member with the highest mean agreement with the other members."""
    return _highest(ballot, members, _mean_agreement(ballot, members, members))


def _mean_agreement(ballot: Ballot, places: Sequence[int], others: Sequence[int]) -> NDArray[np.float64]:
    """Mean agreement of looks with the rest of `others`, which hold them: float64 [places]; or ones."""
    if len(others) < 2:
        return np.ones(len(places))
    rows = ballot.agreement[np.ix_(places, others)]
    itself = ballot.agreement[places, places]
    return (rows.sum(axis=1) - itself) / (len(others) - 1)


def _highest(ballot: Ballot, places: Sequence[int], values: NDArray[np.float64]) -> int:
    """The place with the highest value; of equals the best own score, then the first."""
    own = _comparable(ballot.own_scores[list(places)])
    return max(
        zip(places, values, own, strict=True), key=lambda one: (_tied(one[1]), _tied(one[2]), -one[0])
    )[0]


def _comparable(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores with -1 where there is none, float64 of their shape."""
    return np.nan_to_num(scores, nan=-1.0)


def _tied(value: float) -> float:
    """A value as it is compared: sums that differ by the order of their terms alone are equal."""
    return round(float(value), 9)
