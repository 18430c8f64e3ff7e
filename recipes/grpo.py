"""GRPO with a frozen segmenter's mask IoU as the reward. Readable top to bottom.

prompter train recipes/configs/synthetic-aerial.yaml

samples --policy--> requests --sampler (Ray pool of vLLM engines)--> groups of completions
completions --parse--> prompts --executor (frozen SAM, in its own actor)--> masks --IoU--> rewards
groups with spread --TRL--> loss, optimiser, checkpoint --LoRA adapter or all weights--> sampler, next version
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from prompter.errors import RunStopped
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig, check_trainer_keys
from recipes.training.checkpoints import newest_checkpoint, save_trained, step_of
from recipes.training.checks import (
    check_adapted_modules,
    check_overlap,
    check_quantised,
    check_sizes,
    check_weights_follow,
    executor_configs,
    grpo_arguments,
    window_steps,
)
from recipes.training.quiet import quiet

if TYPE_CHECKING:
    from recipes.training.stopping import StopRequest


def train(config: TrainConfig, *, resume: bool = False) -> RunFolder:
    """Train a policy as a config says; evaluate before and after; write the run folder.

    Args:
        config: the run.
        resume: continue the run in `config.run_dir` from its newest whole checkpoint.

    Raises:
        UserError: for anything wrong with the config, the data or the run folder, before any work.
        RunStopped: after SIGTERM or SIGINT, with a checkpoint to resume from.
    """
    RunFolder(config.run_dir).check_usable(resume=resume)
    quiet()
    check_trainer_keys(config)
    check_overlap(config)
    # 1. What is asked: policy and data. Everything the user may have got wrong fails here.
    import torch
    from transformers import set_seed

    from envs.datasets import open_dataset
    from envs.datasets.reading.records import told
    from envs.executors import open_executors
    from envs.sample import first_samples
    from prompter.checkpoint import load_policy, load_weights
    from prompter.quantised import gap_warning
    from prompter.sampling import open_sampler
    from recipes.training.held_out import HeldOutEvaluation, check_references, forget_evaluations
    from recipes.training.identity import check_same_run, run_identity
    from recipes.training.log import TrainingLog
    from recipes.training.phases import PhaseTimes
    from recipes.training.scoring import RolloutScorer
    from recipes.training.stopping import StopBetweenWindows, StopRequest
    from recipes.training.trl_trainer import SegmentationGRPOTrainer
    from recipes.training.window import WindowCollector, sampling_settings
    from rewards.registry import build_reward

    set_seed(config.seed)
    policy = load_policy(config.policy.model, config.policy.setting_overrides())
    check_adapted_modules(config, policy)
    check_weights_follow(config, policy)
    check_quantised(config, policy)
    reward = build_reward(config.rewards)
    source = open_dataset(config.dataset.name, config.dataset.split, **config.dataset.options)
    for line in told(source):
        print(line, flush=True)
    held_out = config.open_held_out()
    source = first_samples(source, config.dataset.samples)
    arguments = grpo_arguments(config, policy.settings.max_new_tokens)
    check_sizes(config, arguments, len(source))
    check_references(config)
    identity = run_identity(config, policy, arguments, source)
    if resume:
        for line in check_same_run(RunFolder(config.run_dir), config, identity, source):
            print(line, flush=True)

    # 2. Who works: frozen segmenters, the trained policy, and the engines that sample it.
    configs = executor_configs(config)
    if config.sampler.backend == "ray" or any(executor.backend == "ray" for executor in configs):
        from prompter.runs.ray_runtime import ensure_ray

        ensure_ray(config.ray.address, config.ray.num_cpus, config.ray.env_vars)
    with ExitStack() as opened:
        executors = dict(zip([one.name for one in configs], open_executors(configs), strict=True))
        for executor in executors.values():
            opened.callback(executor.close)
        device = "cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu"
        quantise = config.policy.quantise
        if quantise is not None:
            print(gap_warning(config.sampler.backend), flush=True)
        base = load_weights(policy, dtype=config.policy.dtype, device=device, quantise=quantise)
        model = with_adapters(base, config)
        rank = None if config.policy.lora is None else config.policy.lora.r
        sampler = open_sampler(policy, config.sampler, model=model, lora_rank=rank)
        opened.callback(sampler.close)

        # 3. The run folder, and where to resume from.
        folder = RunFolder.create(config.run_dir, resume=resume)
        checkpoint = newest_checkpoint(folder.checkpoints_dir) if resume else None
        done = step_of(checkpoint)
        if resume:
            folder.truncate_to_step(done)
            forget_evaluations(folder, done, arguments.max_steps)
        folder.write_config(config.model_dump(mode="json"))
        folder.write_identity(identity)

        times = PhaseTimes()
        scorer = RolloutScorer(policy, executors, reward, aggregate=config.group.executors, seed=config.seed)
        collector = WindowCollector(
            policy,
            sampler,
            scorer,
            source,
            config.group,
            sampling_settings(config, arguments),
            config.seed,
            times,
            prefetch=config.overlap.prefetch and config.sampler.backend == "ray",
        )
        # 4. Before. From here on a signal ends the run with nothing lost.
        stop = opened.enter_context(StopRequest(config.grace_seconds))
        evaluation = HeldOutEvaluation(folder, held_out, executors, config)
        with stop.at_once():
            evaluation.evaluate_policy("before", policy, sampler)
        # 5. Training: TRL's loop, our rollouts.
        log = TrainingLog(folder, arguments.max_steps, done)
        opened.callback(log.close)
        trainer = SegmentationGRPOTrainer(
            model=model,
            args=arguments,
            processor=policy.processor,
            collector=collector,
            log=log,
            stop=stop,
            staleness=config.overlap.staleness,
        )
        opened.callback(trainer.close)
        if checkpoint is not None and config.overlap.staleness:
            trainer.ahead.restore(checkpoint, source, done + 1)
        if config.eval.every_steps:
            trainer.add_callback(evaluating_callback(trainer, evaluation, config.eval.every_steps, stop))
        trainer.add_callback(StopBetweenWindows(stop, window_steps(arguments)))
        if checkpoint is None or done < arguments.max_steps:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        else:
            trainer.restore(checkpoint, done)
        # 6. After, with the sampler on the trained weights.
        with stop.at_once():
            trainer.synchronise()
            evaluation.evaluate_policy("after", policy, sampler)
            evaluation.evaluate_references()
        save_trained(trainer.model, policy, folder)
    return folder


def evaluating_callback(trainer: Any, evaluation: Any, every: int, stop: StopRequest) -> Any:
    """A callback that evaluates the policy every so many optimiser steps, but not after the last.

    A signal breaks off an evaluation between two windows, to be finished when the run is resumed. Add it
    before `StopBetweenWindows`, which then saves.
    """
    from transformers import TrainerCallback

    def evaluate(step: int) -> None:
        collector = trainer.collector
        with trainer.apart("evaluate"):
            trainer.synchronise()
            evaluation.evaluate_policy(f"step-{step:06d}", collector.policy, collector.sampler)

    class Evaluate(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step
            if step and step % every == 0 and not evaluation.folder.has_metrics(step, "eval"):
                with stop.at_once():
                    evaluate(step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            goes_on = state.global_step < state.max_steps and not control.should_training_stop
            if state.global_step % every or not goes_on:
                return
            if state.global_step % window_steps(args):
                evaluate(state.global_step)
                return
            with suppress(RunStopped), stop.at_once():
                evaluate(state.global_step)

    return Evaluate()


def with_adapters(model: Any, config: TrainConfig) -> Any:
    """Wrap a model with LoRA adapters; with `lora: null` return it as it is, all weights trained."""
    from prompter.families import lora_targets

    lora = config.policy.lora
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(config.seed)  # the same adapters, whatever was built before them
    adapters = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules or lora_targets(model.config.model_type),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters)
