"""Ending a run early, with the weights of its best evaluation, and ringing its alarms.

    best/step-000012/    the weights of the best evaluation so far, as a checkpoint has them

Everything is decided from `metrics.jsonl`: a run that is resumed ends where an unbroken one would have.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from prompter.errors import UserError
from prompter.runs.files import atomic_folder
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training.alarms import END, KIND, Alarm, Watch, ending_line
from recipes.training.checkpoints import newest_checkpoint, step_of
from recipes.training.checks import window_steps
from recipes.training.ranks.checks import sharding
from recipes.training.ranks.world import Ranks


class EndedAlready(Exception):
    """A resumed run has nothing to train: the evaluation that was broken off ends it."""


def check_alarms(config: TrainConfig) -> None:
    """Refuse to end early where nothing would be seen, or the best weights could not be put back.

    Raises:
        UserError: naming the keys.
    """
    if config.alarms.stop == "never":
        return
    if config.alarms.stop == "worse" and not config.eval.every_steps:
        raise UserError(
            "alarms.stop is worse, but eval.every_steps is 0: without evaluations during training nothing "
            "shows that it gets worse. Give eval.every_steps, or take alarms.stop collapse"
        )
    if (key := sharding(config)) is not None:
        raise UserError(
            f"alarms.stop is {config.alarms.stop} and trainer.{key} is given: the best weights cannot be "
            "put back into a model that is divided among ranks. Leave one of them out"
        )


def watch_run(folder: RunFolder, config: TrainConfig) -> Watch:
    """Watch a run's metrics from now on: alarms that start are printed and written to `metrics.jsonl`.

    Lines that the folder holds already are looked at first.
    """
    watch = Watch(config.alarms)

    def ring(alarms: list[Alarm]) -> None:
        for alarm in alarms:
            if not folder.has_metrics(alarm.step, KIND + alarm.name):
                tqdm.write(f"alarm ({alarm.name}): {alarm.sentence}", file=sys.stdout)
                folder.log_metrics(alarm.step, {"says": alarm.sentence}, kind=KIND + alarm.name)

    def see(line: Mapping[str, Any]) -> None:
        ring(watch.see(line))

    watch.see_all(folder.read_metrics())
    ring(watch.alarms)
    folder.watch_metrics(see)
    return watch


class EarlyStop(TrainerCallback):
    """Keeps the weights of the best evaluation, and ends training once an alarm says so.

    Add it after the callback that evaluates. All ranks have one.

    Args:
        trainer: of the run.
        folder: of the run.
        config: of the run.
        watch: on rank 0; None on the others.
        arguments: TRL's `GRPOConfig` of the run.
        ranks: those that train together.
    """

    def __init__(
        self,
        trainer: Any,
        folder: RunFolder,
        config: TrainConfig,
        watch: Watch | None,
        arguments: Any,
        ranks: Ranks,
    ) -> None:
        self.trainer, self.folder, self.watch = trainer, folder, watch
        self.window, self.last, self.ranks = window_steps(arguments), int(arguments.max_steps), ranks
        self._is_on = config.alarms.stop != "never"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`.

        Raises:
            EndedAlready: if the evaluation of the step that the run resumes from ends it.
        """
        self.keep_if_best(state.global_step)
        if state.global_step and self.ending(state.global_step) is not None:
            raise EndedAlready

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        self.keep_if_best(state.global_step)
        if state.global_step % self.window == 0 and self.ending(state.global_step):
            control.should_save = control.should_training_stop = True
            if self.trainer.run_log is not None:
                self.trainer.run_log.total_steps = state.global_step

    def ending(self, step: int) -> Alarm | None:
        """The alarm that ends the run after this step, before its last; on all ranks."""
        if not self._is_on or step >= self.last:
            return None
        return self.ranks.tell(lambda: self._watching().ending(step))

    def keep_if_best(self, step: int) -> None:
        """Keep a copy of the weights if their evaluation, of this step, is the best so far."""
        if self._is_on:
            self.ranks.first(lambda: self._keep(step))

    def _keep(self, step: int) -> None:
        best, copy = self._watching().best, self._copy(step)
        if best is None or best[0] != step or copy.is_dir():
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with atomic_folder(copy) as unfinished:
            model.save_pretrained(unfinished, save_embedding_layers=False)
        # A run that is killed resumes from its newest checkpoint, and needs the copy that was the best then.
        saved = step_of(newest_checkpoint(self.folder.checkpoints_dir))
        for old in [one for one in kept_steps(self.folder) if one <= saved][:-1]:
            shutil.rmtree(self._copy(old))

    def take_best(self, ended: Alarm, evaluate: Callable[[int], None]) -> None:
        """Put the best weights into the model of a run that ended early; the trainer is then at their step.

        Args:
            ended: what ended it.
            evaluate: evaluates the policy as it is, after so many steps; called on all ranks if that was
                not done.
        """
        step = self.trainer.state.global_step
        if not self.ranks.tell(lambda: self.folder.has_metrics(step, "eval")):
            evaluate(step)
            self.keep_if_best(step)

        def chosen() -> int:
            best = self._watching().best
            # A run that was begun without copies has none of its earlier evaluations.
            result = best[0] if best is not None and self._copy(best[0]).is_dir() else step
            if not self.folder.has_metrics(step, END):
                figures = {"by": ended.name, "result": result, "planned": self.last}
                self.folder.log_metrics(step, figures, kind=END)
                tqdm.write(ending_line(figures, step), file=sys.stdout)
            return result

        result = self.ranks.tell(chosen)
        if result != step:
            self.trainer.restore(self._copy(result), result)

    def _copy(self, step: int) -> Path:
        return self.folder.path / "best" / f"step-{step:06d}"

    def _watching(self) -> Watch:
        assert self.watch is not None  # asked on rank 0 alone
        return self.watch


def kept_steps(folder: RunFolder) -> list[int]:
    """Steps of the evaluations whose weights a run folder holds, in order."""
    names = [path.name.removeprefix("step-") for path in (folder.path / "best").glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def forget_copies(folder: RunFolder, done: int) -> None:
    """Remove weights that a run resumed from step `done` will come to again."""
    for step in kept_steps(folder):
        if step > done:
            shutil.rmtree(folder.path / "best" / f"step-{step:06d}")
