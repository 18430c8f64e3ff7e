"""What a config may not ask of several ranks, said before any work."""

from __future__ import annotations

from typing import Any

from prompter.errors import UserError
from recipes.config import TrainConfig
from recipes.training.ranks.world import Ranks, process_group_backend


def sharding(config: TrainConfig) -> str | None:
    """How `trainer:` divides the model among ranks: "fsdp", "deepspeed", or None for copies (DDP)."""
    return next((name for name in ("fsdp", "deepspeed") if config.trainer.get(name)), None)


def check_ranks(config: TrainConfig, count: int) -> None:
    """Refuse what several ranks would do silently wrong, or hang at. Imports no torch.

    Args:
        config: the run.
        count: how many ranks there will be.

    Raises:
        UserError: naming the key to change.
    """
    given, shard = config.trainer, sharding(config)
    if shard and given.get("use_cpu"):
        raise UserError(
            f"trainer.{shard} is given together with trainer.use_cpu: on CPUs accelerate keeps a copy on "
            f"every rank (DDP) and say nothing; leave out trainer.{shard}, or train on GPUs"
        )
    if shard and config.policy.quantise is not None:
        raise UserError(
            f"policy.quantise is given together with trainer.{shard}: how a quantised model is divided among "
            "ranks was not tried here; leave one of them out"
        )
    if given.get("fsdp"):
        _check_fsdp(given, count)
    if count == 1:
        return
    if config.sampler.backend == "vllm":
        raise UserError(
            "sampler.backend vllm keeps its engine in the trainer's process, which several ranks have joined "
            "to a group that vLLM would take for its own: take ray, or hf"
        )
    if given.get("loss_type") == "bnpo":
        raise UserError(
            f"trainer.loss_type bnpo divides by the tokens of each rank's rows, so that {count} ranks would "
            "train on another loss than one: take dapo, grpo or dr_grpo"
        )


def _check_fsdp(given: dict[str, Any], count: int) -> None:
    if count == 1:
        raise UserError("trainer.fsdp divides a model among ranks, but there is one: set ranks.count")
    options = given.get("fsdp_config") or {}
    if not isinstance(options, dict):
        raise UserError("trainer.fsdp_config must be a mapping in the config, not the path of another file")
    plain = {key.removeprefix("fsdp_"): value for key, value in options.items()}
    if given["fsdp"] is not True or str(plain.get("version", 2)) != "2":
        raise UserError(
            f"trainer.fsdp {given['fsdp']!r} with version {plain.get('version', 2)}: only FSDP2 is "
            "supported here; set trainer.fsdp to true and leave trainer.fsdp_config.version out"
        )
    if plain.get("state_dict_type", "FULL_STATE_DICT") != "FULL_STATE_DICT":
        raise UserError(
            f"trainer.fsdp_config.state_dict_type {plain['state_dict_type']!r} writes checkpoints without an "
            "adapter file: take FULL_STATE_DICT, the default"
        )
    if plain.get("activation_checkpointing") and given.get("gradient_checkpointing", True):
        raise UserError(
            "trainer.fsdp_config.activation_checkpointing and trainer.gradient_checkpointing (TRL's default) "
            "do the same twice: set the latter to false"
        )


def check_launch(config: TrainConfig) -> None:
    """Refuse ranks that Ray would start without what they need. Imports no torch.

    Raises:
        UserError: naming the key to change.
    """
    on_cpu = bool(config.trainer.get("use_cpu"))
    if on_cpu == bool(config.ranks.num_gpus):
        raise UserError(
            "trainer.use_cpu is set, but ranks.num_gpus reserves GPUs: leave one of them out"
            if on_cpu
            else f"{config.ranks.count} ranks need a GPU each, but ranks.num_gpus is 0: set 1, or train "
            "on CPUs with trainer.use_cpu true"
        )
    process_group_backend(config, gpu=not on_cpu)


def check_joined(config: TrainConfig, arguments: Any, ranks: Ranks) -> None:
    """Refuse a run whose trainer does not see the ranks that there are.

    Args:
        config: the run.
        arguments: TRL's `GRPOConfig`, which has found out where it runs.
        ranks: this run's.

    Raises:
        UserError: saying what to set.
    """
    check_ranks(config, ranks.count)
    if arguments.world_size != ranks.count:
        raise UserError(
            f"{ranks.count} ranks were launched, but the trainer sees {arguments.world_size}: ranks with no "
            "GPU each need trainer.use_cpu true"
        )


def check_sharded(config: TrainConfig, trainer: Any) -> None:
    """Refuse a trainer that would not shard as `trainer.fsdp` or `trainer.deepspeed` says.

    Raises:
        UserError: naming the key.
    """
    for name in ("fsdp", "deepspeed"):
        if bool(config.trainer.get(name)) != bool(getattr(trainer, f"is_{name}_enabled")):
            raise UserError(
                f"trainer.{name} is {config.trainer.get(name)!r}, but accelerate does otherwise: unset its "
                "environment variables (ACCELERATE_…), and launch a GPU for each rank"
            )
