"""A question about a raster, from its file to a map: looks, joins, cleans, writes."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from envs.rasters.view import RasterView
from envs.rasters.windows import Grid, Rect, Window, meets
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from recipes.raster.asking import Asking, Stage, Tally, answers_of, promising
from recipes.raster.features import Describe, Feature
from recipes.raster.outlines import Place
from recipes.raster.seams import joined
from recipes.raster.writers import WRITERS, fits_coco

AT_ONCE = 512
"""Features that are made and written together."""

COARSER = 4
"""From one scale to the next finer one, looking coarse to fine."""

SUMMARY = "raster.json"


@dataclass(frozen=True)
class Looking:
    """Where to look.

    Args:
        grid: windows at full resolution.
        extent: pixels of the file that are asked for, whole numbers; None is all.
        coarse_to_fine: look at an overview of the whole file first, and then only where it found something.
        only: windows that are worth a look at all; None is every window.
    """

    grid: Grid
    extent: Rect | None = None
    coarse_to_fine: bool = False
    only: frozenset[Window] | None = None


def look(asking: Asking, looking: Looking) -> list[Stage]:
    """Have every window that matters answered; the stages at full resolution.

    With an extent, windows beyond it are looked at, too, as long as they show a part of an object in it. So
    what is found in an extent does not depend on the extent.
    """
    grid = looking.grid
    extent = looking.extent or (0, 0, *grid.wh)
    allowed = _promised(asking, grid) if looking.coarse_to_fine else None

    def wanted(rect: Rect) -> Iterator[Window]:
        for window in grid.meeting(rect):
            if (allowed is None or allowed(window)) and (looking.only is None or window in looking.only):
                yield window

    stages: list[Stage] = []
    asked: set[Window] = set()
    fresh = sorted(wanted(extent))
    while fresh:
        stages.append(asking.stage(f"windows-{len(stages) + 1}", fresh))
        asked.update(fresh)
        if looking.extent is None:
            break
        exhaustive = looking.only is None
        answers = answers_of(stages, asking.view, asking.queries, exhaustive=exhaustive)
        more: set[Window] = set()
        for found in joined(answers, grid.wh, keep_slivers=True):
            if any(meets(view.box, extent) for view in found.seen):
                more.update(window for view in found.seen for window in wanted(view.box))
        fresh = sorted(more - asked)
    return stages


def _promised(asking: Asking, grid: Grid) -> Any:
    """Which windows of full resolution an overview, and finer looks where it found something, promise."""
    scale = max(1, -(-max(grid.wh) // grid.side))
    allowed = None
    while scale > 1:
        coarse = Grid(grid.wh, grid.side, grid.overlap, scale)
        windows = [window for window in coarse if allowed is None or allowed(window)]
        if not windows:
            return lambda window: False
        allowed = promising(asking.stage(f"scale-{scale}", windows), asking.queries)
        scale //= COARSER
    return allowed


@dataclass(frozen=True)
class Came:
    """What came of a raster.

    Args:
        tally: of the windows.
        objects: question -> objects written.
        on_seams: how many of them were seen in more than one window.
    """

    tally: Tally
    objects: dict[str, int]
    on_seams: int


def write(
    stages: Sequence[Stage],
    view: RasterView,
    place: Place,
    looking: Looking,
    describe: Describe,
    out: Path,
    parts: Sequence[str],
    *,
    skip_bad: bool = False,
    progress: bool = False,
) -> Came:
    """Join what the stages found, and write it.

    Args:
        stages: at full resolution.
        out: folder; each file in it is whole or absent at any time.
        parts: of `WRITERS`.
        skip_bad: write what there is where windows could not be segmented.
        progress: show a bar on stderr.

    Raises:
        UserError: if COCO is asked for and cannot hold a file of this size; or, without `skip_bad`, if a
            window could not be segmented: nothing is written then.
    """
    if "coco" in parts and not fits_coco(view.raster):
        raise UserError(
            f"raster {view.raster.path}: it has more pixels than COCO's run-lengths can count; leave coco "
            f"out of --write."
        )
    tally, counts, over_seams = Tally(), dict.fromkeys(describe.queries, 0), 0
    answers = answers_of(stages, view, describe.queries, exhaustive=looking.only is None, tally=tally)
    total = sum(len(stage.windows) for stage in stages) * len(describe.queries)
    answers = tqdm(answers, "joining", total, unit="window", disable=not progress)
    features = describe(joined(answers, view.raster.wh))
    with ExitStack() as stack:
        sinks = []
        for part in parts:
            name, opener = WRITERS[part]
            _clear(out, name)
            sinks.append(stack.enter_context(opener(out / name, view.raster, place, describe.queries)))
        for batch in _batches(features):
            for feature in batch:
                counts[feature.attributes["query"]] += 1
                over_seams += feature.attributes["seen"] > 1
            for sink in sinks:
                sink(batch)
        if tally.failed and not skip_bad:
            raise UserError(
                f"{len(tally.failed)} of {tally.answers} answers could not be segmented; the first: "
                f"{tally.failed[0]} Nothing was written; --skip-bad writes what there is, and lists them."
            )
    return Came(tally, counts, over_seams)


def _clear(out: Path, name: str) -> None:
    """Remove what a killed run left of a file beside it."""
    for path in out.glob(f".{name}.*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _batches(features: Iterator[Feature]) -> Iterator[list[Feature]]:
    while batch := list(itertools.islice(features, AT_ONCE)):
        yield batch


def run_id(identity: Mapping[str, Any]) -> str:
    """Eight bytes, in hex, of what was asked and how."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def write_summary(out: Path, summary: Mapping[str, Any]) -> None:
    """Write `raster.json`: what was read, how it was seen, and what came of it."""
    with atomic_write(out / SUMMARY) as handle:
        json.dump(summary, handle, indent=1, ensure_ascii=False, allow_nan=False)
        handle.write("\n")
