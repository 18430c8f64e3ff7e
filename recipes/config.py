"""The training config: every section, its keys and their defaults.

What takes precedence, weakest first: the defaults below; the YAML file; `--dotted.key value` flags.
Unknown keys are refused. `trainer:` holds TRL's own `GRPOConfig` names, unchanged, on top of
`TRAINER_DEFAULTS`; they are checked when training starts, because the check has to import TRL.
Paths are relative to the folder the command is started in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_serializer, field_validator

from envs.executors.config import ExecutorConfig
from prompter.errors import UserError, did_you_mean
from prompter.policy import PolicySettings
from prompter.runs.config import StrictModel, load_config_model
from prompter.runs.values import dump_yaml
from prompter.sampling.config import SamplerConfig

TRAINER_DEFAULTS: Mapping[str, Any] = {
    "beta": 0.0,  # no KL term, hence no reference model (DAPO, Dr. GRPO)
    "epsilon": 0.2,
    "epsilon_high": 0.28,  # clip-higher (DAPO)
    "loss_type": "dapo",
    "scale_rewards": "none",  # a spread of 0.01 within a group must not be blown up to 1 (Dr. GRPO)
    "num_generations": 8,
    "temperature": 1.0,
    "top_p": 1.0,  # with top_k 0: anything else biases the importance ratio
    "top_k": 0,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "token_truncate",  # milder than dropping whole sequences
    "vllm_importance_sampling_clip_max": 2.0,
    "log_multimodal": False,  # True gathers every image of a generation on all ranks
    "report_to": "none",
}
"""Where this project departs from TRL's defaults, on published evidence or for cost; see `trainer:`."""

_SET_ELSEWHERE = {
    "output_dir": "run_dir",
    "seed": "seed",
    "data_seed": "seed",
    "use_vllm": "sampler.backend",
    "vllm_mode": "sampler.backend",
    "vllm_max_model_length": "sampler.max_model_len",
    "vllm_gpu_memory_utilization": "sampler.gpu_memory_utilization",
    "vllm_tensor_parallel_size": "sampler.tensor_parallel_size",
    "reward_weights": "rewards",
    "resume_from_checkpoint": "the flag --resume",
}


class LoraConfig(StrictModel):
    """Low-rank adapters (PEFT); what is trained, and what travels to the samplers each step.

    Args:
        r: rank.
        alpha: scale; the update is multiplied by alpha / r.
        dropout: on the adapters' input. Not 0 means that sampler and trainer disagree.
        target_modules: PEFT's: a regular expression over module names, or a list of their ends; None
            takes the language model's attention and MLP projections.
    """

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] | None = None


class PolicyConfig(StrictModel):
    """The vision-language model that is trained.

    Args:
        model: hub id (`Qwen/Qwen2.5-VL-3B-Instruct`) or local folder.
        dtype: of the trained copy; `auto` is what the checkpoint was saved in.
        lora: adapters; null trains all weights, which no vLLM sampler on a CPU can follow.
        settings: how it is asked (`prompter.policy.PolicySettings`); what is left out stays as the
            checkpoint was trained.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        name: f"settings.{name}"
        for name in ("action_space", "image", "instructions", "think", "question", "max_new_tokens")
    }

    model: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    lora: LoraConfig | None = LoraConfig()
    settings: PolicySettings = PolicySettings()

    @field_serializer("settings")
    def _given_settings(self, settings: PolicySettings) -> dict[str, Any]:
        """Only what was given, so that a config that is read back leaves the rest to the checkpoint, too."""
        return settings.model_dump(mode="json", exclude_unset=True)

    def setting_overrides(self) -> dict[str, Any]:
        """The settings that are given, for `prompter.checkpoint.load_policy(…, overrides=…)`."""
        return self._given_settings(self.settings)


class DatasetConfig(StrictModel):
    """The training set.

    Args:
        name: one of `prompter data ls`.
        split: one of the set's splits.
        samples: the first so many of it; null is all.
        options: the set's own options.
    """

    name: str
    split: str = "train"
    samples: int | None = Field(default=None, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)


class EvalConfig(StrictModel):
    """Greedy evaluation before and after training, on samples that training never sees.

    Args:
        dataset: name of the set; null is the training set's.
        split: held-out split.
        samples: the first so many of it; null is all.
        options: the set's own options; null is the training set's.
        references: baselines (`eval.answerers.baselines`, such as `baseline:oracle-box`) evaluated on the
            same samples, to set the policy between a floor and a ceiling.
        every_steps: evaluate during training too, every so many optimiser steps; 0 does not.
    """

    dataset: str | None = None
    split: str = "val"
    samples: int | None = Field(default=200, ge=1)
    options: dict[str, Any] | None = None
    references: list[str] = Field(default_factory=list)
    every_steps: int = Field(default=0, ge=0)


class RayConfig(StrictModel):
    """Ray itself: `address` joins a cluster, null starts one here with `num_cpus` (null: all) to reserve."""

    address: str | None = None
    num_cpus: int | None = Field(default=None, ge=1)


class GroupConfig(StrictModel):
    """What is done with a prompt's group of completions before the loss.

    Args:
        zero_spread: a group whose rewards are all alike teaches nothing. `drop` takes it out of the
            loss's denominator, `resample` draws other prompts in its place, `keep` leaves it as TRL does.
        max_resamples: rounds of drawing other prompts in one step.
        executors: with several segmenters, what a completion's reward is: the `mean` or `min` over them,
            or one segmenter per group, drawn at random (`draw`).
    """

    zero_spread: Literal["drop", "resample", "keep"] = "drop"
    max_resamples: int = Field(default=2, ge=0)
    executors: Literal["mean", "min", "draw"] = "mean"


class TrainConfig(StrictModel):
    """Everything `prompter train` needs; written resolved to `run_dir`/config.yaml, which re-runs it.

    Args:
        run_dir: folder of this run; must be new or empty.
        rewards: name -> weight, see `rewards.registry`.
        executor: one segmenter, or a list of them.
        trainer: TRL's `GRPOConfig` fields by their own names.
        seed: of data order, sampling and initial adapters.
    """

    run_dir: str
    seed: int = Field(default=0, ge=0)
    policy: PolicyConfig
    dataset: DatasetConfig
    eval: EvalConfig = EvalConfig()
    executor: ExecutorConfig | list[ExecutorConfig] = ExecutorConfig()
    sampler: SamplerConfig = SamplerConfig()
    ray: RayConfig = RayConfig()
    rewards: dict[str, float] = Field(default_factory=lambda: {"mask_iou": 1.0}, min_length=1)
    group: GroupConfig = GroupConfig()
    trainer: dict[str, Any] = Field(default_factory=dict)

    @field_validator("trainer")
    @classmethod
    def _complete_trainer(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key in _SET_ELSEWHERE:
                raise ValueError(f"{key!r} is set elsewhere in this project: use {_SET_ELSEWHERE[key]}")
        return {**TRAINER_DEFAULTS, **value}


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training config.

    Args:
        path: YAML file.
        overrides: "dotted.key=value" texts, as `recipes.cli.split_overrides` makes them.

    Raises:
        UserError: if the file cannot be read, a key is unknown, or a value is not what its key takes.
    """
    return load_config_model(TrainConfig, path, overrides)


def dump_config(config: TrainConfig) -> str:
    """Write a config with every key as YAML text; `load_config` of it gives an equal config."""
    return dump_yaml(config.model_dump(mode="json"))


def check_trainer_keys(config: TrainConfig) -> None:
    """Refuse keys under `trainer:` that TRL's `GRPOConfig` does not have. Imports TRL, and so torch.

    Raises:
        UserError: naming the first unknown key, with the nearest known one.
    """
    from dataclasses import fields

    from trl import GRPOConfig

    known = {field.name for field in fields(GRPOConfig) if field.init}
    for key in config.trainer:
        if key not in known:
            raise UserError(f"GRPOConfig of TRL has no {key!r}, given as trainer.{key}.{_near(key, known)}")


def _near(key: str, known: set[str]) -> str:
    """A suggestion, but not the list of all 190 names when nothing is near."""
    hint = did_you_mean(key, known)
    return hint if hint.startswith(" Did") else ""
