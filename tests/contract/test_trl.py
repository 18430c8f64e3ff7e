"""What `recipes.training.trl_trainer` uses of TRL without a promise is still there, under the same names."""

from __future__ import annotations

import inspect

import pytest

from recipes.training.trl_trainer import SegmentationGRPOTrainer

REMEDY = "TRL changed: see what replaced it in GRPOTrainer, adapt recipes/training/trl_trainer.py, pin it."


@pytest.mark.parametrize(
    "used",
    [
        "self.vllm_generation.sync_weights(",
        "self.vllm_generation.generate(",
        "self._last_loaded_step",
        "if self.use_vllm",
        "self._metrics[mode]",
        "**self.chat_template_kwargs",
        '"sampling/sampling_logp_difference/mean"',
        '"sampling_per_token_logps"',
        '"num_items_in_batch"',
        "self.shuffle_dataset",
    ],
)
def test_trl_still_uses_what_the_seam_plugs_into(used: str) -> None:
    from trl import GRPOTrainer

    assert used in inspect.getsource(GRPOTrainer), REMEDY


def test_trl_still_has_the_methods_that_are_overridden_or_called() -> None:
    from transformers import Trainer
    from trl import GRPOTrainer
    from trl.trainer.utils import RepeatSampler

    for name in (
        "_generate_and_score_completions",
        "_get_per_token_logps_and_entropies",
        "_calculate_rewards",
        "log",
    ):
        assert name in vars(GRPOTrainer), f"GRPOTrainer.{name} is gone. {REMEDY}"
        assert name in vars(SegmentationGRPOTrainer)
    assert list(inspect.signature(GRPOTrainer._generate_and_score_completions).parameters) == [
        "self",
        "inputs",
    ], REMEDY
    assert hasattr(Trainer, "_load_from_checkpoint"), REMEDY
    saves = list(inspect.signature(Trainer._save_optimizer_and_scheduler).parameters)
    assert saves == ["self", "output_dir"], REMEDY
    assert "self._save_rng_state(output_dir)" in inspect.getsource(Trainer._save_checkpoint), REMEDY
    given = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert given[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"], REMEDY
    sampler = RepeatSampler([1, 2], mini_repeat_count=1, seed=3)
    assert (sampler.seed, sampler.generator.initial_seed()) == (3, 3), REMEDY


def test_trls_head_still_asks_the_device_what_it_scores() -> None:
    from trl.trainer import utils

    assert "compact = _use_triton(" in inspect.getsource(utils.add_fused_lm_head), REMEDY
    assert inspect.getsource(utils).count("_use_triton(") == 1, REMEDY
