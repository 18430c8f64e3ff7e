"""The looks at one question as rules see them: what each says, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask, iou, symmetric_iou
from envs.rollout import Rollout
from eval.audit.consensus import AGREE, vote_of
from rewards.mask import mask_iou


class Ballot:
    """The looks at one question.

    A look has a vote if its completion was read and its segmenter did not fail. It says "none" if its answer
    is empty; otherwise it *names* something, even if the segmenter drew no pixel for it.

    Args:
        looks: the greedy rollout, then the sampled ones; at least two.

    Everything but `truth` is made without a look at the target and at what is ignored.
    """

    def __init__(self, looks: Sequence[Rollout]) -> None:
        if len(looks) < 2:
            raise ValueError(f"a ballot needs the greedy look and one sampled, but got {len(looks)}")
        self.looks = tuple(looks)

    def first(self, samples: int) -> Ballot:
        """The ballot of the greedy look and the first so many sampled ones; what is known is kept."""
        count = samples + 1
        part = Ballot(self.looks[:count])
        part.__dict__.update(
            masks=self.masks[:count],
            agreement=self.agreement[:count, :count],
            own_scores=self.own_scores[:count],
        )
        if "truth" in self.__dict__:
            part.__dict__["truth"] = self.truth[:count]
        return part

    @property
    def sampled(self) -> range:
        """Places of the sampled looks in `looks`."""
        return range(1, len(self.looks))

    @property
    def voters(self) -> list[int]:
        """Places of the sampled looks that have a vote."""
        return [place for place in self.sampled if self.masks[place] is not None]

    @property
    def naming(self) -> list[int]:
        """Places of the voters that name something."""
        return [place for place in self.voters if not self.says_none(place)]

    @property
    def none_has_majority(self) -> bool:
        """Whether more than half of the voters say "none"."""
        voters = self.voters
        return 2 * (len(voters) - len(self.naming)) > len(voters)

    def says_none(self, place: int) -> bool:
        """Whether the look there answers that nothing is to be found."""
        reading = self.looks[place].reading
        return bool(getattr(reading, "is_empty", False))

    @cached_property
    def masks(self) -> list[Mask | None]:
        """What each look says, bool [height, width], all False for "none"; None where it has no vote."""
        return [vote_of(0, look).mask for look in self.looks]

    @cached_property
    def own_scores(self) -> NDArray[np.float64]:
        """The segmenter's own estimate of its IoU, mean of a look's instances: float64 [looks], or NaN."""
        return np.array([vote_of(0, look).confidence for look in self.looks])

    @cached_property
    def agreement(self) -> NDArray[np.float64]:
        """How far looks say the same, in [0, 1], symmetric: float64 [looks, looks].

        IoU of the masks of two that name something; 1 where both say "none"; 0 where only one does, or
        where one has no vote.
        """
        result = np.zeros((len(self.looks), len(self.looks)))
        given = [place for place, mask in enumerate(self.masks) if mask is not None]
        naming = [place for place in given if not self.says_none(place)]
        nones = [place for place in given if self.says_none(place)]
        drawn = [mask for place in naming if (mask := self.masks[place]) is not None]
        result[np.ix_(naming, naming)] = symmetric_iou(drawn)
        result[np.ix_(nones, nones)] = 1.0
        return result

    def with_mask(self, mask: Mask) -> NDArray[np.float64]:
        """How far the sampled looks agree with a mask that names something: float64 [samples]."""
        found = np.zeros(len(self.sampled))
        for place in self.naming:
            found[place - 1] = iou(mask, self.masks[place])
        return found

    @cached_property
    def truth(self) -> NDArray[np.float64]:
        """The reward `mask_iou` of each look, float64 [looks]; NaN where the segmenter failed.

        Looks at the target: for upper bounds and curves, never for an answer.
        """
        scores = [mask_iou(look) for look in self.looks]
        return np.array([np.nan if one is None else one for one in scores])


__all__ = ["AGREE", "Ballot"]
