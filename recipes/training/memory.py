"""What was answered before joins a group, where it is better than all that was drawn now.

A group of eight answers to a hard question often holds none that is right, and then teaches only which of the
wrong ones is less wrong. With `group.memory` the best answer known to the question takes the place of the
group's worst. Known are answers of windows before this one:

- `question`: to this very question, when it was asked before: self-imitation (arXiv:1806.05635);
- `image`: also to other questions about the same image: an answer that boxed the wrong house is right for the
  question that means that house, as in hindsight experience replay (arXiv:1707.01495).

A mask of before is compared with this question's target, so that no segmenter runs and the reward stays what
it is: nothing says which box would have been right. Such an answer was not drawn for this question. It has no
log-probability of a sampler, TRL takes its ratio to the sampler as 1, and its advantage is its reward less
the mean of the group it joined. What is logged and recorded of a window is what was drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from envs.rollout import Rollout
from envs.rollouts import image_key
from envs.sample import Sample
from prompter.dialects.region import outside_thought
from prompter.errors import UserError
from prompter.types import Completion
from recipes.config import GroupConfig
from recipes.training.scoring import RolloutScorer, ScoredGroup

MOST = 64
"""Answers that are known to an image; of more the oldest are forgotten."""

_OF_THE_QUESTION = (
    "sample_id",
    "dataset",
    "split",
    "query",
    "target",
    "instances",
    "ignore",
    "boxes",
    "tags",
    "step",
)


@dataclass(frozen=True)
class Known:
    """An answer of before: its tokens, the questions it was given to, and by segmenter a rollout of it."""

    completion: Completion
    questions: frozenset[int]
    rollouts: Mapping[str, Rollout]


class AnswerMemory:
    """The answers of earlier windows, by image.

    Everything follows from the windows and rollouts that a run folder keeps
    (`recipes.training.saved_windows.remember`): a resumed run remembers what an unbroken one does.

    Args:
        group: `memory` says whose answers are asked for, `none` remembers nothing.
        scorer: compares masks of before with another target.

    Raises:
        UserError: if a reward compares the answers of a group with each other.
    """

    def __init__(self, group: GroupConfig, scorer: RolloutScorer | None) -> None:
        self.group, self.scorer = group, scorer
        self._known: dict[str, dict[str, Known]] = {}
        if scorer is not None and group.memory != "none" and scorer.reward.needs_group:
            raise UserError(
                "group.memory scores an answer of before alone, but a reward in `rewards` compares the "
                "answers of a group with each other: set group.memory: none, or take that reward out"
            )

    def join(
        self, groups: Sequence[ScoredGroup], samples: Mapping[int, Sample]
    ) -> tuple[list[ScoredGroup], list[float]]:
        """Put the best answer known into each group that drew none as good, in the place of its worst.

        Args:
            groups: as they were sampled and scored, before anything is selected.
            samples: training-set index -> sample.

        Returns:
            The groups, and what the answers earn that joined one.
        """
        if self.group.memory == "none":
            return list(groups), []
        joined: list[ScoredGroup] = []
        rewards: list[float] = []
        for group in groups:
            best = self._best(group, image_key(samples[group.index]))
            if best is None:
                joined.append(group)
                continue
            known, reward, rollouts = best
            joined.append(group.exchanged(_worst(group), known.completion, reward, rollouts))
            rewards.append(reward)
        return joined, rewards

    def note(
        self,
        groups: Iterable[ScoredGroup],
        rollouts: Iterable[Mapping[str, Any]],
        samples: Mapping[int, Sample],
    ) -> None:
        """Remember a window.

        Args:
            groups: what could be trained on.
            rollouts: the window's, JSON-ready; masks are taken from them.
            samples: training-set index -> sample.
        """
        if self.group.memory == "none":
            return
        seen: dict[tuple[str, str], dict[str, Rollout]] = {}
        for record in rollouts:
            rollout = Rollout.from_json(record)
            if rollout.prediction is not None:
                key = (image_key(rollout), rollout.completion)
                seen.setdefault(key, {})[rollout.executor] = rollout
        for group in groups:
            image = image_key(samples[group.index])
            known = self._known.setdefault(image, {})
            for one in group.completions:
                found = seen.get((image, one.text))
                if found:
                    before = known.get(one.text) or Known(replace(one, logprobs=None), frozenset(), {})
                    known[one.text] = Known(
                        before.completion, before.questions | {group.index}, {**before.rollouts, **found}
                    )
            for text in list(known)[:-MOST]:
                del known[text]

    def _best(self, group: ScoredGroup, image: str) -> tuple[Known, float, list[Rollout]] | None:
        """The answer that earns most, if it earns more than all that were drawn, and its rollouts."""
        assert self.scorer is not None
        drawn = {one.text for one in group.completions}
        own = {rollout.executor: rollout for rollout in group.rollouts}
        best, most = None, max((one for one in group.rewards if one is not None), default=0.0) + 1e-6
        for text, known in self._known.get(image, {}).items():
            if text in drawn or not own.keys() <= known.rollouts.keys():
                continue
            own_only = self.group.memory == "question" or outside_thought(text) != text
            if own_only and group.index not in known.questions:
                continue
            rollouts = {name: _asked_as(known.rollouts[name], one) for name, one in own.items()}
            scored, reward = self.scorer.score_again(rollouts)
            if reward is not None and reward > most:
                best, most = (known, reward, scored), reward
        return best


def _asked_as(answer: Rollout, other: Rollout) -> Rollout:
    """A rollout of an answer as one of the question that another rollout is of, not scored yet."""
    rollout = replace(answer, rewards={}, **{key: getattr(other, key) for key in _OF_THE_QUESTION})
    rollout.keep_decoded(target_mask=other.target_mask)  # once for all answers
    return rollout


def _worst(group: ScoredGroup) -> int:
    """Position of the last worst completion of a group; one without a reward is the worst of all."""
    worths = [-1.0 if one is None else one for one in group.rewards]
    return min(range(len(worths)), key=lambda place: (worths[place], -place))
