"""Trackers mirror a run: TensorBoard, Weights & Biases and trackio get every figure, and a few pictures.

The run folder stays the record (`trainer.report_to: none` leaves trackers out). A tracker follows the lines
of `metrics.jsonl`: each number becomes `KIND/NAME`, nested ones `KIND/NAME/PART`, at its optimiser step.
After each evaluation four held-out questions, always the same, are shown with prediction, prompts and the
true outline. Keys come from the environment alone. A tracker that fails is told once and left out; training
goes on.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from envs.masks import decode_rle
from envs.rollout import Rollout
from envs.sample import SampleSource
from eval.report.overlays import draw_panel
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.types import PromptSet
from recipes.api.shapes import optional_import
from rewards.replay import read_rollouts

PICTURES = 4
"""Held-out questions that are shown after each evaluation."""

SIDE = 384
"""Longer side of a picture, pixels."""


class Tracker(ABC):
    """Where figures and pictures of one run go.

    Args:
        folder: where it may keep what it keeps.
        run: name of the run.
        done: optimiser steps done before, when a run is resumed.
    """

    @abstractmethod
    def __init__(self, folder: Path, run: str, done: int) -> None: ...

    @staticmethod
    @abstractmethod
    def check() -> None:
        """Raise a `UserError` where it cannot be opened, as far as can be known before any work."""

    @abstractmethod
    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name, of optimiser step `step`."""

    @abstractmethod
    def picture(self, step: int, name: str, image: Image.Image, caption: str) -> None:
        """Take a picture, PIL RGB."""

    @abstractmethod
    def close(self) -> None:
        """Write what is still to be written."""


class TensorBoard(Tracker):
    """Event files in `trackers/tensorboard` of the run folder: `tensorboard --logdir runs`."""

    @staticmethod
    def check() -> None:
        optional_import("tensorboard", "trainer.report_to tensorboard", "trackers")

    def __init__(self, folder: Path, run: str, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier try wrote after the step that is resumed from is hidden.
        self._writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Image.Image, caption: str) -> None:
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")
        self._writer.add_text(f"{name}/question", caption, step)

    def close(self) -> None:
        self._writer.close()


class Wandb(Tracker):
    """A run of Weights & Biases in project `WANDB_PROJECT`, or "prompter"; `WANDB_MODE=offline` needs no key.

    Raises:
        UserError: if there is no key in `WANDB_API_KEY`, and `WANDB_MODE` does without.
    """

    @staticmethod
    def check() -> None:
        optional_import("wandb", "trainer.report_to wandb", "trackers")
        if os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
            if not os.environ.get("WANDB_API_KEY"):
                raise UserError(
                    "trainer.report_to wandb needs a key in the environment: set WANDB_API_KEY, or "
                    "WANDB_MODE=offline to keep the run in its folder."
                )

    def __init__(self, folder: Path, run: str, done: int) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "prompter"),
            name=run,
            id=_identity(folder, run),
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        # Of its own axis, because wandb drops what comes with a step that is over, as after a resumption.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def picture(self, step: int, name: str, image: Image.Image, caption: str) -> None:
        self._run.log({name: self._wandb.Image(image, caption=caption), "step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio(Tracker):
    """A run of trackio, in project `TRACKIO_PROJECT`, or "prompter"."""

    @staticmethod
    def check() -> None:
        if importlib.util.find_spec("trackio") is None:
            raise UserError("trainer.report_to trackio needs trackio: pip install trackio.")

    def __init__(self, folder: Path, run: str, done: int) -> None:
        trackio = importlib.import_module("trackio")
        self._trackio = trackio
        trackio.init(project=os.environ.get("TRACKIO_PROJECT", "prompter"), name=run, resume="allow")

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: Image.Image, caption: str) -> None:
        self._trackio.log({name: self._trackio.Image(image, caption=caption)}, step=step)

    def close(self) -> None:
        self._trackio.finish()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}
"""Name in `trainer.report_to` -> tracker. Other names go to TRL, which reports its own figures there."""


def parted(report_to: Any) -> tuple[list[str], Any]:
    """What `trainer.report_to` names: those of `TRACKERS`, and the rest as TRL takes it."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    others = [name for name in names if name not in TRACKERS]
    return [name for name in names if name in TRACKERS], others or "none"


def check_trackers(report_to: Any) -> None:
    """Refuse trackers that cannot be opened, before any work.

    Raises:
        UserError: saying what to install, or which variable to set.
    """
    for name in parted(report_to)[0]:
        TRACKERS[name].check()


class Mirror:
    """All trackers of a run.

    Args:
        folder: of the run; each tracker keeps what it keeps in `trackers/NAME`. Lines that are there already
            are mirrored first where a tracker is new.
        names: of `TRACKERS`.
        done: optimiser steps done before, when a run is resumed.

    Raises:
        UserError: if a tracker cannot be opened.
    """

    def __init__(self, folder: RunFolder, names: Sequence[str], done: int = 0) -> None:
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            place = folder.path / "trackers" / name
            is_new = not place.exists()
            place.mkdir(parents=True, exist_ok=True)
            try:
                self._trackers[name] = TRACKERS[name](place, folder.path.resolve().name, done)
            except UserError:
                raise
            except Exception as error:
                raise UserError(f"trainer.report_to {name} cannot be opened: {error}") from error
            for line in folder.read_metrics() if is_new else ():
                self._each(lambda tracker, line=line: _follow(tracker, line), only=name)
        folder.watch_metrics(lambda line: self._each(lambda tracker: _follow(tracker, line)))

    def show(self, step: int, files: Mapping[str, Path], samples: SampleSource) -> None:
        """Show held-out questions as the first segmenter drew them.

        Args:
            step: of the policy that was evaluated.
            files: rollouts by segmenter, of the first samples, in their order.
            samples: what was asked.
        """
        if not self._trackers:
            return
        file = next(iter(files.values()))
        with file.open("rb") as handle:
            count = sum(1 for _ in handle)  # of those that were asked, perhaps fewer than there are
        chosen = range(0, count, max(1, count // PICTURES))[:PICTURES]
        for number, rollout in enumerate(read_rollouts(file)):
            if number in chosen:
                image = draw(rollout, samples[number].load_image())
                name = f"eval/pictures/{number}"
                self._each(
                    lambda tracker, image=image, rollout=rollout, name=name: tracker.picture(
                        step, name, image, rollout.query
                    )
                )

    def close(self) -> None:
        """Close all trackers; safe to call twice."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, do: Any, only: str | None = None) -> None:
        for name, tracker in list(self._trackers.items()):
            if only not in (None, name):
                continue
            try:
                do(tracker)
            except Exception as error:  # a tracker's network or disk is no reason to lose a run
                del self._trackers[name]
                tqdm.write(
                    f"warning: trainer.report_to {name} failed ({type(error).__name__}: {error}); the run "
                    f"goes on without it, and metrics.jsonl has every figure.",
                    file=sys.stderr,
                )


def _follow(tracker: Tracker, line: Mapping[str, Any]) -> None:
    """Hand the numbers of a line of `metrics.jsonl` to a tracker."""
    rest = {key: value for key, value in line.items() if key not in ("step", "kind")}
    values = dict(numbers(rest, line["kind"]))
    if values:
        tracker.figures(line["step"], values)


def numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """The finite numbers in nested mappings and lists, each by its path with slashes; lists count from 0."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from numbers(one, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for place, one in enumerate(value):
            yield from numbers(one, f"{name}/{place}")
    elif isinstance(value, int | float) and math.isfinite(value):
        yield name, float(value)


def draw(rollout: Rollout, image: Image.Image) -> Image.Image:
    """A rollout's image with prediction, prompts and the true outline: PIL RGB, `SIDE` on its longer side."""
    masks = [
        None if rle is None else decode_rle(rle, rollout.mask_hw)
        for rle in (rollout.prediction, rollout.target)
    ]
    prompts = rollout.reading if isinstance(rollout.reading, PromptSet) else None
    return draw_panel(image, predicted=masks[0], true=masks[1], prompts=prompts, long_side=SIDE)


def _identity(folder: Path, run: str) -> str:
    """The same for a run in a folder whenever it is resumed, another for the next folder of that name."""
    return f"{run}-{zlib.crc32(str(folder.resolve()).encode()):08x}"
