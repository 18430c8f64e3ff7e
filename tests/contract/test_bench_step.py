"""`prompter bench step` trains what it says: TRL's own trainer beside ours, on the same questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompter.checkpoint import Checkpoint
from recipes.benchmarks.step import StepBenchmark
from recipes.benchmarks.step_table import describe_environment, describe_step, step_text
from recipes.benchmarks.ways import Measured, ways
from recipes.config import TrainConfig
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import save_manifest

GROUP_SIZE, PROMPTS, STEPS = 4, 2, 1


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_formatted_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def config(policy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    manifest = save_manifest(tmp_path_factory.mktemp("set"), 16)
    return TrainConfig.model_validate(
        {
            "run_dir": "never-written",
            "policy": {"model": policy.source, "dtype": "float32", "lora": {"r": 4, "alpha": 8}},
            "dataset": {"name": "manifest", "options": {"path": str(manifest)}},
            "executor": {"family": "box"},
            "sampler": {"backend": "hf"},
            "trainer": {
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "per_device_train_batch_size": PROMPTS * GROUP_SIZE,
                "num_generations": GROUP_SIZE,
            },
        }
    )


def test_every_way_trains_on_the_same_questions_and_rewards_agree(config: TrainConfig) -> None:
    with StepBenchmark(config, steps=STEPS) as benchmark:
        measured: dict[str, Measured] = {one.way.title: one for one in benchmark.run(ways(config))}
        rows = [measured[way.title] for way in ways(config)]
        asked = [[group.index for step in one.groups for group in step] for one in rows]
        assert len(set(map(tuple, asked))) == 1 and len(asked[0]) == PROMPTS * STEPS
        for one in rows:
            assert one.completions == PROMPTS * GROUP_SIZE * STEPS
            assert len(one.seconds) == len(one.sample) == len(one.segment) == STEPS
            # The clock of a step holds those of its parts.
            assert all(
                whole > sample + segment > 0
                for whole, sample, segment in zip(one.seconds, one.sample, one.segment, strict=True)
            )
        texts = [[c.text for step in one.groups for group in step for c in group.completions] for one in rows]
        # The field's way is not warmed up on a CPU, so its random numbers are those of a step before.
        assert texts[1] == texts[2] != texts[0], "TRL samples alike, however answers are segmented"
        rewards = [[r for step in one.groups for group in step for r in group.rewards] for one in rows]
        assert rewards[1] == rewards[2]
        assert len(set(rewards[3])) > 1, "the comparison must be able to fail"
        groups = rows[-1].groups[-1]
        assert benchmark.same_rewards(groups) == 0.0
        groups[0].rewards[0] = 0.5 + (groups[0].rewards[0] or 0.0)
        assert benchmark.same_rewards(groups) == pytest.approx(0.5)
        result = describe_step(rows, benchmark.floor(groups))
        result["largest_reward_difference"], result["rewards_compared"] = 0.0, 8
        result["environment"] = describe_environment(benchmark)
    assert not Path("never-written").exists()
    titles = [row["title"] for row in result["ways"]]
    assert sum(row["share"] for row in result["ways"]) == pytest.approx(1.0) or (
        result["ways"][-1]["over_first"] <= 1
    )
    first, last = result["ways"][0], result["ways"][-1]
    assert last["over_first"] == pytest.approx(first["seconds"] / last["seconds"])
    assert 0 < result["floor"]["seconds"] < last["seconds"], "nothing is faster than the machine"
    text = step_text(result)
    assert all(title in text for title in titles) and "physical limit" in text


def test_rollouts_alone_are_timed_by_sampler_and_by_executor(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes.benchmarks import rollout

    monkeypatch.setattr(rollout, "SAMPLERS", ("hf",))
    monkeypatch.setattr(rollout, "EXECUTORS", ("local",))
    result = rollout.bench_rollout(config, rounds=2)
    assert (result["questions"], result["completions"]) == (2 * PROMPTS, 2 * PROMPTS * GROUP_SIZE)
    (sampler,), (executor,) = result["samplers"], result["executors"]
    assert sampler["backend"] == "hf" and sampler["settings"] == "batch_size 64"
    assert sampler["tokens_per_second"] > sampler["completions_per_second"] > 0
    assert executor["seconds"] > executor["encode_seconds"] + executor["decode_seconds"] > 0
    assert executor["instances"] > 0
    text = rollout.rollout_text(result)
    assert "hf" in text and "local" in text and "4 questions with 4 completions each" in text
