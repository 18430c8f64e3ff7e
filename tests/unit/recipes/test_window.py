"""One window of rollouts: what is asked, what is kept, and that a resumed run asks the same."""

from __future__ import annotations

import json

import pytest

from envs.executors.families.box import BoxSegmenter
from envs.executors.serving.local import LocalExecutor
from envs.sample import first_samples
from prompter.sampling.base import SamplingSettings
from recipes.config import GroupConfig
from recipes.training.phases import PhaseTimes
from recipes.training.scoring import RolloutScorer
from recipes.training.window import Window, WindowCollector
from rewards.registry import build_reward
from tests.fixtures.toy_task import ScriptedSampler, Squares, answer_with_iou, query_of, toy_policy

GROUP_SIZE = 4


def varied(query: str, number: int, seed: int | None) -> str:
    """Spread in each group whose question is even, none where it is odd; no target: all right."""
    index = int(query.split()[1])
    if index % 5 == 4:
        return "[]"
    return answer_with_iou(index, (1 + number if index % 2 == 0 else 8) / 16)


def make_loop(
    zero_spread: str = "drop", *, samples: int = 40, limit: int | None = None, seed: int = 0, **group: int
) -> tuple[WindowCollector, ScriptedSampler, Squares]:
    policy, sampler, source = toy_policy(), ScriptedSampler(varied), Squares(samples)
    executors = {"box": LocalExecutor(BoxSegmenter(), name="box")}
    scorer = RolloutScorer(policy, executors, build_reward({"mask_iou": 1.0}), seed=seed)
    config = GroupConfig.model_validate({"zero_spread": zero_spread, **group})
    settings = SamplingSettings(max_new_tokens=64, n=GROUP_SIZE)
    loop = WindowCollector(
        policy, sampler, scorer, first_samples(source, limit), config, settings, seed, PhaseTimes()
    )
    return loop, sampler, source


def asked(sampler: ScriptedSampler) -> list[list[int]]:
    return [[int(query_of(one).split()[1]) for one in requests] for requests, _ in sampler.asked]


def test_a_window_asks_its_questions_in_order_and_loads_each_image_once() -> None:
    loop, sampler, source = make_loop("keep")
    window = loop.collect([6, 1, 7, 0], step=1)
    assert asked(sampler) == [[6, 1, 7, 0]]
    requests, settings = sampler.asked[0]
    assert [request.image_key for request in requests] == [f"squares/train/{n}" for n in (3, 0, 3, 0)]
    assert requests[0].image is requests[2].image, "one image object a picture, so that it is shipped once"
    assert (settings.n, settings.max_new_tokens, settings.temperature) == (GROUP_SIZE, 64, 1.0)
    assert [group.index for group in window.groups] == [6, 1, 7, 0]
    assert window.groups == window.all_groups
    assert window.groups[0].rewards == [1 / 16, 2 / 16, 3 / 16, 4 / 16]
    assert source.loads == {3: 2, 0: 2}, "once to ask, once to segment"
    assert sorted(window.samples) == [0, 1, 6, 7]


def test_the_record_holds_every_rollout_and_its_counts() -> None:
    loop, _, _ = make_loop("drop")
    window = loop.collect([6, 1, 4, 8], step=5)
    assert len(window.rollouts) == 4 * GROUP_SIZE and {one["step"] for one in window.rollouts} == {5}
    json.dumps(window.rollouts)
    metrics = window.metrics
    assert (metrics["groups"], metrics["completions"], metrics["groups_trained_on"]) == (4, 16, 2)
    assert (metrics["executor"]["decodes"], metrics["executor"]["encodes"]) == (16, 3)
    again = loop.collect([6], step=6).metrics
    assert (again["executor"]["decodes"], again["executor"]["encodes"]) == (4, 0), "counted by window"
    assert again["executor"]["cache_hits_memory"] == 1
    assert set(loop.times.take()) == {"load", "sample", "segment"}


def test_groups_without_spread_are_dropped() -> None:
    loop, _, _ = make_loop("drop")
    window = loop.collect([1, 6, 4, 8, 3], step=1)
    assert [group.index for group in window.groups] == [6, 8]
    assert [group.index for group in window.all_groups] == [1, 6, 4, 8, 3]


def test_a_window_without_any_spread_keeps_nothing() -> None:
    assert make_loop("drop")[0].collect([1, 3, 4], step=1).groups == []


def test_resampling_replaces_them_and_never_gives_more_than_was_asked_for() -> None:
    loop, sampler, _ = make_loop("resample", max_resamples=20)
    window = loop.collect([1, 6, 3, 8], step=1)
    assert len(window.groups) == 4
    assert [group.index for group in window.groups[:2]] == [6, 8]
    assert all(group.has_spread for group in window.groups)
    rounds = asked(sampler)
    assert rounds[0] == [1, 6, 3, 8] and len(rounds[1]) == 2, "only what is missing is asked again"
    assert len(window.all_groups) == sum(map(len, rounds)) == window.metrics["groups"]
    seeds = [settings.seed for _, settings in sampler.asked]
    assert len(set(seeds)) == len(seeds), "each round samples anew"


def test_resampling_gives_up() -> None:
    loop, sampler, _ = make_loop("resample", samples=4, max_resamples=2)
    window = loop.collect([1, 3], step=1)
    assert len(sampler.asked) <= 3 and len(window.groups) <= 2
    none, sampler, _ = make_loop("resample", max_resamples=0)
    assert none.collect([1, 3], step=1).groups == [] and len(sampler.asked) == 1


def test_resampling_draws_from_the_training_samples_only() -> None:
    loop, sampler, _ = make_loop("resample", limit=10, max_resamples=8)
    for step in range(1, 6):
        loop.collect([1, 3, 5], step)
    drawn = {index for indices in asked(sampler) for index in indices}
    assert len(drawn) > 5 and max(drawn) < 10


@pytest.mark.parametrize("zero_spread", ["drop", "resample", "keep"])
def test_a_window_follows_from_seed_step_and_questions(zero_spread: str) -> None:
    def answer(query: str, number: int, seed: int | None) -> str:
        assert seed is not None
        return answer_with_iou(6, (1 + (seed + number) % 16) / 16) if seed % 3 else "[]"

    def collect(loop: WindowCollector, step: int) -> Window:
        window = loop.collect([6, 6 + step], step)
        for name in ("executor",):  # a cache that is warm has other counts
            window.metrics.pop(name)
        return window

    def fresh(seed: int) -> WindowCollector:
        loop, sampler, _ = make_loop(zero_spread, seed=seed)
        sampler.script = answer
        return loop

    unbroken, resumed = fresh(0), fresh(0)
    windows = [collect(unbroken, step) for step in (1, 2, 3)]
    again = collect(resumed, 3)
    assert again.rollouts == windows[2].rollouts
    assert again.metrics == windows[2].metrics
    assert [group.index for group in again.groups] == [group.index for group in windows[2].groups]
    assert collect(fresh(1), 3).rollouts != again.rollouts
    assert windows[0].rollouts[:GROUP_SIZE] != windows[1].rollouts[:GROUP_SIZE], "each step samples anew"


def test_images_are_encoded_while_the_window_is_sampled_and_nothing_else_changes() -> None:
    plain, ahead = make_loop("drop")[0], make_loop("drop")[0]
    ahead.prefetch = True
    expected, found = plain.collect([6, 1, 7, 0], 1), ahead.collect([6, 1, 7, 0], 1)
    assert found.rollouts == expected.rollouts
    assert [group.index for group in found.groups] == [group.index for group in expected.groups]
    clocks = ("encode_seconds", "decode_seconds")
    for name, value in expected.metrics["executor"].items():
        assert name in clocks or found.metrics["executor"][name] == value
    events = {event.phase: event for event in ahead.times.take_events()}
    assert events["encode"].who == "segmenter box" and events["encode"].step == 1
    assert "encode" not in plain.times.take()


class PartsSampler(ScriptedSampler):
    """Hands groups on two by two, the last first, as a pool may whose engines are not equally fast."""

    def sample_in_parts(self, requests, settings, *, logprobs=False):  # type: ignore[no-untyped-def]
        """See `Sampler.sample_in_parts`."""
        groups = list(enumerate(self.sample(requests, settings, logprobs=logprobs)))[::-1]
        for start in range(0, len(groups), 2):
            yield groups[start : start + 2]

    def counters(self) -> dict[str, int]:
        """See `Sampler.counters`."""
        return {"engine_restarts": 7 * len(self.asked)}


def test_groups_that_are_scored_as_they_finish_make_the_very_same_window() -> None:
    """Segmenters drawn per group, prompts drawn again: all that hangs on a group's place."""
    windows = []
    for kind in (ScriptedSampler, PartsSampler):
        loop, _, _ = make_loop("resample", max_resamples=4)
        loop.sampler = kind(varied)
        scorer = loop.scorer
        executors = {name: LocalExecutor(BoxSegmenter(), name=name) for name in ("one", "two", "three")}
        loop.scorer = RolloutScorer(scorer.policy, executors, scorer.reward, aggregate="draw", seed=1)
        windows.append(loop.collect([6, 1, 4, 8, 2], step=5))
    whole, parts = windows
    assert len(whole.all_groups) > 5 and {one["executor"] for one in whole.rollouts} == set(executors)
    assert parts.rollouts == whole.rollouts
    assert [group.index for group in parts.groups] == [group.index for group in whole.groups]
    assert [group.rewards for group in parts.groups] == [group.rewards for group in whole.groups]
    assert "sampler" not in whole.metrics
    assert parts.metrics["sampler"] == {"engine_restarts": 7 * len(loop.sampler.asked), "share_seconds": []}
    work = {"encode_seconds", "decode_seconds", "cache_hits_memory"}  # an image is looked up once per part
    for metrics in (whole.metrics, parts.metrics):
        metrics.pop("sampler", None)
        metrics["executor"] = {k: v for k, v in metrics["executor"].items() if k not in work}
    assert parts.metrics == whole.metrics
