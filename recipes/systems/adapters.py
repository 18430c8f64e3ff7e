"""What the systems share, in the keys of the command that trains each: one small adapter a command."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from envs.datasets import split_name
from prompter.runs.config import StrictModel, load_config_model
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.cold_start.config import ColdStartConfig
from recipes.cold_start.train import HISTORY, export_folder
from recipes.config import TrainConfig
from recipes.elisa.config import ElisaConfig
from recipes.elisa.train import METRICS as ELISA_METRICS
from recipes.elisa.train import POLICY as ELISA_POLICY
from recipes.planning.trainer import planned_completions
from recipes.seg_token.config import SegTokenConfig
from recipes.seg_token.train import METRICS as SEG_TOKEN_METRICS
from recipes.seg_token.train import POLICY as SEG_TOKEN_POLICY
from recipes.seg_token.train import trained_to_the_end
from recipes.shipped import config_path
from recipes.study.table import busy_seconds, logged_minutes
from recipes.systems.config import SystemsConfig
from recipes.trainer_states import last_state

_ANSWERS = "recipes.cold_start.answers:open_answers"


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Args:
        policy: checkpoint that it starts from.
        answers: folder of the `prompter train` run whose best answers it imitates; None for one that learns
            from the study's own set.
    """

    policy: str
    answers: Path | None = None


class Adapter(ABC):
    """How one command is told what the systems share, and where it leaves what.

    Class attributes:
        model: what its config is read into.
        folder_key: the key of a run's folder.
        policy: where in that folder the trained policy is.
        prefix: of that path in `prompter eval --policy`.
        own_masks: whether the policy brings its own masks, so that nothing executes its prompts.
        states: pattern of what a broken-off run goes on from, in its folder.
        takes_resume: whether `--resume` may be said of a run that has no such state.
    """

    model: ClassVar[type[StrictModel]]
    folder_key: ClassVar[str] = "output_dir"
    policy: ClassVar[str]
    prefix: ClassVar[str] = ""
    own_masks: ClassVar[bool] = True
    states: ClassVar[str] = "trainer/checkpoint-*/trainer_state.json"
    takes_resume: ClassVar[bool] = False

    @abstractmethod
    def shared(self, study: SystemsConfig, start: Start) -> dict[str, Any]:
        """Dotted keys of the command's config, and their values: what no arm may have otherwise."""

    def trained(self, folder: Path, config: Any) -> Path:
        """Where a run leaves the trained policy."""
        return folder / self.policy

    def usual(self, study: SystemsConfig) -> dict[str, Any]:
        """Dotted keys that the study sets and an arm may set otherwise."""
        return {}

    @abstractmethod
    def questions(self, config: Any) -> int:
        """Questions that a run is asked while it trains, repeats counted."""

    def completions(self, config: Any) -> int:
        """Completions that a run samples while it trains."""
        return 0

    def finished(self, folder: Path, config: Any) -> bool:
        """Whether a run was trained to its end."""
        return self.trained(folder, config).is_dir()

    @abstractmethod
    def minutes(self, folder: Path) -> float | None:
        """Minutes that a finished run was at work on training; None if it has not kept them."""


class TrainAdapter(Adapter):
    """`prompter train`: GRPO."""

    model = TrainConfig
    folder_key = "run_dir"
    policy = "checkpoints/final"
    own_masks = False
    takes_resume = True

    def shared(self, study: SystemsConfig, start: Start) -> dict[str, Any]:
        """See `Adapter.shared`."""
        return {
            "policy.model": start.policy,
            "dataset.name": study.dataset.name,
            "dataset.split": study.dataset.split,
            "dataset.options": study.dataset.options,
            **_under("executor", study.executor),
        }

    def usual(self, study: SystemsConfig) -> dict[str, Any]:
        """See `Adapter.usual`: the run's own evaluations ask what all systems are asked in the end."""
        name, split = split_name(study.questions.benchmark)
        return {
            "eval.dataset": name,
            "eval.split": split,
            "eval.options": study.questions.options,
            "eval.samples": study.questions.limit,
            "eval.references": [],
            "eval.others": {},
            "eval.every_steps": 0,
            "alarms.stop": "never",
        }

    def questions(self, config: TrainConfig) -> int:
        """See `Adapter.questions`."""
        return self.completions(config) // int(config.trainer["num_generations"])

    def completions(self, config: TrainConfig) -> int:
        """See `Adapter.completions`; 0 where `trainer.max_steps` is not given."""
        return planned_completions(config) or 0

    def minutes(self, folder: Path) -> float | None:
        """See `Adapter.minutes`; evaluations are left out."""
        return busy_seconds(RunFolder(folder).read_timeline()) / 60


class SupervisedAdapter(Adapter):
    """A command that learns from labels: `steps` of `batch_size` questions, minutes in its log.

    Class attributes:
        policy_key, executor_key: keys of the checkpoint that it starts from, and of its frozen segmenter;
            None where it has none.
        metrics: file of its log.
    """

    policy_key: ClassVar[str]
    executor_key: ClassVar[str | None] = None
    metrics: ClassVar[str]

    def shared(self, study: SystemsConfig, start: Start) -> dict[str, Any]:
        """See `Adapter.shared`."""
        return {
            self.policy_key: start.policy,
            "dataset": study.dataset.name,
            "split": study.dataset.split,
            "options": study.dataset.options,
            **({} if self.executor_key is None else _under(self.executor_key, study.executor)),
        }

    def questions(self, config: Any) -> int:
        """See `Adapter.questions`."""
        return int(config.steps * config.batch_size)

    def minutes(self, folder: Path) -> float | None:
        """See `Adapter.minutes`."""
        path = folder / self.metrics
        return logged_minutes(read_lines(path)) if path.exists() else None


class SegTokenAdapter(SupervisedAdapter):
    """`prompter seg-token`: embedding-as-mask."""

    model = SegTokenConfig
    policy = SEG_TOKEN_POLICY
    prefix = "seg-token:"
    policy_key, executor_key, metrics = "init", "executor", SEG_TOKEN_METRICS

    def finished(self, folder: Path, config: SegTokenConfig) -> bool:
        """See `Adapter.finished`."""
        return trained_to_the_end(folder, config.steps)


class ElisaAdapter(SupervisedAdapter):
    """`prompter elisa`: a choice among proposed masks, whose minutes count those that it proposed itself."""

    model = ElisaConfig
    policy = ELISA_POLICY
    prefix = "elisa:"
    policy_key, executor_key, metrics = "policy", "proposer.executor", ELISA_METRICS


class ColdStartAdapter(SupervisedAdapter):
    """`prompter cold-start`: answers imitated, those of the set's labels or the best of a run of GRPO."""

    model = ColdStartConfig
    own_masks = False
    states = f"trainer/checkpoint-*/{HISTORY}"
    policy_key = "init"

    def shared(self, study: SystemsConfig, start: Start) -> dict[str, Any]:
        """See `Adapter.shared`. A run's answers bring their set with them; how good they have to be is the
        arm's to say (`options.floor`)."""
        if start.answers is None:
            return super().shared(study, start)
        return {self.policy_key: start.policy, "dataset": _ANSWERS, "options.runs": [str(start.answers)]}

    def trained(self, folder: Path, config: ColdStartConfig) -> Path:
        """See `Adapter.trained`: the export of the last step."""
        return export_folder(folder, config.steps)

    def minutes(self, folder: Path) -> float | None:
        """See `Adapter.minutes`; probes are counted."""
        if not any(folder.glob(self.states)):
            return None
        history = last_state(folder, whole=HISTORY) / HISTORY
        return float(json.loads(history.read_text(encoding="utf-8"))[-1]["minutes"])


ADAPTERS: Mapping[str, Adapter] = {
    "train": TrainAdapter(),
    "cold-start": ColdStartAdapter(),
    "seg-token": SegTokenAdapter(),
    "elisa": ElisaAdapter(),
}
"""By the command that trains."""


def load_base(adapter: Adapter, base: str, overrides: list[str]) -> Any:
    """The config of a run: a command's config file with overrides.

    Raises:
        UserError: as `prompter.runs.config.load_config_model`.
    """
    path = config_path(base) if adapter.model is TrainConfig else Path(base)
    return load_config_model(adapter.model, path, overrides)


def _under(section: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as dotted keys of a section, so that its other keys stay what the base says."""
    return {f"{section}.{key}": value for key, value in fields.items()}
