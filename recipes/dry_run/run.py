"""All checks of a dry run, in the order in which a run would need things."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from envs.executors.config import ExecutorConfig
from envs.sample import SampleSource
from recipes.config import TrainConfig
from recipes.dry_run import data, sizes
from recipes.dry_run.findings import Finding, NotHere, checked
from recipes.dry_run.policy import KnownPolicy, adapters_found, known_policy, weights_follow
from recipes.dry_run.presence import executor_weights
from recipes.training.checks import executor_configs
from recipes.training.early_stop import check_alarms
from recipes.training.held_out import check_references
from rewards.registry import build_reward

Thing = TypeVar("Thing")


def dry_run(config: TrainConfig, *, resume: bool = False) -> list[Finding]:
    """Check what can be checked without starting: nothing is fetched, written, or loaded onto a device.

    Args:
        config: the run.
        resume: whether it would be continued.
    """
    with ExitStack() as opened:
        run = _Run(config, opened)
        checks: list[tuple[str, Callable[[], str]]] = [
            ("run folder", partial(sizes.run_folder, config, resume)),
            ("rewards", run.rewards),
            ("references", run.references),
            ("alarms", run.alarms),
            ("policy", run.policy),
            *[("segmenter", partial(_segmenter, one)) for one in executor_configs(config)],
            ("training set", run.training_set),
            ("held-out set", run.held_out_set),
            ("frame, training", run.training_frame),
            ("frame, held-out", run.held_out_frame),
            ("trainer keys", run.trainer_keys),
            ("sizes", run.sizes),
            ("adapters", run.adapters),
            ("weights follow", run.weights),
            ("engines", partial(sizes.engines, config)),
            ("devices", partial(sizes.devices, config)),
            ("Ray", partial(sizes.cluster, config)),
            ("memory", run.memory),
        ]
        return [checked(what, check) for what, check in checks]


class _Run:
    """The checks that need what an earlier one has found; each returns what it found, in words."""

    def __init__(self, config: TrainConfig, opened: ExitStack) -> None:
        self.config, self._opened = config, opened
        self._known: KnownPolicy | None = None
        self._training: SampleSource | None = None
        self._held_out: SampleSource | None = None
        self._arguments: Any = None

    def rewards(self) -> str:
        weights = build_reward(self.config.rewards).weights
        return ", ".join(f"{name} x {weight:g}" for name, weight in weights.items())

    def references(self) -> str:
        check_references(self.config)
        return ", ".join(self.config.eval.references) or "none"

    def alarms(self) -> str:
        check_alarms(self.config)
        return f"ends early: {self.config.alarms.stop}"

    def policy(self) -> str:
        self._known = known = self._opened.enter_context(known_policy(self.config))
        image = known.policy.settings.image
        shown = f"{image.side} x {image.side}" if image.side else f"at most {image.max_pixels:,} pixels"
        says = f"{known.says}; frame {known.policy.frame_kind}, images {shown}"
        if known.lacks:
            raise NotHere(f"{known.lacks}; {says}")
        return says

    def training_set(self) -> str:
        self._training = data.open_here(self.config.dataset)
        data.check_masks(self._training, self.config.rewards)
        return data.counted(self._training, self.config.dataset.name)

    def held_out_set(self) -> str:
        self._held_out = data.open_here(self.config.held_out)
        said = [data.counted(self._held_out, self.config.held_out.name)]
        for name, other in self.config.other_sets.items():
            said.append(f"{name}: {data.counted(data.open_here(other), other.name)}")
        return "; ".join(said)

    def training_frame(self) -> str:
        return data.round_trip(_need(self._training, "the training set"), self._policy().policy)

    def held_out_frame(self) -> str:
        return data.round_trip(_need(self._held_out, "the held-out set"), self._policy().policy)

    def trainer_keys(self) -> str:
        settings = self.config.policy.settings if self._known is None else self._known.policy.settings
        self._arguments = one = sizes.trainer_arguments(self.config, settings.max_new_tokens)
        kind = "bfloat16" if one.bf16 else "float16" if one.fp16 else "float32"
        return f"TRL takes them: learning rate {one.learning_rate:g}, {kind}, loss {one.loss_type}"

    def sizes(self) -> str:
        samples = None if self._training is None else len(self._training)
        return sizes.sizes(self.config, _need(self._arguments, "trainer keys that TRL takes"), samples)

    def adapters(self) -> str:
        return adapters_found(self.config, self._policy())

    def weights(self) -> str:
        return weights_follow(self.config, self._policy())

    def memory(self) -> str:
        self._policy()  # else the estimator would ask the hub for its shape
        return sizes.memory(self.config)

    def _policy(self) -> KnownPolicy:
        return _need(self._known, "the policy's files, or a shape that is known")


def _segmenter(config: ExecutorConfig) -> str:
    return f"{config.name}: {executor_weights(config)}"


def _need(found: Thing | None, what: str) -> Thing:
    if found is None:
        raise NotHere(f"cannot be checked without {what}")
    return found
