"""Windows of a raster as questions: a stage of looking has a run folder of its own, and can be resumed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.datasets.reading.records import RecordSource
from envs.executors.base import Executor
from envs.rasters.view import RasterView
from envs.rasters.windows import Window
from envs.rollout import Rollout
from envs.sample import Sample
from eval.answerers.base import Answerer
from eval.runner import evaluate
from prompter.types import Answer, ParseFailure, PromptSet
from recipes.raster.seams import WindowAnswer
from recipes.raster.views import views_of
from rewards.replay import read_rollouts

DATASET = "raster"
"""What samples say they come from."""


@dataclass(frozen=True)
class Stage:
    """Windows that were asked about.

    Args:
        rollouts: the file of answers, window by window in the grid's order, question by question.
        windows: by name, those that were asked about.
        left_out: windows that could not be read, a sentence each.
    """

    rollouts: Path
    windows: Mapping[str, Window]
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Asking:
    """Asks about windows.

    Args:
        view: the raster as it is seen.
        queries: the questions.
        answerer: who answers.
        executors: the segmenter by its name; None takes masks that answers bring along.
        out: folder of all stages.
        identity: what makes this run this run, JSON-ready.
        chunk: questions answered together.
        skip_bad: leave out windows that cannot be read, and tell them.
        progress: show a bar on stderr.
    """

    view: RasterView
    queries: Sequence[str]
    answerer: Answerer
    executors: Mapping[str, Executor | None]
    out: Path
    identity: Mapping[str, Any]
    chunk: int
    skip_bad: bool = False
    progress: bool = False

    def stage(self, name: str, windows: Sequence[Window]) -> Stage:
        """Have all questions answered about windows, or go on where a killed run stopped.

        Args:
            name: of the stage, and of its folder.
            windows: at least one, in the grid's order.

        Raises:
            UserError: if a window cannot be read and `skip_bad` is not set, or the folder holds another run.
        """
        records = [(window, query) for window in windows for query in range(len(self.queries))]
        source = RecordSource(DATASET, "", records, self._sample, skip_bad=self.skip_bad)
        done = evaluate(
            source,
            _AllButBlank(self.answerer),
            self.executors,
            self.out / name,
            config={**self.identity, "stage": name, "windows": len(windows)},
            chunk=self.chunk,
            keep_instances=True,
            progress=self.progress,
        )
        [file] = done.rollouts.values()
        return Stage(file, {window.name: window for window in windows}, list(dict.fromkeys(source.skipped)))

    def _sample(self, record: tuple[Window, int]) -> Sample:
        window, query = record
        sample_id = window.name if len(self.queries) == 1 else f"{window.name}.q{query + 1}"
        rect = ",".join(map(str, window.rect))
        return Sample(
            sample_id,
            DATASET,
            "",
            window.name,
            window.picture_wh,
            partial(self.view.picture, window),
            self.queries[query],
            None,
            tags={"rect": rect},
        )


@dataclass(frozen=True)
class _AllButBlank:
    """An answerer that is not asked about pictures of a single colour: there is nothing in them."""

    answerer: Answerer

    @property
    def describe(self) -> Any:
        """What the answerer says of itself, for the run's folder; None where it says nothing."""
        return getattr(self.answerer, "describe", None)

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        asked = [number for number, sample in enumerate(samples) if not is_blank(sample.load_image())]
        answers = self.answerer.answer([samples[number] for number in asked]) if asked else []
        found = dict(zip(asked, answers, strict=True))
        return [found.get(number, Answer("", PromptSet())) for number in range(len(samples))]

    def close(self) -> None:
        """The answerer is closed by whoever opened it."""


def is_blank(picture: Image.Image) -> bool:
    """Whether a picture has one colour: nothing was measured there, or nothing differs."""
    return all(low == high for low, high in picture.getextrema())  # type: ignore[misc]


@dataclass
class Tally:
    """What came of the windows of all stages at full resolution, questions counted apart.

    Args:
        answers: questions asked.
        empty: answered with "there is nothing".
        unreadable: names of those whose answer could not be read, WINDOW or WINDOW.qN.
        failed: of those that could not be segmented, with the reason.
    """

    answers: int = 0
    empty: int = 0
    unreadable: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def answers_of(
    stages: Sequence[Stage],
    view: RasterView,
    queries: Sequence[str],
    *,
    exhaustive: bool = True,
    tally: Tally | None = None,
) -> Iterator[WindowAnswer]:
    """The answers of stages at scale 1, all together in the grid's order, read as they are needed.

    Args:
        exhaustive: whether an answer tells all that a window shows, as a policy's does.
        tally: counts them.
    """
    numbers = {query: number for number, query in enumerate(queries)}

    def rows(stage: Stage) -> Iterator[tuple[tuple[int, int, int], Rollout, Window]]:
        for rollout in read_rollouts(stage.rollouts):
            window = stage.windows[rollout.image_id]
            yield (window.row, window.column, numbers[rollout.query]), rollout, window

    merged: Iterable[tuple[tuple[int, int, int], Rollout, Window]] = heapq.merge(
        *map(rows, stages), key=lambda item: item[0]
    )
    for (_, _, query), rollout, window in merged:
        if tally is not None:
            _count(tally, rollout)
        shown = view.shown(window) if rollout.predicted_instances else None
        views = tuple(views_of(rollout, window, query, view.raster.wh, shown))
        is_read = exhaustive and rollout.prediction is not None
        yield WindowAnswer(window, query, views, is_read)


def _count(tally: Tally, rollout: Rollout) -> None:
    tally.answers += 1
    if isinstance(rollout.reading, ParseFailure):
        tally.unreadable.append(rollout.sample_id)
    elif rollout.executor_error is not None:
        tally.failed.append(f"window {rollout.sample_id}: {rollout.executor_error}")
    elif rollout.reading.is_empty:
        tally.empty += 1


Promise = Callable[[Window], bool]
"""Whether a window of the next finer scale is worth a look."""


def promising(stage: Stage, queries: Sequence[str], margin: float = 1 / 16) -> Promise:
    """Which windows a coarser stage makes promising: those that meet what it found, or could not tell.

    Args:
        stage: at a scale above 1.
        queries: the questions.
        margin: by which what was found is widened on all sides, as a share of the coarser window's sides.
    """
    rects = []
    for rollout in read_rollouts(stage.rollouts):
        window = stage.windows[rollout.image_id]
        if rollout.prediction is None:
            rects.append(tuple(map(float, window.rect)))
            continue
        x0, y0, x1, y1 = window.rect
        wide, high = margin * (x1 - x0), margin * (y1 - y0)
        for mask in rollout.predicted_instance_masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if rows.size:
                rects.append(
                    (
                        x0 + columns[0] * window.scale - wide,
                        y0 + rows[0] * window.scale - high,
                        x0 + (columns[-1] + 1) * window.scale + wide,
                        y0 + (rows[-1] + 1) * window.scale + high,
                    )
                )
    edges = np.array(rects, np.float64).reshape(-1, 4)

    def is_promising(window: Window) -> bool:
        x0, y0, x1, y1 = window.rect
        return bool(((edges[:, 0] < x1) & (edges[:, 2] > x0) & (edges[:, 1] < y1) & (edges[:, 3] > y0)).any())

    return is_promising
