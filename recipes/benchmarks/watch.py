"""What is noted while a trainer of either kind runs: seconds of its steps, and the groups of its windows."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from envs.executors.base import Executor
from prompter.runs.run_folder import RunFolder
from recipes.benchmarks.limits import synchronise
from recipes.training.log import TrainingLog
from recipes.training.scoring import ScoredGroup
from recipes.training.window import Window


class KeepingLog(TrainingLog):
    """A run's log that keeps the groups of each window, too."""

    def __init__(self, folder: RunFolder, total_steps: int) -> None:
        super().__init__(folder, total_steps)
        self._bar.disable = True
        self.groups: list[list[ScoredGroup]] = []

    def collected(self, step: int, window: Window, sampler_version: int) -> None:
        """See `TrainingLog.collected`."""
        super().collected(step, window, sampler_version)
        self.groups.append(window.all_groups)


class Stopwatch(TrainerCallback):
    """Seconds of every optimiser step with its rollouts, and images encoded after the first steps."""

    def __init__(self, device: str, executor: Executor, first: int) -> None:
        self.device, self.executor, self.first = device, executor, first
        self.seconds: list[float] = []
        self._started = 0.0
        self._before = 0

    @property
    def encodes(self) -> int:
        """Images that were encoded after the first `first` steps."""
        return int(self.executor.counters.encodes) - self._before

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        if len(self.seconds) == self.first:
            self._before = int(self.executor.counters.encodes)
        synchronise(self.device)
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it when the device is done."""
        synchronise(self.device)
        self.seconds.append(time.perf_counter() - self._started)
