"""TRL's GRPOConfig takes what the configs put under `trainer:`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prompter.errors import UserError
from recipes.config import TRAINER_DEFAULTS, TrainConfig, check_trainer_keys, load_config
from recipes.shipped import shipped_recipes

CONFIGS = sorted(shipped_recipes().values())


def config_with(trainer: dict[str, object]) -> TrainConfig:
    return TrainConfig.model_validate(
        {"run_dir": "x", "policy": {"model": "m"}, "dataset": {"name": "n"}, "trainer": trainer}
    )


def test_the_documented_defaults_are_fields_of_grpo_config() -> None:
    check_trainer_keys(config_with({}))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_grpo_config_takes_each_shipped_config(path: Path, tmp_path: Path) -> None:
    from trl import GRPOConfig

    config = load_config(path, ["trainer.use_cpu=true", "trainer.bf16=false"])
    check_trainer_keys(config)
    made = GRPOConfig(output_dir=str(tmp_path), **config.trainer)
    given = yaml.safe_load(path.read_text(encoding="utf-8"))["trainer"]
    for key in TRAINER_DEFAULTS.keys() - {"report_to"}:  # TRL makes a list of that
        usual = TRAINER_DEFAULTS[key]
        assert getattr(made, key) == given.get(key, usual), key


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError) as caught:
        check_trainer_keys(config_with({"learning_rat": 1}))
    assert str(caught.value) == (
        "GRPOConfig of TRL has no 'learning_rat', given as trainer.learning_rat. "
        "Did you mean 'learning_rate'?"
    )


def test_an_outlandish_key_is_refused_without_a_list_of_all() -> None:
    with pytest.raises(UserError) as caught:
        check_trainer_keys(config_with({"zzz": 1}))
    assert str(caught.value) == "GRPOConfig of TRL has no 'zzz', given as trainer.zzz."
