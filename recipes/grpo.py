"""GRPO with a frozen segmenter's mask IoU as the reward. Readable top to bottom.

prompter train recipes/configs/synthetic-aerial.yaml

samples --policy--> requests --sampler (Ray pool of vLLM engines)--> groups of completions
completions --parse--> prompts --executor (frozen SAM, in its own actor)--> masks --IoU--> rewards
groups with spread --TRL--> loss, optimiser, checkpoint --LoRA adapter--> sampler, next version
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from envs.executors.config import ExecutorConfig
from prompter.errors import UserError
from prompter.files import atomic_folder
from prompter.run_folder import RunFolder
from recipes.config import TrainConfig, check_trainer_keys

CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files a checkpoint needs to be resumed; TRL writes `trainer_state.json` last."""


def train(config: TrainConfig, *, resume: bool = False) -> RunFolder:
    """Train a policy as a config says; evaluate before and after; write the run folder.

    Args:
        config: the run.
        resume: continue the run in `config.run_dir` from its newest whole checkpoint.

    Raises:
        UserError: for anything wrong with the config, the data or the run folder, before any work.
    """
    RunFolder(config.run_dir).check_usable(resume=resume)
    _quiet()
    check_trainer_keys(config)
    # 1. What is asked: policy and data. Everything the user may have got wrong fails here.
    import torch
    from transformers import set_seed

    from envs.datasets import open_dataset
    from envs.executors import open_executors
    from prompter.policy import load_policy, load_weights
    from prompter.sampling.base import SamplingSettings
    from prompter.sampling.config import open_sampler
    from recipes.evaluation import HeldOutEvaluation, check_references, forget_evaluations
    from recipes.grpo_trainer import SegmentationGRPOTrainer
    from recipes.rollout_loop import RolloutLoop
    from recipes.scoring import PhaseTimes, RolloutScorer
    from recipes.training_log import TrainingLog
    from rewards.registry import build_reward

    set_seed(config.seed)
    policy = load_policy(config.policy.model, config.policy.setting_overrides())
    reward = build_reward(config.rewards)
    source = open_dataset(config.dataset.name, config.dataset.split, **config.dataset.options)
    held_out = open_dataset(
        config.eval.dataset or config.dataset.name,
        config.eval.split,
        **(config.dataset.options if config.eval.options is None else config.eval.options),
    )
    samples = len(source) if config.dataset.samples is None else min(config.dataset.samples, len(source))
    arguments = grpo_arguments(config, policy.settings.max_new_tokens)
    check_sizes(config, arguments, samples)
    check_references(config)

    # 2. Who works: frozen segmenters, the trained policy, and the engines that sample it.
    configs = executor_configs(config)
    if config.sampler.kind == "ray" or any(executor.pool == "ray" for executor in configs):
        from prompter.ray_runtime import ensure_ray

        ensure_ray(config.ray.address, config.ray.num_cpus)
    with ExitStack() as opened:
        executors = dict(zip([one.name for one in configs], open_executors(configs), strict=True))
        for executor in executors.values():
            opened.callback(executor.close)
        device = "cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu"
        model = with_adapters(load_weights(policy, dtype=config.policy.dtype, device=device), config)
        rank = None if config.policy.lora is None else config.policy.lora.r
        sampler = open_sampler(policy, config.sampler, model=model, lora_rank=rank)
        opened.callback(sampler.close)

        # 3. The run folder, and where to resume from.
        folder = RunFolder.create(config.run_dir, resume=resume)
        checkpoint = newest_checkpoint(folder.checkpoints_dir) if resume else None
        done = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        if resume:
            folder.truncate_to_step(done)
            forget_evaluations(folder, done, arguments.max_steps)
        folder.write_config(config.model_dump(mode="json"))

        times = PhaseTimes()
        group_size = arguments.num_generations
        settings = SamplingSettings(
            max_new_tokens=arguments.max_completion_length,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            top_k=arguments.top_k,
            n=group_size,
        )
        scorer = RolloutScorer(policy, executors, reward, aggregate=config.group.executors, seed=config.seed)
        loop = RolloutLoop(
            policy,
            sampler,
            scorer,
            source,
            config.group,
            settings,
            config.seed,
            times,
            samples=samples,
        )
        # 4. Before.
        evaluation = HeldOutEvaluation(folder, held_out, executors, config)
        evaluation.policy("before", policy, sampler)
        # 5. Training: TRL's loop, our rollouts.
        log = TrainingLog(folder, arguments.max_steps, done)
        opened.callback(log.close)
        trainer = SegmentationGRPOTrainer(
            model=model, args=arguments, processor=policy.processor, samples=samples, loop=loop, log=log
        )
        opened.callback(trainer.close)
        if config.eval.every_steps:
            trainer.add_callback(evaluating_callback(trainer, evaluation, config.eval.every_steps))
        if checkpoint is None or done < arguments.max_steps:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        else:
            trainer.restore(checkpoint, done)
        # 6. After, with the sampler on the trained weights.
        trainer.synchronise()
        evaluation.policy("after", policy, sampler)
        evaluation.references()
        save_trained(trainer.model, policy, folder)
    return folder


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


def evaluating_callback(trainer: Any, evaluation: Any, every: int) -> Any:
    """A callback that evaluates the policy every so many optimiser steps, but not after the last."""
    from transformers import TrainerCallback

    class Evaluate(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % every == 0 and state.global_step < state.max_steps:
                trainer.synchronise()
                name = f"step-{state.global_step:06d}"
                evaluation.policy(name, trainer.loop.policy, trainer.loop.sampler)

    return Evaluate()


def with_adapters(model: Any, config: TrainConfig) -> Any:
    """Wrap a model with LoRA adapters; with `lora: null` return it as it is, all weights trained."""
    from prompter.policy import LORA_TARGETS

    lora = config.policy.lora
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules or LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters)


def save_trained(model: Any, policy: Any, folder: RunFolder) -> Path:
    """Write the trained policy, adapters merged, as a checkpoint folder that `prompter eval` opens."""
    final = folder.checkpoints_dir / "final"
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    with atomic_folder(final) as unfinished:
        merged.save_pretrained(unfinished)
        policy.save_protocol(unfinished)
    return final


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written completely, or None.

    A process killed while saving leaves a folder without its last file, or with half of it.
    """
    numbered = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit()
    ]
    for _, path in sorted(numbered, reverse=True):
        if not all((path / name).is_file() for name in CHECKPOINT_FILES):
            continue
        try:
            json.loads((path / CHECKPOINT_FILES[0]).read_text(encoding="utf-8"))
        except ValueError:
            continue
        return path
    return None


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
    if config.policy.lora is None and config.sampler.kind != "hf":
        raise UserError(
            f"policy.lora is null, but sampler.kind {config.sampler.kind!r} follows the trainer by adapters: "
            "give policy.lora, or take sampler.kind hf"
        )
    if arguments.max_steps <= 0:
        raise UserError("trainer.max_steps must be given: a run's length is counted in optimiser steps")
    prompts = arguments.generation_batch_size // arguments.num_generations
    if samples < prompts:
        raise UserError(
            f"dataset {config.dataset.name} gives {samples} samples, but a step asks {prompts} prompts: "
            "lower trainer.per_device_train_batch_size"
        )
    window = (
        arguments.steps_per_generation * arguments.num_iterations // arguments.gradient_accumulation_steps
    )
    if window > 1 and arguments.save_steps % window:
        raise UserError(
            f"trainer.save_steps must be a multiple of {window}, the optimiser steps of one window of "
            f"rollouts, but is {arguments.save_steps}: a run resumed inside a window would train on "
            "other rollouts"
        )


def _quiet() -> None:
    """Silence what the libraries say to developers; errors still show."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # TRL imports vLLM where it is installed
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    for name in (
        "transformers",
        "trl",
        "trl.trainer.grpo_trainer",
        "accelerate",
        "peft",
        "torch.utils.cpp_extension",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
