"""One window of rollouts: sample groups, score them, keep those that teach something."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.rollouts import make_requests
from envs.sample import Sample, SampleSource
from prompter.policy import Policy
from prompter.sampling.base import Sampler, SamplingSettings
from recipes.config import GroupConfig, TrainConfig
from recipes.training.advantages import shape_rewards
from recipes.training.imitation import describe_imitated, weighed
from recipes.training.memory import AnswerMemory
from recipes.training.metrics import describe_groups
from recipes.training.phases import PhaseTimes
from recipes.training.scoring import RolloutScorer, ScoredGroup
from recipes.training.selection import selected


@dataclass
class Window:
    """What one window of rollouts gave.

    Args:
        groups: the groups to train on, each of the completions that are kept of it.
        all_groups: all groups that were sampled, likewise.
        samples: training-set index -> sample, of all groups that were sampled.
        metrics: for the log; see `describe_groups`.
        rollouts: every rollout of the window as JSON-ready dicts, those not trained on included.
        sampler_version: of the policy that was sampled.
    """

    groups: list[ScoredGroup]
    all_groups: list[ScoredGroup]
    samples: dict[int, Sample]
    metrics: dict[str, Any]
    rollouts: list[dict[str, Any]] = field(repr=False)
    sampler_version: int = 0


class WindowCollector:
    """Collects windows of scored groups.

    Everything is determined by (seed, step, training-set indices): a run resumed at a step samples
    what an unbroken run would have.

    Args:
        policy: asks and reads.
        sampler: draws completions; one prompt's group in one request with n = group size.
        scorer: parses, segments, scores.
        source: the training set; further prompts are drawn from it, too.
        group: what to do with groups whose rewards are all alike.
        settings: how to sample; `n` is the group size.
        seed: of sampling and of drawing further prompts.
        times: where phases are timed.
        prefetch: whether segmenters encode a window's images while it is sampled.
    """

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        scorer: RolloutScorer,
        source: SampleSource,
        group: GroupConfig,
        settings: SamplingSettings,
        seed: int,
        times: PhaseTimes,
        prefetch: bool = False,
    ) -> None:
        self.policy, self.sampler, self.scorer, self.source = policy, sampler, scorer, source
        self.group, self.settings, self.seed, self.times = group, settings, seed, times
        self.prefetch = prefetch
        self.memory = AnswerMemory(group, scorer)

    def collect(self, indices: Sequence[int], step: int) -> Window:
        """Sample and score one group per index; drop or replace those without spread.

        Args:
            indices: positions in the training set.
            step: optimiser step this window is for.
        """
        counters, before = self.scorer.counters().copy(), self.sampler.counters()
        self.sampler.take_share_seconds()  # those of an evaluation are not this window's
        samples: dict[int, Sample] = {}
        everything: list[ScoredGroup] = []
        trainable: list[ScoredGroup] = []
        kept: list[ScoredGroup] = []
        recalled: list[float] = []
        rounds = 1 + (self.group.max_resamples if self.group.zero_spread == "resample" else 0)
        asked = list(indices)
        for attempt in range(rounds):
            groups = self._sample_and_score(asked, samples, step, attempt)
            everything += groups
            joined, earned = self.memory.join(groups, samples)
            recalled += earned
            trained = [self._select(group) for group in shape_rewards(joined, self.group.shape)]
            trainable += trained
            kept += [group for group in trained if group.teaches]
            missing = len(indices) - len(kept)
            if missing <= 0 or attempt + 1 == rounds:
                break
            rng = np.random.default_rng([self.seed, step, attempt])
            asked = [int(index) for index in rng.choice(len(self.source), size=missing, replace=False)]
        if self.group.zero_spread == "keep":
            kept = trainable
        metrics = describe_groups(everything, samples)
        metrics["groups_trained_on"] = len(kept)
        if self.group.memory != "none":
            metrics["recalled"] = len(recalled)
            metrics["recalled_reward"] = sum(recalled) / len(recalled) if recalled else None
        if self.group.objective == "best-of-n":
            metrics |= describe_imitated(kept[: len(indices)])
        used = self.scorer.counters().since(counters)
        metrics["executor"] = {name: round(value, 4) for name, value in used.to_dict().items()}
        mended = self.sampler.counters()
        if mended:
            metrics["sampler"] = {name: value - before[name] for name, value in mended.items()}
            metrics["sampler"]["share_seconds"] = [
                round(value, 4) for value in self.sampler.take_share_seconds()
            ]
        return Window(
            kept[: len(indices)],
            trainable,
            samples,
            metrics,
            [rollout.to_json() for group in everything for rollout in group.rollouts],
            self.sampler.version,
        )

    def _select(self, group: ScoredGroup) -> ScoredGroup:
        """The completions of a group that are trained on, as a group; the group itself if all are."""
        keep = self.group.keep or len(group.completions)
        chosen = group
        if keep < len(group.completions):
            chosen = group.only(selected(self.group.select, group.rewards, keep))
        if self.group.objective == "best-of-n":
            return weighed(chosen, group, self.group.floor)
        return chosen

    def _sample_and_score(
        self, indices: Sequence[int], samples: dict[int, Sample], step: int, attempt: int
    ) -> list[ScoredGroup]:
        with self.times("load", step):
            for index in indices:
                samples.setdefault(index, self.source[index])
            chosen = [samples[index] for index in indices]
            requests = make_requests(self.policy, chosen)
        if self.prefetch:
            self.scorer.prefetch(chosen, step)
        with self.times("sample", step):
            seed = int(np.random.default_rng([self.seed, step, attempt, 1]).integers(2**31))
            settings = SamplingSettings(**{**self.settings.__dict__, "seed": seed})
            parts = self.sampler.sample_in_parts(requests, settings, logprobs=True)
        # A part is scored while the engines sample the others; the result is the same in any order.
        scored: dict[int, ScoredGroup] = {}
        with closing(parts):
            while len(scored) < len(chosen):
                with self.times("sample", step):
                    part = sorted(next(parts), key=lambda group: group[0])
                places = [place for place, _ in part]
                with self.times("segment", step):
                    options = {}
                    if len(part) < len(chosen):  # which segmenter scores a group hangs on all of them
                        assigned = self.scorer.assign(len(chosen), step)
                        options["assigned"] = [assigned[place] for place in places]
                    groups = self.scorer.score(
                        [indices[place] for place in places],
                        [chosen[place] for place in places],
                        [group for _, group in part],
                        step,
                        **options,
                    )
                scored.update(zip(places, groups, strict=True))
        if self.prefetch:
            for name, spans in self.scorer.take_prefetch_spans().items():
                for started, ended in spans:
                    self.times.record("encode", started, ended, step, who=f"segmenter {name}")
        return [scored[place] for place in range(len(chosen))]


def sampling_settings(config: TrainConfig, arguments: Any) -> SamplingSettings:
    """How to sample: a group for each prompt, of which TRL's `GRPOConfig` may count fewer completions."""
    return SamplingSettings(
        max_new_tokens=arguments.max_completion_length,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        n=config.trainer["num_generations"],
    )


def fill_window(window: Window, wanted: int, group_size: int, parts: int) -> list[ScoredGroup]:
    """The groups of a window that are handed to TRL: their rows divide into its parts, and are not none.

    TRL splits a window into `steps_per_generation` parts and silently loses a remainder, so groups
    without spread fill up, and what is then too many is left out.

    Args:
        window: what was collected.
        wanted: groups that TRL asked for.
        group_size: rows of a group.
        parts: TRL's `steps_per_generation`.
    """
    groups = list(window.groups)
    spare = [group for group in window.all_groups if not any(group is one for one in groups)]
    while (not groups or len(groups) * group_size % parts) and spare and len(groups) < wanted:
        groups.append(spare.pop(0))
    while len(groups) * group_size % parts:
        groups.pop()
    return groups
