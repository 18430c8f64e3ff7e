"""Objects on seams come out once: what neighbouring windows show of the same object is joined.

Windows overlap. Two views of one question are the same object if they agree (IoU above 0.5) where both
windows look; as objects in one window are apart, a view agrees with one object of another window at most.
Of the views of an object

* one that no window's edge cuts shows all of it; the one nearest to the centre of its window is taken alone;
* where all are cut, the object is larger than the overlap, and their union is taken, without those that
  another window shows with more around them.

A view that is cut, while another window shows the place whole and has read no such object there, is a
sliver that the neighbour knows better, and is left out.

Only windows that later ones can still overlap are held, so memory grows with a row of windows, not with the
file.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from envs.rasters.windows import Rect, Window, contains, meets, shared
from recipes.raster.views import EDGE, View, overlap

SAME = 0.5
"""IoU above which two views are of one object."""


@dataclass(frozen=True)
class FoundObject:
    """An object of the raster.

    Args:
        views: whose union it is, in order; at least one.
        seen: all views of it, in order.
    """

    views: tuple[View, ...]
    seen: tuple[View, ...]

    @property
    def main(self) -> View:
        """The view with most of it."""
        return max(self.views, key=lambda view: view.area)

    @property
    def box(self) -> Rect:
        """Tight box in pixels of the file."""
        boxes = [view.box for view in self.views]
        return (
            min(box[0] for box in boxes),
            min(box[1] for box in boxes),
            max(box[2] for box in boxes),
            max(box[3] for box in boxes),
        )


@dataclass(frozen=True)
class WindowAnswer:
    """What a window's answer to one question found.

    Args:
        window: the window.
        query: number of the question.
        views: its objects.
        is_read: whether there was an answer that could be read and segmented.
    """

    window: Window
    query: int
    views: tuple[View, ...]
    is_read: bool


class Seams:
    """Joins views, given window by window, row by row.

    Args:
        file_wh: (width, height) of the raster.
        keep_slivers: give objects of which only slivers are known, too, as if they were none.
    """

    def __init__(self, file_wh: tuple[int, int], *, keep_slivers: bool = False) -> None:
        self._wh, self._keep_slivers = file_wh, keep_slivers
        self._row = -1
        self._live: list[WindowAnswer] = []
        self._groups: dict[tuple[int, ...], list[View]] = {}  # a view's key -> the group it is in
        self._read: dict[int, list[Window]] = {}  # question -> windows with an answer, of the last rows

    def add(self, answer: WindowAnswer) -> Iterator[FoundObject]:
        """Take the next answer; give the objects that no later one can add to, in order."""
        window = answer.window
        if window.row != self._row:
            self._row = window.row
            yield from self._finished(window.rect[1])
        for view in answer.views:
            self._groups[view.key] = [view]
        for other in self._live:
            if other.query == answer.query and meets(other.window.rect, window.rect):
                both = shared(other.window.rect, window.rect)
                here = [view for view in answer.views if meets(view.box, both)]
                there = [view for view in other.views if meets(view.box, both)] if here else []
                for view, seen in itertools.product(here, there):
                    if overlap(view, seen) > SAME:
                        self._join(view, seen)
        self._live.append(answer)
        if answer.is_read:
            self._read.setdefault(answer.query, []).append(window)

    def finish(self) -> Iterator[FoundObject]:
        """Give the objects that are left, in order."""
        yield from self._finished(self._wh[1])

    def _join(self, one: View, other: View) -> None:
        first, second = self._groups[one.key], self._groups[other.key]
        if first is not second:
            first.extend(second)
            for view in second:
                self._groups[view.key] = first

    def _finished(self, top: int) -> Iterator[FoundObject]:
        """Objects of which no view reaches below `top`, where windows begin from now on."""
        self._live = [one for one in self._live if one.window.rect[3] > top]
        done = {
            id(group): group
            for group in self._groups.values()
            if all(view.window.rect[3] <= top for view in group)
        }
        for group in sorted(done.values(), key=lambda group: min(view.key for view in group)):
            for view in group:
                del self._groups[view.key]
            seen = sorted(group, key=lambda view: view.key)
            found = chosen(seen, self._read, self._wh)
            if found is None and self._keep_slivers:
                found = FoundObject(tuple(seen), tuple(seen))
            if found is not None:
                yield found
        held = min((view.window.rect[1] for group in self._groups.values() for view in group), default=top)
        for query, windows in self._read.items():
            self._read[query] = [window for window in windows if window.rect[3] > held]


def chosen(seen: list[View], read: dict[int, list[Window]], file_wh: tuple[int, int]) -> FoundObject | None:
    """The object that views show, by the rules of this module; None if all are slivers.

    Args:
        seen: its views, in order.
        read: question -> windows near it with an answer.
        file_wh: (width, height) of the raster.
    """
    whole = [view for view in seen if not view.is_cut]
    if whole:
        return FoundObject((min(whole, key=_off_centre),), tuple(seen))
    windows = read.get(seen[0].query, [])
    kept = [view for view in seen if not _is_sliver(view, windows, file_wh)]
    return FoundObject(tuple(kept), tuple(seen)) if kept else None


def _off_centre(view: View) -> tuple[float, tuple[int, ...]]:
    x = view.box[0] + view.box[2] - view.window.rect[0] - view.window.rect[2]
    y = view.box[1] + view.box[3] - view.window.rect[1] - view.window.rect[3]
    return (max(abs(x), abs(y)), view.key)


def _is_sliver(view: View, windows: Collection[Window], file_wh: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = view.box
    wanted = (
        max(0, x0 - EDGE), max(0, y0 - EDGE), min(file_wh[0], x1 + EDGE), min(file_wh[1], y1 + EDGE)
    )  # fmt: skip
    return any(window != view.window and contains(window.rect, wanted) for window in windows)


def joined(
    answers: Iterable[WindowAnswer], file_wh: tuple[int, int], *, keep_slivers: bool = False
) -> Iterator[FoundObject]:
    """All objects of answers that come row by row, each once; the arguments are those of `Seams`."""
    seams = Seams(file_wh, keep_slivers=keep_slivers)
    for answer in answers:
        yield from seams.add(answer)
    yield from seams.finish()
