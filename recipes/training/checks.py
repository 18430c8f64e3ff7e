"""What a training config asks for, checked before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.executors.config import ExecutorConfig
from prompter.errors import UserError
from recipes.config import TrainConfig


def executor_configs(config: TrainConfig) -> list[ExecutorConfig]:
    """The segmenters a config names, one or several, as a list."""
    return config.executor if isinstance(config.executor, list) else [config.executor]


def grpo_arguments(config: TrainConfig, max_completion_length: int) -> Any:
    """TRL's `GRPOConfig` from the config's `trainer:` section, with what is set elsewhere put in.

    Raises:
        UserError: if TRL refuses a value.
    """
    from trl import GRPOConfig

    given = dict(config.trainer)
    given.setdefault("max_completion_length", max_completion_length)
    given.setdefault("logging_steps", 1)
    # One adapter file a checkpoint; the full state is needed to resume, so never `save_only_model`.
    output = str(Path(config.run_dir) / "checkpoints")
    try:
        return GRPOConfig(output_dir=output, seed=config.seed, disable_tqdm=True, **given)
    except (ValueError, TypeError) as error:
        raise UserError(f"TRL refuses the section trainer: {' '.join(str(error).split())}") from None


def window_steps(arguments: Any) -> int:
    """Optimiser steps of one window of rollouts, at least 1, by TRL's `GRPOConfig`."""
    updates = arguments.steps_per_generation * arguments.num_iterations
    return max(1, int(updates) // int(arguments.gradient_accumulation_steps))


def check_sizes(config: TrainConfig, arguments: Any, samples: int) -> None:
    """Refuse what TRL would accept and then do something else with.

    Args:
        config: the run.
        arguments: TRL's `GRPOConfig` made from it.
        samples: size of the training set.

    Raises:
        UserError: saying which key to change.
    """
    names = [one.name for one in executor_configs(config)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"executor {name!r} is named twice: rewards are told apart by executor name")
    if config.policy.lora is None and config.sampler.backend != "hf":
        raise UserError(
            f"policy.lora is null, but sampler.backend {config.sampler.backend!r} follows the trainer by "
            "adapters: give policy.lora, or take sampler.backend hf"
        )
    if arguments.max_steps <= 0:
        raise UserError("trainer.max_steps must be given: a run's length is counted in optimiser steps")
    prompts = arguments.generation_batch_size // arguments.num_generations
    if samples < prompts:
        raise UserError(
            f"dataset {config.dataset.name} gives {samples} samples, but a step asks {prompts} prompts: "
            "lower trainer.per_device_train_batch_size"
        )
    window = window_steps(arguments)
    if arguments.save_steps % window:
        raise UserError(
            f"trainer.save_steps must be a multiple of {window}, the optimiser steps of one window of "
            f"rollouts, but is {arguments.save_steps}: a run resumed inside a window would train on "
            "other rollouts"
        )
