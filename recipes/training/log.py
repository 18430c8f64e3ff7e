"""What a training run says: metrics and rollouts into its folder, a progress bar on the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from prompter.runs.run_folder import RunFolder
from recipes.training.phases import PhaseTimes
from recipes.training.saved_windows import window_records
from recipes.training.window import Window


class TrainingLog:
    """Writes one line per optimiser step to `metrics.jsonl`, one rollout file per window, and the timeline.

    Args:
        folder: the run's folder.
        total_steps: of the whole run.
        first_step: steps already done, when a run is resumed.
    """

    def __init__(self, folder: RunFolder, total_steps: int, first_step: int = 0) -> None:
        self.folder, self.total_steps = folder, total_steps
        self._pending: dict[str, Any] = {}
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def collected(self, step: int, window: Window, sampler_version: int) -> None:
        """Record a window of rollouts collected for optimiser step `step` (1 is the first)."""
        self.folder.write_step_rollouts(step, window.rollouts)
        self.folder.write_step_window(step, window_records(step, window))
        self._pending = {
            **window.metrics,
            "sampler_version": sampler_version,
            "trainer_version": step - 1,
            "staleness": step - 1 - sampler_version,
        }

    def note(self, figures: Mapping[str, Any]) -> None:
        """Add figures to the line of the window that was collected last."""
        self._pending.update(figures)

    def rollouts(self, step: int, times: PhaseTimes) -> None:
        """Record a window that no step is taken with, under the step that would begin with it."""
        self.folder.log_timeline(event.to_json() for event in times.take_events())
        record = {**self._pending, "seconds": times.take()}
        self._pending = {}
        self.folder.log_metrics(step, record, kind="rollouts")
        self._advance(record)

    def step(self, step: int, logs: Mapping[str, Any], times: PhaseTimes) -> None:
        """Record what TRL logged after optimiser step `step`, with its window and the phases since the last.

        `seconds` are sums by phase; phases of other threads went on beside the trainer's.
        """
        self.folder.log_timeline(event.to_json() for event in times.take_events())
        if "train_runtime" in logs:
            if step == self.total_steps:  # else the run was asked to stop, and is not over
                summary = {key: value for key, value in logs.items() if key.startswith("train_")}
                self.folder.log_metrics(step, summary, kind="summary")
            self.close()
            return
        # TRL's own reward figures leave out the groups that were dropped; ours do not.
        theirs = {key: value for key, value in logs.items() if "reward" not in key}
        record = {**_finite(theirs), **self._pending, "seconds": times.take()}
        self._pending = {}
        self.folder.log_metrics(step, record)
        self._advance(record)

    def _advance(self, record: Mapping[str, Any]) -> None:
        self._bar.set_postfix_str(bar_text(record), refresh=False)
        self._bar.update(1)

    def close(self) -> None:
        """End the progress bar. Safe to call twice."""
        self._bar.close()


def _finite(logs: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready numbers; NaN (TRL's mean of nothing) becomes null."""
    figures = {}
    for key, value in logs.items():
        number = value if isinstance(value, str) else float(value)
        figures[key] = None if isinstance(number, float) and not math.isfinite(number) else number
    return figures


def bar_text(record: Mapping[str, Any]) -> str:
    """What a progress bar says of a step that was logged."""
    parts = []
    if record.get("reward") is not None:
        parts.append(f"reward {record['reward']:.3f}")
    if record.get("gIoU") is not None:
        parts.append(f"gIoU {100 * record['gIoU']:.1f}")
    if record.get("rollouts"):
        parts.append(f"parse failures {100 * record['parse_failures'] / record['rollouts']:.1f}%")
    phases = ", ".join(f"{phase} {value:.1f}s" for phase, value in record["seconds"].items() if value >= 0.05)
    return "  ".join([*parts, phases])
