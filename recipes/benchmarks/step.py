"""Whole training steps: TRL with the field's reward, and ours with one part after the other put in.

Every way trains the same policy from the same weights on the same questions with the same settings, one
after the other in one process, and every step trains on equally many completions. The first step of a way
allocates and is not counted; of the others the one of median time is. On a CPU, where a step of the field's
way takes minutes, it is timed on one, the other ways' first, and not warmed up: it comes after the other ways
of TRL's trainer, which have warmed up all but its predictor, and that is called once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import set_seed

from envs.datasets import open_dataset
from envs.executors import open_executor
from envs.executors.base import Executor, SegmentRequest
from envs.executors.families import resolve_dtype
from envs.executors.families.reference import reference_predictor
from envs.rollouts import make_requests
from envs.sample import SampleSource, first_samples
from prompter.checkpoint import Checkpoint, load_policy, load_weights
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.sampling import open_sampler
from prompter.sampling.huggingface import HuggingFaceSampler
from prompter.types import Instance, PromptSet
from recipes.benchmarks.floor import Floor, floor_of
from recipes.benchmarks.stock import PeersExecutor, StockTrainer
from recipes.benchmarks.watch import KeepingLog, Stopwatch
from recipes.benchmarks.ways import Measured, Way
from recipes.config import GroupConfig, TrainConfig
from recipes.grpo import with_adapters
from recipes.training.checks import check_sizes, executor_configs, grpo_arguments, training_device
from recipes.training.order import indices_of_run, window_prompts
from recipes.training.phases import PhaseTimes
from recipes.training.scoring import RolloutScorer, ScoredGroup
from recipes.training.trl_trainer import SegmentationGRPOTrainer
from recipes.training.window import WindowCollector, sampling_settings
from rewards.registry import build_reward


class StepBenchmark:
    """Opens what all ways share, and measures them.

    Args:
        config: the run to measure; `trainer.max_steps` is set here, groups without spread are kept, so
            that equally many completions are trained on, and a window is one optimiser step.
        steps: timed steps of each way but the field's on a CPU.
        adapter: folder of a LoRA adapter that is merged into the policy first; None starts from its weights.

    Raises:
        UserError: for anything wrong with the config or the data.
    """

    def __init__(self, config: TrainConfig, *, steps: int, adapter: Path | None = None) -> None:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="prompter-bench-")))
        if adapter is not None:
            config = with_merged(config, adapter, self._folder / "policy")
        trainer = {
            **config.trainer,
            "save_strategy": "no",
            "num_iterations": 1,
            "shuffle_dataset": True,
            "max_steps": steps + 1,
        }
        self.config = config.model_copy(update={"trainer": trainer, "group": GroupConfig(zero_spread="keep")})
        self.policy: Checkpoint = load_policy(config.policy.model, config.policy.setting_overrides())
        self.source: SampleSource = first_samples(
            open_dataset(config.dataset.name, config.dataset.split, **config.dataset.options),
            config.dataset.samples,
        )
        executors = executor_configs(config)
        if len(executors) > 1:
            raise UserError("the benchmark takes one segmenter, but the config names several")
        self.executor = executors[0]
        arguments = self._arguments("checked")
        check_sizes(self.config, arguments, len(self.source))
        self.device = training_device(arguments)
        self._steps = steps
        self._prompts = window_prompts(arguments)
        self._order = [
            index
            for window in range(steps + 1)
            for index in indices_of_run(arguments, window, len(self.source))
        ]

    def close(self) -> None:
        """Remove what was written. Safe to call twice."""
        self._stack.close()

    def __enter__(self) -> StepBenchmark:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, which: Sequence[Way]) -> Iterator[Measured]:
        """Measure ways, TRL's first, the last of them first: opening our trainer changes TRL's head for the
        rest of the process (`recipes.training.labelled_head`), and vLLM the settings of PyTorch.

        Raises:
            RuntimeError: if one of ours was asked other questions than TRL.
        """
        stock = [way for way in which if not way.ours]
        ours = sorted((way for way in which if way.ours), key=lambda way: way.backend != "hf")
        for number, way in enumerate([*reversed(stock), *ours]):
            yield self._ours(way, number) if way.ours else self._stock(way, number)

    def same_rewards(self, groups: list[ScoredGroup]) -> float:
        """The largest difference between rewards that our executor gave and those of the field's way.

        Args:
            groups: scored by ours; they are scored again.
        """
        scorer = self._scorer(self.open_executor("peers"))
        again = scorer.score(
            [group.index for group in groups],
            [self.source[group.index] for group in groups],
            [group.completions for group in groups],
            0,
        )
        pairs = [
            (own, other)
            for group, peers in zip(groups, again, strict=True)
            for own, other in zip(group.rewards, peers.rewards, strict=True)
        ]
        return max(
            float("inf") if (own is None) != (other is None) else abs((own or 0.0) - (other or 0.0))
            for own, other in pairs
        )

    def floor(self, groups: list[ScoredGroup]) -> Floor:
        """The least time of a step that trained on these groups."""
        model = self._model()
        asking = HuggingFaceSampler(model, self.policy.processor)
        requests = make_requests(self.policy, [self.source[group.index] for group in groups])
        prompts = [len(asking.prompt_ids(request)) for request in requests]
        return floor_of(groups, prompts, model, self.source, self.policy, self.executor, self.device)

    def open_executor(self, kind: str) -> Executor:
        """The segmenter, asked as a way asks it (`Way.executor`), computing in the config's type."""
        if kind in ("batched", "actors"):
            backend = {"backend": "local"} if kind == "batched" else {}
            return open_executor(self.executor.model_copy(update=backend))
        predictor = reference_predictor(self.executor, resolve_dtype(self.executor).dtype)
        return PeersExecutor(predictor, encode_once=kind == "once")

    def _scorer(self, executor: Executor) -> RolloutScorer:
        reward = build_reward(self.config.rewards)
        return RolloutScorer(self.policy, {self.executor.name: executor}, reward, seed=self.config.seed)

    def _arguments(self, name: str, **values: Any) -> Any:
        trainer = {**self.config.trainer, **values}
        config = self.config.model_copy(update={"trainer": trainer, "run_dir": str(self._folder / name)})
        return grpo_arguments(config, self.policy.settings.max_new_tokens)

    def _model(self) -> Any:
        set_seed(self.config.seed)
        weights = load_weights(self.policy, dtype=self.config.policy.dtype, device=self.device)
        return with_adapters(weights, self.config)

    def _stock(self, way: Way, number: int) -> Measured:
        executor = self.open_executor(way.executor)
        slow = self.device == "cpu" and way.executor == "peers"
        first, steps = (0, 1) if slow else (1, self._steps)
        watch = Stopwatch(self.device, executor, first)
        order = self._order[self._prompts : 2 * self._prompts] if slow else self._order
        if slow:  # its first call allocates, too
            sample = self.source[order[0]]
            width, height = sample.image_wh
            box = Instance(box=(0.0, 0.0, float(width), float(height)))
            executor.segment([SegmentRequest(sample.image_array(), PromptSet((box,)))])
        try:
            trainer = StockTrainer(
                model=self._model(),
                args=self._arguments(f"way-{number}", shuffle_dataset=False, max_steps=steps + first),
                policy=self.policy,
                source=self.source,
                order=order,
                scorer=self._scorer(executor),
            )
            trainer.add_callback(watch)
            trainer.train()
        finally:
            executor.close()
        return Measured(
            way,
            watch.seconds[first:],
            trainer.seconds["sample"][first:],
            trainer.seconds["segment"][first:],
            trainer.scored[first:],
            watch.encodes,
        )

    def _ours(self, way: Way, number: int) -> Measured:
        config = self.config.sampler.model_copy(update={"backend": way.backend})
        if way.backend == "ray":
            self.config.ray.ensure()
        with ExitStack() as opened:
            model, arguments = self._model(), self._arguments(f"way-{number}")
            executor = self.open_executor(way.executor)
            opened.callback(executor.close)
            rank = None if self.config.policy.lora is None else self.config.policy.lora.r
            sampler = open_sampler(self.policy, config, model=model, lora_rank=rank)
            opened.callback(sampler.close)
            collector = WindowCollector(
                self.policy,
                sampler,
                self._scorer(executor),
                self.source,
                self.config.group,
                sampling_settings(self.config, arguments),
                self.config.seed,
                PhaseTimes(),
                prefetch=way.prefetch,
            )
            log = KeepingLog(RunFolder.create(self._folder / f"log-{number}"), arguments.max_steps)
            opened.callback(log.close)
            trainer = SegmentationGRPOTrainer(
                model=model,
                args=arguments,
                processor=self.policy.processor,
                collector=collector,
                log=log,
                staleness=way.staleness,
                group=self.config.group,
            )
            opened.callback(trainer.close)
            watch = Stopwatch(self.device, executor, 1)
            trainer.add_callback(watch)
            trainer.train()
        asked = [group.index for step in log.groups for group in step]
        if asked != self._order:
            raise RuntimeError(f"{way.title!r} was asked other questions: ways cannot be compared")
        phases = [line["seconds"] for line in log.folder.read_metrics() if line["kind"] == "train"][1:]
        return Measured(
            way,
            watch.seconds[1:],
            [phase.get("sample", 0.0) for phase in phases],
            [phase.get("segment", 0.0) for phase in phases],
            log.groups[1:],
            watch.encodes,
        )


def with_merged(config: TrainConfig, adapter: Path, folder: Path) -> TrainConfig:
    """Write the config's policy with an adapter merged into it to a folder; return the config with that."""
    from peft import PeftModel

    policy = load_policy(config.policy.model, config.policy.setting_overrides())
    model = PeftModel.from_pretrained(load_weights(policy, dtype=config.policy.dtype), str(adapter))
    model.merge_and_unload().save_pretrained(folder)
    policy.save_protocol(folder)
    return config.model_copy(update={"policy": config.policy.model_copy(update={"model": str(folder)})})
