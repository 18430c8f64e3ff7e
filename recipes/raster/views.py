"""What one window shows of one object, in pixels of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.masks import RLE, Mask, decode_rle, encode_rle, mask_to_box
from envs.rasters.windows import Rect, Window, meets, shared
from envs.rollout import Rollout
from prompter.types import Instance, PromptSet

EDGE = 2
"""Pixels from a window's edge at which an object counts as cut by it: masks may stop a little short."""


@dataclass(frozen=True)
class View:
    """An object as one window shows it.

    Args:
        window: the window, of scale 1.
        query: number of the question, from 0.
        number: of the object in the window's answer, from 0.
        box: tight box of its mask, pixels of the file.
        rle: its mask within `box`, [height, width].
        area: pixels of the mask.
        score: the segmenter's own estimate, or None.
        prompt: what the segmenter was given, pixels of the file; None if that is not known.
        is_cut: whether it reaches an edge of the window that is no edge of the file.
    """

    window: Window
    query: int
    number: int
    box: Rect
    rle: RLE
    area: int
    score: float | None
    prompt: Instance | None
    is_cut: bool

    @property
    def key(self) -> tuple[int, int, int, int]:
        """Orders views: window row, window column, question, number."""
        return (self.window.row, self.window.column, self.query, self.number)

    @property
    def name(self) -> str:
        """WINDOW.QUESTION.OBJECT, the last two counted from 1: the same whatever extent was asked for."""
        return f"{self.window.name}.{self.query + 1}.{self.number + 1}"

    def mask(self) -> Mask:
        """Its pixels, bool [height, width] of `box`."""
        return decode_rle(self.rle)


def views_of(
    rollout: Rollout, window: Window, query: int, file_wh: tuple[int, int], shown: Mask | None
) -> list[View]:
    """The objects that a window's answer found; none where it was empty or not read.

    Args:
        rollout: the answer, with a mask for each object.
        window: of scale 1.
        query: number of its question.
        file_wh: (width, height) of the raster.
        shown: pixels that hold a measurement, bool [height, width] of the window; None if all do. No object
            has others.
    """
    prompts = rollout.reading.instances if isinstance(rollout.reading, PromptSet) else ()
    found = []
    for number, rle in enumerate(rollout.predicted_instances):
        mask = decode_rle(rle, rollout.mask_hw)  # one after the other: there may be hundreds
        kept = mask if shown is None else mask & shown
        tight = mask_to_box(kept)
        if tight is None:
            continue
        left, top, right, bottom = (int(value) for value in tight)
        crop = np.ascontiguousarray(kept[top:bottom, left:right])
        x0, y0 = window.rect[:2]
        box = (x0 + left, y0 + top, x0 + right, y0 + bottom)
        score = rollout.predicted_ious[number] if number < len(rollout.predicted_ious) else None
        prompt = prompts[number] if len(prompts) == len(rollout.predicted_instances) else None
        found.append(
            View(
                window,
                query,
                number,
                box,
                encode_rle(crop),
                int(crop.sum()),
                score,
                None if prompt is None else prompt.moved(x0, y0),
                _is_cut(box, window.rect, file_wh),
            )
        )
    return found


def _is_cut(box: Rect, rect: Rect, file_wh: tuple[int, int]) -> bool:
    width, height = file_wh
    return (
        (rect[0] > 0 and box[0] < rect[0] + EDGE)
        or (rect[1] > 0 and box[1] < rect[1] + EDGE)
        or (rect[2] < width and box[2] > rect[2] - EDGE)
        or (rect[3] < height and box[3] > rect[3] - EDGE)
    )


def overlap(one: View, other: View) -> float:
    """How well two views agree where both windows look: IoU there, in [0, 1]; 0 if one has nothing."""
    if not meets(one.box, other.box):
        return 0.0
    common, both = shared(one.window.rect, other.window.rect), shared(one.box, other.box)
    first, second = one.mask(), other.mask()

    def cut(mask: Mask, view: View, rect: Rect) -> Any:
        x, y = view.box[:2]
        return mask[max(0, rect[1] - y) : max(0, rect[3] - y), max(0, rect[0] - x) : max(0, rect[2] - x)]

    same = int((cut(first, one, both) & cut(second, other, both)).sum())
    total = int(cut(first, one, common).sum()) + int(cut(second, other, common).sum())
    return same / (total - same) if same else 0.0
