"""From completions to rewards: parse, segment with one or several executors, score, keep counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from envs.executors.base import Executor, ExecutorCounters
from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from envs.sample import Sample
from envs.segmenting import encoded_images
from prompter.policy import Policy
from prompter.types import Completion
from recipes.config import GroupConfig
from rewards.registry import WeightedReward


@dataclass
class ScoredGroup:
    """One prompt's group.

    Args:
        index: the sample's position in the training set.
        completions: the group's completions.
        rewards: one total per completion; None where the executor failed, or a reward leaves it out.
        rollouts: all rollouts, one per completion and executor, for the record.
        weights: of each completion's log-likelihood where the best are imitated
            (`recipes.training.imitation`); None where advantages are trained on.
    """

    index: int
    completions: Sequence[Completion]
    rewards: list[float | None]
    rollouts: list[Rollout] = field(repr=False)
    weights: list[float] | None = None

    def only(self, positions: Sequence[int]) -> ScoredGroup:
        """The group of some of its completions; the record of the others is not in it."""
        return replace(
            self,
            completions=[self.completions[one] for one in positions],
            rewards=[self.rewards[one] for one in positions],
            rollouts=[rollout for one in positions for rollout in self.rollouts[self._rows(one)]],
            weights=None if self.weights is None else [self.weights[one] for one in positions],
        )

    def exchanged(
        self, position: int, completion: Completion, reward: float, rollouts: Sequence[Rollout]
    ) -> ScoredGroup:
        """The group with another completion at a position; it has as many rollouts as the one before."""
        completions, rewards, record = list(self.completions), list(self.rewards), list(self.rollouts)
        completions[position], rewards[position] = completion, reward
        record[self._rows(position)] = rollouts
        return replace(self, completions=completions, rewards=rewards, rollouts=record)

    def _rows(self, position: int) -> slice:
        """Where the rollouts of a completion are."""
        each = len(self.rollouts) // max(1, len(self.completions))
        return slice(position * each, (position + 1) * each)

    @property
    def has_spread(self) -> bool:
        """Whether two scored completions differ, so that the group can teach something."""
        known = [reward for reward in self.rewards if reward is not None]
        return len(known) > 1 and max(known) - min(known) > 1e-6

    @property
    def teaches(self) -> bool:
        """Whether training on the group changes anything: a completion is imitated, or rewards differ."""
        return self.has_spread if self.weights is None else any(self.weights)


class RolloutScorer:
    """Scores groups of completions with one or several frozen segmenters.

    Args:
        policy: reads the completions.
        executors: name -> opened executor (`envs.executors.open_executor`).
        reward: weighted sum of rewards.
        aggregate: with several executors, `mean` or `min` of a completion's rewards over them, or
            `draw`: each group is scored by one executor, drawn at random.
        seed: of the drawing.
    """

    def __init__(
        self,
        policy: Policy,
        executors: Mapping[str, Executor],
        reward: WeightedReward,
        *,
        aggregate: str = GroupConfig().executors,
        seed: int = 0,
    ) -> None:
        self.policy, self.executors, self.reward = policy, dict(executors), reward
        self.aggregate, self.seed = aggregate, seed

    def score(
        self,
        indices: Sequence[int],
        samples: Sequence[Sample],
        groups: Sequence[Sequence[Completion]],
        step: int,
        assigned: Sequence[tuple[str, ...]] | None = None,
    ) -> list[ScoredGroup]:
        """Score groups side by side; all completions of a call are decoded together.

        Args:
            indices, samples, groups: one entry per group.
            step: optimiser step the rollouts are recorded under.
            assigned: of each group the executors that score it, where these groups are a part of those that
                `assign` was asked about; None asks it about these.
        """
        assigned = self.assign(len(groups), step) if assigned is None else assigned
        answers = [
            [self.policy.read(completion, sample.image_wh) for completion in group]
            for sample, group in zip(samples, groups, strict=True)
        ]
        scored: dict[int, list[dict[str, Rollout]]] = {
            number: [{} for _ in group] for number, group in enumerate(groups)
        }
        for name, executor in self.executors.items():
            rows = [
                (number, position)
                for number, group in enumerate(groups)
                if name in assigned[number]
                for position in range(len(group))
            ]
            rollouts = make_rollouts(
                [samples[number] for number, _ in rows],
                [answers[number][position] for number, position in rows],
                executor,
                name=name,
                step=step,
                keep_instances=self.reward.needs_instances,
            )
            left = iter(rollouts)
            for number, group in enumerate(groups):
                if name in assigned[number]:
                    of_group = self.reward.score_group(list(islice(left, len(group))))
                    for position, rollout in enumerate(of_group):
                        scored[number][position][name] = rollout
        return [
            ScoredGroup(
                indices[number],
                groups[number],
                [self._total(by_executor) for by_executor in scored[number]],
                [rollout for by_executor in scored[number] for rollout in by_executor.values()],
            )
            for number in range(len(groups))
        ]

    def score_again(self, by_executor: Mapping[str, Rollout]) -> tuple[list[Rollout], float | None]:
        """One completion's rollouts by segmenter with their rewards computed afresh, and its total reward."""
        scored = {name: self.reward.score(rollout) for name, rollout in by_executor.items()}
        return list(scored.values()), self._total(scored)

    def prefetch(self, samples: Sequence[Sample], step: int) -> None:
        """Let the segmenters begin to encode the images of groups that `score` will be given next.

        Each gets those of the groups that it will score. It returns at once; images are loaded as they are
        encoded.
        """
        assigned = self.assign(len(samples), step)
        for name, executor in self.executors.items():
            own = [sample for sample, names in zip(samples, assigned, strict=True) if name in names]
            executor.prefetch(encoded_images(own))

    def take_prefetch_spans(self) -> dict[str, list[tuple[float, float]]]:
        """By segmenter, see `Executor.take_prefetch_spans`."""
        return {name: executor.take_prefetch_spans() for name, executor in self.executors.items()}

    def counters(self) -> ExecutorCounters:
        """Counters of all executors added up, since they were opened."""
        total = ExecutorCounters()
        for executor in self.executors.values():
            total.add(executor.counters)
        return total

    def assign(self, groups: int, step: int) -> list[tuple[str, ...]]:
        """The names of the executors that score each of a step's groups."""
        names = tuple(self.executors)
        if self.aggregate != "draw" or len(names) == 1:
            return [names] * groups
        rng = np.random.default_rng([self.seed, step, groups])
        return [(names[int(rng.integers(len(names)))],) for _ in range(groups)]

    def _total(self, by_executor: Mapping[str, Rollout]) -> float | None:
        totals = [rollout.rewards["total"] for rollout in by_executor.values()]
        known = [total for total in totals if total is not None]
        # A completion is only comparable with its group if every segmenter scored it.
        if len(known) < len(totals):
            return None
        return min(known) if self.aggregate == "min" else sum(known) / len(known)
