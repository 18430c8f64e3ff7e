"""GRPO with a frozen segmenter's mask IoU as the reward. Readable top to bottom.

prompter train recipes/configs/synthetic-aerial.yaml

samples --policy--> requests --sampler (Ray pool of vLLM engines)--> groups of completions
completions --parse--> prompts --executor (frozen SAM, in its own actor)--> masks --IoU--> rewards
groups with spread --TRL--> loss, optimiser, checkpoint --LoRA adapter or all weights--> sampler, next version
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prompter.errors import RunStopped
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig, check_trainer_keys
from recipes.training.checkpoints import (
    check_same_sharding,
    newest_checkpoint,
    save_trained,
    step_of,
)
from recipes.training.checks import (
    check_adapted_modules,
    check_average,
    check_overlap,
    check_quantised,
    check_sizes,
    check_weights_follow,
    executor_configs,
    grpo_arguments,
    merges,
    training_device,
    window_steps,
)
from recipes.training.quiet import quiet
from recipes.training.ranks.checks import check_ranks
from recipes.training.ranks.world import Ranks, no_rank_variables, open_ranks, ranks_by_environment

if TYPE_CHECKING:
    from recipes.training.stopping import StopRequest


def train(config: TrainConfig, *, resume: bool = False, stop: StopRequest | None = None) -> RunFolder:
    """Train a policy as a config says; evaluate before and after; write the run folder.

    With `ranks.count` over 1, Ray Train starts that many processes, which call this again. A process that
    torchrun or accelerate launch started is a rank already.

    Args:
        config: the run.
        resume: continue the run in `config.run_dir` from its newest whole checkpoint.
        stop: where requests to stop arrive, if not as signals to this process.

    Raises:
        UserError: for anything wrong with the config, the data or the run folder, before any work.
        RunStopped: after SIGTERM or SIGINT, with a checkpoint to resume from.
    """
    if config.ranks.count > 1 and ranks_by_environment()[1] == 1:
        from recipes.training.ranks.launch import launch

        return launch(train, config, resume=resume)
    with open_ranks(config) as ranks:
        return _train(config, ranks, resume=resume, stop=stop)


def _train(config: TrainConfig, ranks: Ranks, *, resume: bool, stop: StopRequest | None) -> RunFolder:
    """As `train`, in this process. Whatever only rank 0 does goes through `ranks`, for others to wait."""
    ranks.first(lambda: RunFolder(config.run_dir).check_usable(resume=resume))
    check_ranks(config, ranks.count)
    quiet()
    check_trainer_keys(config)
    check_overlap(config)
    check_average(config)
    # 1. What is asked: policy and data. Everything the user may have got wrong fails here.
    from transformers import set_seed

    from envs.datasets import open_dataset
    from envs.datasets.reading.records import told
    from envs.sample import first_samples
    from prompter.checkpoint import load_policy, load_weights
    from prompter.quantised import gap_warning
    from recipes.training.average import WeightAverage
    from recipes.training.early_stop import EarlyStop, EndedAlready, check_alarms, forget_copies, watch_run
    from recipes.training.held_out import HeldOutEvaluation, check_references, forget_evaluations
    from recipes.training.identity import check_same_run, run_identity
    from recipes.training.log import TrainingLog
    from recipes.training.mining import WindowOrder
    from recipes.training.phases import PhaseTimes
    from recipes.training.ranks.checks import check_joined, check_sharded, sharding
    from recipes.training.saved_windows import remember
    from recipes.training.stopping import StopBetweenWindows, StopRequest
    from recipes.training.trackers import Mirror, check_trackers, parted
    from recipes.training.trl_trainer import SegmentationGRPOTrainer
    from recipes.training.window import WindowCollector, sampling_settings
    from rewards.registry import build_reward

    check_trackers(config.trainer["report_to"])
    set_seed(config.seed)
    policy = load_policy(config.policy.model, config.policy.setting_overrides())
    check_adapted_modules(config, policy)
    check_weights_follow(config, policy)
    check_quantised(config, policy)
    reward = build_reward(config.rewards)
    source = open_dataset(config.dataset.name, config.dataset.split, **config.dataset.options)
    for line in told(source) if ranks.leads else ():
        print(line, flush=True)
    held_out: Any = ranks.first(config.open_held_out)
    others: Any = ranks.first(lambda: {name: one.open() for name, one in config.other_sets.items()})
    source = first_samples(source, config.dataset.samples)
    arguments = grpo_arguments(config, policy.settings.max_new_tokens)
    check_joined(config, arguments, ranks)
    check_sizes(config, arguments, len(source))
    check_references(config)
    check_alarms(config)
    identity = ranks.first(lambda: run_identity(config, policy, arguments, source))

    def compare() -> None:
        for line in check_same_run(RunFolder(config.run_dir), config, identity or {}, source):
            print(line, flush=True)

    if resume:
        ranks.first(compare)

    with ExitStack() as opened:
        # 2. Who works: frozen segmenters, the trained policy, and the engines that sample it.
        executors: Any = ranks.first(lambda: open_segmenters(config, opened))
        device = str(arguments.device) if ranks.count > 1 else training_device(arguments)
        quantise = config.policy.quantise
        if quantise is not None and ranks.leads:
            print(gap_warning(config.sampler.backend), flush=True)
        base = load_weights(policy, dtype=config.policy.dtype, device=device, quantise=quantise)
        model = with_adapters(base, config)
        same_adapters(model, ranks)

        def open_workers() -> tuple[Any, Any]:
            from prompter.sampling import open_sampler
            from recipes.training.scoring import RolloutScorer

            rank = None if config.policy.lora is None or merges(config) else config.policy.lora.r
            # A divided model cannot be sampled from by one rank: transformers then has its own copy.
            own = model if sharding(config) is None else None
            sampler = open_sampler(policy, config.sampler, model=own, lora_rank=rank)
            opened.callback(sampler.close)
            how = config.group.executors
            return sampler, RolloutScorer(policy, executors, reward, aggregate=how, seed=config.seed)

        # None on the other ranks, where nothing is sampled or evaluated.
        sampler, scorer = ranks.first(open_workers) or (cast(Any, None), cast(Any, None))

        # 3. The run folder, and where to resume from.
        def open_folder() -> Path | None:
            folder = RunFolder.create(config.run_dir, resume=resume)
            checkpoint = newest_checkpoint(folder.checkpoints_dir) if resume else None
            check_same_sharding(checkpoint, sharding(config))
            if resume:
                folder.truncate_to_step(step_of(checkpoint))
                forget_evaluations(folder, step_of(checkpoint), arguments.max_steps)
                forget_copies(folder, step_of(checkpoint))
            folder.write_config(config.model_dump(mode="json"))
            folder.write_identity(identity or {})
            return checkpoint

        checkpoint = ranks.tell(open_folder)
        folder, done = RunFolder(config.run_dir), step_of(checkpoint)

        times = PhaseTimes()
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
        stop = opened.enter_context(stop or StopRequest(config.grace_seconds))
        evaluation: Any = None
        if ranks.leads:
            mirror = Mirror(folder, parted(config.trainer["report_to"])[0], done)
            opened.callback(mirror.close)
            evaluation = HeldOutEvaluation(folder, held_out, executors, config, others, mirror)

        def at_once(*actions: Callable[[], Any]) -> None:
            with stop.at_once():
                for action in actions:
                    action()

        watch = watch_run(folder, config) if ranks.leads else None

        def evaluate(name: str) -> None:
            evaluation.evaluate_policy(name, policy, sampler)
            evaluation.evaluate_others(name, policy, sampler)

        ranks.first(lambda: at_once(lambda: evaluate("before")))
        # 5. Training: TRL's loop, our rollouts.
        log = TrainingLog(folder, arguments.max_steps, done) if ranks.leads else None
        if log is not None:
            opened.callback(log.close)
        trainer = SegmentationGRPOTrainer(
            model=model,
            args=arguments,
            processor=policy.processor,
            collector=collector,
            log=log,
            stop=stop,
            staleness=config.overlap.staleness,
            group=config.group,
            order=WindowOrder(config.order, arguments, len(source)),
            average=WeightAverage(config.average.decay, window_steps(arguments)),
            merged=merges(config),
            ranks=ranks,
            measure_drift=config.alarms.drift is not None,
        )
        opened.callback(trainer.close)
        check_sharded(config, trainer)
        if checkpoint is not None:
            trainer.order.restore(folder)
            ranks.first(lambda: remember(collector.memory, folder, source))
            trainer.average.restore(checkpoint, model)
        if checkpoint is not None and config.overlap.staleness:
            ranks.first(lambda: trainer.ahead.restore(checkpoint, source, done + 1))
        if config.eval.every_steps:
            trainer.add_callback(evaluating_callback(trainer, evaluation, config.eval.every_steps, stop))
        early = EarlyStop(trainer, folder, config, watch, arguments, ranks)
        trainer.add_callback(early)
        trainer.add_callback(StopBetweenWindows(stop, window_steps(arguments), ranks))
        if checkpoint is None or (done < arguments.max_steps and not early.ending(done)):
            with suppress(EndedAlready):
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        else:
            trainer.restore(checkpoint, done)
        # 6. After, with the sampler on the trained weights: the last ones, their average, or, where training
        # ended early, those of the best evaluation.
        ranks.first(lambda: at_once())
        if ended := early.ending(trainer.state.global_step):
            early.take_best(ended, lambda step: evaluate_during(trainer, evaluation, step, stop))
        else:
            trainer.average.put_into(model)
        trainer.synchronise()
        ranks.first(lambda: at_once(lambda: evaluate("after"), evaluation.evaluate_references))
        save_trained(
            trainer.accelerator.unwrap_model(trainer.model),
            policy,
            folder,
            ranks,
            lambda: load_weights(policy, dtype=config.policy.dtype, device="cpu"),
        )
    return folder


def open_segmenters(config: TrainConfig, opened: ExitStack) -> dict[str, Any]:
    """The config's segmenters by name, opened until `opened` is closed; Ray is started if a pool needs it."""
    from envs.executors import open_executors

    configs = executor_configs(config)
    if config.sampler.backend == "ray" or any(executor.backend == "ray" for executor in configs):
        with no_rank_variables():
            config.ray.ensure()
    executors = dict(zip([one.name for one in configs], open_executors(configs), strict=True))
    for executor in executors.values():
        opened.callback(executor.close)
    return executors


def same_adapters(model: Any, ranks: Ranks) -> None:
    """Give all ranks the new adapters of rank 0, whose random numbers may have served others before."""
    if ranks.count == 1 or not hasattr(model, "peft_config"):
        return
    import torch.distributed as dist

    for parameter in model.parameters():
        if parameter.requires_grad:
            dist.broadcast(parameter.data, src=0)


def evaluating_callback(trainer: Any, evaluation: Any, every: int, stop: StopRequest) -> Any:
    """A callback that evaluates the policy every so many optimiser steps, but not after the last.

    A signal breaks off an evaluation between two windows, to be finished when the run is resumed. Add it
    before `StopBetweenWindows`, which then saves.
    """
    from transformers import TrainerCallback

    class Evaluate(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step
            due = step and step % every == 0
            if due and not trainer.ranks.tell(lambda: evaluation.folder.has_metrics(step, "eval")):
                evaluate_during(trainer, evaluation, step, stop)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            goes_on = state.global_step < state.max_steps and not control.should_training_stop
            if state.global_step % every or not goes_on:
                return
            if state.global_step % window_steps(args):
                evaluate_during(trainer, evaluation, state.global_step, None)
                return
            with suppress(RunStopped):
                evaluate_during(trainer, evaluation, state.global_step, stop)

    return Evaluate()


def evaluate_during(trainer: Any, evaluation: Any, step: int, stop: StopRequest | None) -> None:
    """Evaluate the policy as it is after `step` optimiser steps; with `stop`, a signal breaks it off."""
    from recipes.training.held_out import evaluation_name

    def on_rank_0() -> None:
        with nullcontext() if stop is None else stop.at_once():
            evaluation.evaluate_policy(
                evaluation_name(step), trainer.collector.policy, trainer.collector.sampler
            )

    with trainer.apart("evaluate"):
        trainer.synchronise()
        trainer.ranks.first(on_rank_0)


def with_adapters(model: Any, config: TrainConfig) -> Any:
    """Wrap a model with LoRA adapters; with `lora: null` return it as it is, all weights trained."""
    lora = config.policy.lora
    if lora is None:
        return model
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(config.seed)  # the same adapters, whatever was built before them
    return get_peft_model(model, lora.for_family(model.config.model_type, task_type="CAUSAL_LM"))
