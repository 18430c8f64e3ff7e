"""From completions to rewards: parse, segment with one or several executors, score, keep counts."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.executors.cached import ExecutorCounters
from envs.rollout import Rollout
from envs.sample import Sample
from envs.segmentation import image_key, make_rollouts
from prompter.policy import Policy
from prompter.sampling.base import Completion
from prompter.types import FailureKind, ParseFailure, PromptSet
from recipes.config import GroupConfig
from rewards.mask import mask_iou
from rewards.registry import WeightedReward


@dataclass
class ScoredGroup:
    """One prompt's group.

    Args:
        index: the sample's position in the training set.
        completions: the group's completions.
        rewards: one total per completion; None where the executor failed.
        rollouts: all rollouts, one per completion and executor, for the record.
    """

    index: int
    completions: Sequence[Completion]
    rewards: list[float | None]
    rollouts: list[Rollout] = field(repr=False)

    @property
    def has_spread(self) -> bool:
        """Whether two scored completions differ, so that the group can teach something."""
        known = [reward for reward in self.rewards if reward is not None]
        return len(known) > 1 and max(known) - min(known) > 1e-6


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
        executors: Mapping[str, Any],
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
    ) -> list[ScoredGroup]:
        """Score groups side by side; all completions of a call are decoded together.

        Args:
            indices, samples, groups: one entry per group.
            step: optimiser step the rollouts are recorded under.
        """
        assigned = self._assign(len(groups), step)
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
            completions = [groups[number][position] for number, position in rows]
            chosen = [samples[number] for number, _ in rows]
            rollouts = make_rollouts(
                chosen,
                [completion.text for completion in completions],
                [
                    self.policy.parse(completion.text, sample.image_size, completion.finish_reason)
                    for completion, sample in zip(completions, chosen, strict=True)
                ],
                executor,
                step=step,
                executor=name,
                completion_tokens=[len(completion.token_ids) for completion in completions],
                keep_instances=self.reward.needs_instances,
            )
            for (number, position), rollout in zip(rows, rollouts, strict=True):
                scored[number][position][name] = self.reward.score(rollout)
        return [
            ScoredGroup(
                indices[number],
                groups[number],
                [self._total(by_executor) for by_executor in scored[number]],
                [rollout for by_executor in scored[number] for rollout in by_executor.values()],
            )
            for number in range(len(groups))
        ]

    def counters(self) -> ExecutorCounters:
        """Counters of all executors added up, since they were opened."""
        total = ExecutorCounters()
        for executor in self.executors.values():
            total.add(executor.counters)
        return total

    def _assign(self, groups: int, step: int) -> list[tuple[str, ...]]:
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


def describe_groups(groups: Sequence[ScoredGroup], samples: Mapping[int, Sample]) -> dict[str, Any]:
    """Summarise groups for the log: rewards, gIoU, failures by kind, and how answers were given.

    Args:
        groups: all groups of a step, used for the loss or not.
        samples: training-set index -> sample.
    """
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    completions = sum(len(group.completions) for group in groups)
    failures = Counter(
        rollout.answer.kind for rollout in rollouts if isinstance(rollout.answer, ParseFailure)
    )
    answers = [rollout.answer for rollout in rollouts if isinstance(rollout.answer, PromptSet)]
    instances = [instance for answer in answers for instance in answer.instances]
    ious = [iou for rollout in rollouts if (iou := mask_iou(rollout)) is not None]
    return {
        "reward": _mean(rewards),
        "reward_std": _mean(
            [
                float(np.std([reward for reward in group.rewards if reward is not None]))
                for group in groups
                if any(reward is not None for reward in group.rewards)
            ]
        ),
        "giou": _mean(ious),
        "groups": len(groups),
        "frac_reward_zero_std": _mean([float(not group.has_spread) for group in groups]),
        "completions": completions,
        "rollouts": len(rollouts),
        "images": len({image_key(samples[group.index]) for group in groups}),
        "parse_failures": sum(failures.values()),
        "parse_failure_rate": sum(failures.values()) / max(1, len(rollouts)),
        "parse_failure_kinds": {str(kind): failures[kind] for kind in FailureKind if failures[kind]},
        "executor_failures": sum(rollout.executor_error is not None for rollout in rollouts),
        "unscored_completions": sum(reward is None for group in groups for reward in group.rewards),
        "empty_answers": _mean([float(answer.is_empty) for answer in answers]),
        "instances_per_answer": _mean([float(len(answer)) for answer in answers]),
        "share_with_box": _mean([float(instance.box is not None) for instance in instances]),
        "share_with_points": _mean([float(bool(instance.positive_points)) for instance in instances]),
        "completion_tokens": _mean(
            [float(len(completion.token_ids)) for group in groups for completion in group.completions]
        ),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


class PhaseTimes:
    """Adds up wall seconds by phase.

    Use `with times("sample"): …`; `take` returns the sums and starts afresh.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[tuple[str, float]] = []

    def __call__(self, phase: str) -> PhaseTimes:
        self._open.append((phase, time.perf_counter()))
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        phase, started = self._open.pop()
        self._seconds[phase] += time.perf_counter() - started

    def add(self, phase: str, seconds: float) -> None:
        """Add seconds measured elsewhere."""
        self._seconds[phase] += seconds

    def take(self) -> dict[str, float]:
        """Return phase -> seconds since the last call."""
        taken = {phase: round(seconds, 4) for phase, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken
