"""Several ranks started by Ray Train: reserved, joined to a process group, watched and stopped by the driver.

The process that was asked to train (the driver) starts them and waits. A signal that it hears reaches rank 0
by a file beside the run folder, which several machines have to share as they share the run folder itself.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompter.errors import InfrastructureError, RunStopped, UserError
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training.checks import executor_configs
from recipes.training.quiet import quiet
from recipes.training.ranks.checks import check_launch, check_ranks
from recipes.training.ranks.world import process_group_backend

_POLL_SECONDS = 0.5


Train = Callable[..., RunFolder]
"""`recipes.grpo.train`, which starts ranks, and which each of them calls."""


def launch(train: Train, config: TrainConfig, *, resume: bool = False) -> RunFolder:
    """Train with `ranks.count` ranks, each a worker of Ray Train.

    Args:
        train: what each rank calls with the config; `launch` returns and raises what it does.
        config, resume: as `train` takes them.

    Raises:
        InfrastructureError: if ranks were lost, or cannot be placed.
    """
    folder = RunFolder(config.run_dir)
    folder.check_usable(resume=resume)
    check_ranks(config, config.ranks.count)
    check_launch(config)
    quiet()

    # Ray Train would make a folder of its own the ranks' working folder.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    config.ray.ensure()
    _check_room(config)
    beside = folder.path.absolute().with_name(f"{folder.path.name}.ranks")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    beside.mkdir(parents=True)
    try:
        stopped = _run(train, config, resume, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    if stopped is not None:
        raise RunStopped(stopped)
    return folder


def _run(train: Train, config: TrainConfig, resume: bool, beside: Path) -> str | None:
    """Run the ranks to their end; return the name of the signal that ended them early, if any."""
    from recipes.training.ranks.progress import Progress
    from recipes.training.stopping import StopRequest

    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(_trainer(train, config, resume, beside).fit())
        except BaseException as error:  # brought to the main thread
            outcome.append(error)

    # In a thread of its own: in the main one Ray Train takes SIGINT, and ends the ranks with nothing saved.
    thread = threading.Thread(target=fit, name="ranks", daemon=True)
    request = beside / "stop"
    with StopRequest() as stop, Progress(config) as progress:
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            progress.look()
            if stop.signal_name is not None and not request.exists():
                unfinished = request.with_suffix(".new")
                unfinished.write_text(stop.signal_name, encoding="utf-8")
                unfinished.rename(request)
    if isinstance(outcome[0], BaseException):
        raise _cause(outcome[0]) from outcome[0]
    return outcome[0].return_value


def _trainer(train: Train, config: TrainConfig, resume: bool, beside: Path) -> Any:
    from ray import train as ray_train
    from ray.train.torch import TorchConfig, TorchTrainer

    configs: Any = ray_train  # typed as an older version of itself, without what is given here

    def run(given: dict[str, Any]) -> Any:
        return _rank(train, given)

    each: Any = run

    on_gpu = not config.trainer.get("use_cpu", False)
    reserved = {"CPU": config.ranks.num_cpus, **({"GPU": config.ranks.num_gpus} if on_gpu else {})}
    threads = str(_threads(config))
    return TorchTrainer(
        each,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "resume": resume,
            "folder": str(Path.cwd()),
            "stop": str(beside / "stop"),
        },
        torch_config=TorchConfig(
            backend=process_group_backend(config, gpu=on_gpu),
            timeout_s=math.ceil(config.ranks.timeout_seconds),
        ),
        scaling_config=configs.ScalingConfig(
            num_workers=config.ranks.count, use_gpu=on_gpu, resources_per_worker=reserved
        ),
        run_config=configs.RunConfig(
            name="ranks",
            storage_path=str(beside),
            failure_config=configs.FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0", "OMP_NUM_THREADS": threads}},
        ),
    )


def _threads(config: TrainConfig) -> int:
    return max(1, int(config.ranks.num_cpus))


def _rank(train: Train, given: dict[str, Any]) -> str | None:
    """What each rank runs, in a thread of Ray Train's. Returns the signal that stopped it, if any."""
    import torch

    from recipes.training.stopping import StopRequest

    try:
        os.chdir(given["folder"])  # paths of a config are relative to where the command was started
    except OSError as error:
        raise UserError(
            f"a rank cannot enter {given['folder']}, the folder that the command was started in ({error}): "
            "start it in a folder that all machines share"
        ) from None
    config = TrainConfig.model_validate(given["config"])
    torch.set_num_threads(_threads(config))  # counted per thread, and this is a new one
    try:
        train(config, resume=given["resume"], stop=StopRequest(config.grace_seconds, Path(given["stop"])))
    except RunStopped as stopped:
        return stopped.signal_name
    return None


def _cause(error: BaseException) -> BaseException:
    """What a rank raised, rather than that one did: a sentence for the user first."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return InfrastructureError(f"Ray Train ended the ranks: {error}")
    by_rank = [failures[rank] for rank in sorted(failures)]
    for kind in (UserError, InfrastructureError):
        for one in by_rank:
            if isinstance(one, kind):
                return one
    return by_rank[0]


def _check_room(config: TrainConfig) -> None:
    """Refuse ranks and pools that a Ray on this machine alone can never hold: they would wait for ever.

    Raises:
        UserError: with what each takes.
    """
    import ray

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return  # a cluster may grow
    there = ray.cluster_resources()
    for resource, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        wanted = {f"ranks.{key}": config.ranks.count * getattr(config.ranks, key)}
        if config.sampler.backend == "ray":
            wanted[f"sampler.{key}"] = config.sampler.actors * getattr(config.sampler, key)
        for executor in executor_configs(config):
            if executor.backend == "ray":
                wanted[f"executor.{key}"] = wanted.get(f"executor.{key}", 0) + executor.actors * getattr(
                    executor, key
                )
        if sum(wanted.values()) > there.get(resource, 0):
            told = ", ".join(f"{name} {value:g}" for name, value in wanted.items() if value)
            raise UserError(
                f"ranks and pools reserve {sum(wanted.values()):g} {resource}s in all ({told}), but Ray has "
                f"{there.get(resource, 0):g}: lower them" + (", or raise ray.num_cpus" * (resource == "CPU"))
            )
