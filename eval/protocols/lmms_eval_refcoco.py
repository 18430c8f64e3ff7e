"""`lmms-eval-refcoco`: the rule of lmms-eval's task `refcoco_grounding`, best box of both frames."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from eval.bootstrap import Ratio
from eval.box_cases import BoxCase, BoxVerdict, best_of, box_of, centre_in, scaled
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, box_figures
from eval.query_table import QueryTable
from prompter.types import Box

NAME = "lmms-eval-refcoco"
KEYS = ("bbox_2d", "bbox", "box", "coordinates", "coord", "location", "position")
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_FOUR = re.compile(r"\[?\s*" + r"\s*[,\s]\s*".join([_NUMBER] * 4) + r"\s*\]?")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)


def judge(case: BoxCase) -> BoxVerdict:
    """Take the box that fits best, of all boxes in the text, each as pixels and as thousandths."""
    found = boxes_in(case.text)
    both = [frame for box in found for frame in (box, scaled(box, case.image_wh, 1000.0))]
    box, iou = best_of(both, case.target)
    return BoxVerdict(iou, centre_in(box, case.target), bool(found))


def boxes_in(text: str) -> list[Box]:
    """All boxes in the JSON of a text, whatever its structure; without one, all runs of four numbers."""
    boxes = list(_boxes_of(_json_in(text)))
    if boxes:
        return boxes
    return [box_of(match.groups()) for match in _FOUR.finditer(text)]


def _json_in(text: str) -> Any:
    """The first fenced block, else the text, else from its first `[` to its last `]`, else its braces."""
    text = text.strip()
    fenced = _FENCE.search(text)
    tried = [fenced.group(1)] if fenced else []
    tried.append(text)
    for opening, closing in ("[]", "{}"):
        start, end = text.find(opening), text.rfind(closing)
        if -1 < start < end:
            tried.append(text[start : end + 1])
    for one in tried:
        try:
            return json.loads(one)
        except (ValueError, RecursionError):
            continue
    return None


def _boxes_of(value: Any) -> Iterator[Box]:
    waiting = [value]
    while waiting:  # without recursion: the text decides how deep it is
        one = waiting.pop()
        if isinstance(one, list):
            if _is_four_numbers(one):
                yield box_of(one)
            else:
                waiting += reversed(one)
        elif isinstance(one, dict):
            named = [box_of(one[key]) for key in KEYS if key in one and _are_numbers(one[key])]
            if named:
                yield named[0]
            else:
                waiting += reversed(list(one.values()))


def _is_four_numbers(value: list[Any]) -> bool:
    return len(value) == 4 and all(isinstance(number, int | float) for number in value)


def _are_numbers(value: Any) -> bool:
    """Whether a value is a list of four things that `float` takes, numbers as text included."""
    if not isinstance(value, list) or len(value) != 4:
        return False
    try:
        box_of(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Mean IoU, shares of IoU >= t, and how often the box's centre hits, over queries with one object."""
    verdicts, single = table.verdicts[NAME], table.objects == 1
    return box_figures(verdicts.ious, single, THRESHOLDS, verdicts.centres)


PROTOCOL = ScoringProtocol(
    name=NAME,
    title="lmms-eval, refcoco_grounding: best box of both frames",
    view=View.NATIVE,
    metrics=metrics,
    source="EvolvingLMMs-Lab/lmms-eval lmms_eval/tasks/refcoco_grounding/utils.py at 45c766f",
    quirks=(
        "Every box in the text is tried as pixels and as thousandths; the one nearest to the truth counts.",
        "Boxes are dug out of answers that do not parse: any four numbers in a row are one.",
        "More boxes are never worse than fewer, so answering many is rewarded.",
    ),
    judge=judge,
    reads_text=True,
    needs_masks=False,
)
