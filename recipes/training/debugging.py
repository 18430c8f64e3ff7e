"""Half a run, for debugging: rollouts without training, or training on the rollouts of another run.

`prompter train CONFIG --rollout-only` samples and scores the windows that training would ask, all of them
by the untrained policy. `prompter train CONFIG --train-only RUN` trains on what a run saved, without engines
and segmenters: on a run of the same config it gives that run's losses.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig, check_trainer_keys
from recipes.training.checks import (
    check_adapted_modules,
    check_average,
    check_sizes,
    grpo_arguments,
    training_device,
    window_steps,
)
from recipes.training.quiet import quiet
from recipes.training.trackers import Mirror, check_trackers, parted


class _Asked:
    """What both halves need: policy, training set and TRL's config, checked."""

    def __init__(self, config: TrainConfig) -> None:
        RunFolder(config.run_dir).check_usable()
        quiet()
        check_trainer_keys(config)
        check_trackers(config.trainer["report_to"])
        from transformers import set_seed

        from envs.datasets import open_dataset
        from envs.datasets.reading.records import told
        from envs.sample import first_samples
        from prompter.checkpoint import load_policy
        from recipes.training.identity import run_identity

        set_seed(config.seed)
        self.policy = load_policy(config.policy.model, config.policy.setting_overrides())
        check_adapted_modules(config, self.policy)
        source = open_dataset(config.dataset.name, config.dataset.split, **config.dataset.options)
        for line in told(source):
            print(line, flush=True)
        self.source = first_samples(source, config.dataset.samples)
        self.arguments = grpo_arguments(config, self.policy.settings.max_new_tokens)
        check_sizes(config, self.arguments, len(self.source))
        self.identity = run_identity(config, self.policy, self.arguments, self.source)
        last, window = self.arguments.max_steps, window_steps(self.arguments)
        self.steps = list(range(1, last + 1, window))
        """The optimiser steps that begin a window."""

    def weights(self, config: TrainConfig) -> Any:
        """The policy's weights on the device that trains."""
        from prompter.checkpoint import load_weights

        device = training_device(self.arguments)
        return load_weights(self.policy, dtype=config.policy.dtype, device=device)

    def folder(self, config: TrainConfig) -> RunFolder:
        """The new run folder."""
        folder = RunFolder.create(config.run_dir)
        folder.write_config(config.model_dump(mode="json"))
        folder.write_identity(self.identity)
        return folder


def collect_rollouts(config: TrainConfig) -> RunFolder:
    """Sample and score the windows of a run by the untrained policy; take no optimiser step.

    Metrics are logged as kind "rollouts", under the step that training would begin with each window.

    Raises:
        UserError: as `recipes.grpo.train`.
        RunStopped: after SIGTERM or SIGINT; the windows written before are whole.
    """
    from prompter.sampling import open_sampler
    from recipes.grpo import open_segmenters
    from recipes.training.log import TrainingLog
    from recipes.training.mining import WindowOrder
    from recipes.training.phases import PhaseTimes
    from recipes.training.scoring import RolloutScorer
    from recipes.training.stopping import StopRequest
    from recipes.training.window import WindowCollector, sampling_settings
    from rewards.registry import build_reward

    asked = _Asked(config)
    reward = build_reward(config.rewards)
    with ExitStack() as opened:
        executors = open_segmenters(config, opened)
        model = asked.weights(config) if config.sampler.backend == "hf" else None
        sampler = open_sampler(asked.policy, config.sampler, model=model)
        opened.callback(sampler.close)
        folder = asked.folder(config)
        opened.callback(Mirror(folder, parted(config.trainer["report_to"])[0]).close)
        times = PhaseTimes()
        scorer = RolloutScorer(
            asked.policy, executors, reward, aggregate=config.group.executors, seed=config.seed
        )
        collector = WindowCollector(
            asked.policy,
            sampler,
            scorer,
            asked.source,
            config.group,
            sampling_settings(config, asked.arguments),
            config.seed,
            times,
        )
        stop = opened.enter_context(StopRequest())
        log = TrainingLog(folder, len(asked.steps))
        order = WindowOrder(config.order, asked.arguments, len(asked.source))
        opened.callback(log.close)
        for number, step in enumerate(asked.steps):
            with stop.at_once():
                window = collector.collect(order.indices(number), step)
            order.note([(group.index, group.rewards) for group in window.all_groups])
            log.collected(step, window, sampler.version)
            log.rollouts(step, times)
    return folder


def train_on_rollouts(config: TrainConfig, run: Path) -> RunFolder:
    """Train on the windows that a run saved, in their order; sample, segment and evaluate nothing.

    Args:
        config: of this run, whose seed, dataset, policy and window are those of `run`; what concerns the
            optimiser or the loss may differ.
        run: folder of the run.

    Raises:
        UserError: as `recipes.grpo.train`, and if the run saved no token ids or is of another kind.
        RunStopped: after SIGTERM or SIGINT. Such a run is not resumed, but started again.
    """
    from recipes.grpo import with_adapters
    from recipes.training.average import WeightAverage
    from recipes.training.checkpoints import save_trained
    from recipes.training.identity import check_same_rollouts
    from recipes.training.log import TrainingLog
    from recipes.training.mining import WindowOrder
    from recipes.training.phases import PhaseTimes
    from recipes.training.saved_windows import SavedWindows
    from recipes.training.stopping import StopBetweenWindows, StopRequest
    from recipes.training.trl_trainer import SegmentationGRPOTrainer

    check_average(config)
    saved = RunFolder.open(run)
    asked = _Asked(config)
    collector: Any = SavedWindows(saved, asked.policy, asked.source, PhaseTimes())
    check_same_rollouts(saved, asked.identity)
    collector.check_steps(asked.steps)
    model = with_adapters(asked.weights(config), config)
    with ExitStack() as opened:
        folder = asked.folder(config)
        opened.callback(Mirror(folder, parted(config.trainer["report_to"])[0]).close)
        stop = opened.enter_context(StopRequest(config.grace_seconds))
        log = TrainingLog(folder, asked.arguments.max_steps)
        opened.callback(log.close)
        trainer = SegmentationGRPOTrainer(
            model=model,
            args=asked.arguments,
            processor=asked.policy.processor,
            collector=collector,
            log=log,
            stop=stop,
            group=config.group,
            order=WindowOrder(config.order, asked.arguments, len(asked.source)),
            average=WeightAverage(config.average.decay, window_steps(asked.arguments)),
            measure_drift=config.alarms.drift is not None,
        )
        opened.callback(trainer.close)
        trainer.add_callback(StopBetweenWindows(stop, window_steps(asked.arguments)))
        trainer.train()
        stop.check()
        trainer.average.put_into(trainer.model)
        save_trained(trainer.model, asked.policy, folder)
    return folder
