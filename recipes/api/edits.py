"""What a user does to prompts, as a new `PromptSet`: boxes and points in arrays, as SAM's tools take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompter.errors import UserError
from prompter.types import Instance, PromptSet


def edited_prompts(
    before: Sequence[Instance], boxes: Any, points: Any, labels: Any, number: int | None
) -> PromptSet:
    """Prompts with boxes and points put in; the arguments are those of `recipes.api.result.Result.refine`.

    Raises:
        UserError: if arrays have a wrong shape, or it is not said which object is meant.
    """
    objects = list(before)
    if number is not None and not 0 <= number < len(objects):
        raise UserError(
            f"There is no object {number}: the result has {len(objects)}, numbered from 0."
            if objects
            else f"There is no object {number}: the result has none; give a box or a positive point."
        )
    drawn, marked = _array(boxes, 4, "boxes"), _array(points, 2, "points")
    if not len(drawn) and not len(marked):
        raise UserError("refine needs boxes, points or prompts.")
    on, off = _parted(marked, labels)
    try:
        if number is None:
            objects += [Instance(box=tuple(box)) for box in drawn.tolist()]
        elif len(drawn) > 1:
            raise UserError(f"Object {number} takes one box, but {len(drawn)} were given.")
        elif len(drawn):
            objects[number] = replace(objects[number], box=tuple(drawn[0].tolist()))
        if len(marked):
            _mark(objects, on, off, number)
    except ValueError as error:
        raise UserError(f"These prompts cannot be: {error}.") from None
    return PromptSet(tuple(objects))


def _mark(objects: list[Instance], on: tuple[Any, ...], off: tuple[Any, ...], number: int | None) -> None:
    """Give points to an object of the list, or make a new one of them where the list is empty."""
    if number is None and len(objects) > 1:
        raise UserError(
            f"The result would have {len(objects)} objects; say whose points these are, by object=."
        )
    if not objects:
        objects.append(Instance(None, on, off))
        return
    index = number or 0
    one = objects[index]
    objects[index] = replace(
        one,
        positive_points=(*one.positive_points, *on),
        negative_points=(*one.negative_points, *off),
    )


def _array(given: Any, columns: int, what: str) -> NDArray[np.float64]:
    """float64 [k, columns]; one row may be given bare."""
    if given is None:
        return np.zeros((0, columns))
    try:
        rows = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        rows = np.zeros(())
    if rows.shape == (columns,):
        rows = rows[None]
    if rows.size == 0:
        return np.zeros((0, columns))
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise UserError(f"{what} should be numbers [k, {columns}], but have shape {np.shape(given)}.")
    return rows


def _parted(points: NDArray[np.float64], labels: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Points on and off the object, by their labels."""
    signs = np.ones(len(points), np.int64) if labels is None else np.atleast_1d(np.asarray(labels))
    if signs.shape != (len(points),) or not np.isin(signs, (0, 1)).all():
        raise UserError(
            f"labels should be 1 (on the object) or 0 (off it) for each of the {len(points)} points, "
            f"but are {signs.tolist()}."
        )
    on, off = points[signs == 1], points[signs == 0]
    return tuple(map(tuple, on.tolist())), tuple(map(tuple, off.tolist()))
