"""`lmms-eval-groundingme`: the rule of lmms-eval's task `groundingme`, best of four frames."""

from __future__ import annotations

import json
import re

from eval.bootstrap import Ratio
from eval.box_cases import NOTHING, BoxCase, BoxVerdict, best_of, box_of, centre_in, scaled
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, box_figures
from eval.query_table import QueryTable
from prompter.coords import fit_size
from prompter.types import Box

NAME = "lmms-eval-groundingme"

_KEY = '"bbox_2d"'
_FOUR = re.compile(r"[\s,]+".join([r"(-?\d+(?:\.\d+)?)"] * 4))
_RESIZES = ((28 * 28 * 8, 28 * 28 * 4096), (4 * 28 * 28, 16384 * 28 * 28))
"""(min_pixels, max_pixels) of the two processors whose frames are tried: MiMo-VL's and Qwen2.5-VL's."""


def judge(case: BoxCase) -> BoxVerdict:
    """Take the frame of four that fits the one box best; without a target, only no box at all is right."""
    box = box_in(case.text)
    read = box != NOTHING
    if case.target is None:
        return BoxVerdict(float(not read), centre_in(box, NOTHING), read)
    box, iou = best_of(frames_of(box, case.image_wh), case.target)
    return BoxVerdict(iou, centre_in(box, case.target), read)


def box_in(text: str) -> Box:
    """The box under `bbox_2d` of the text's one JSON object, else its last four numbers, else `NOTHING`."""
    start, end = text.find("{"), text.rfind("}")
    key = text.find(_KEY, start + 1)
    if -1 < start < key < end:
        try:
            value = json.loads(text[start : end + 1])["bbox_2d"]
            if value is None:
                return NOTHING
            if isinstance(value, list) and len(value) == 4:
                return box_of(value)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            pass  # no object of that form: the numbers of the text are taken
    last = NOTHING
    for match in _FOUR.finditer(text):
        last = box_of(match.groups())
    return last


def frames_of(box: Box, image_wh: tuple[int, int]) -> list[Box]:
    """The box taken as pixels, as shares of 1 or 999, and as pixels of two resized images.

    Images thinner than the processors' 28 pixels are resized by today's rule, not by MiMo-VL's.
    """
    frames = [box, scaled(box, image_wh, 1.0 if all(number <= 1 for number in box) else 999.0)]
    for smallest, largest in _RESIZES:
        try:
            model_wh = fit_size(image_wh, factor=28, min_pixels=smallest, max_pixels=largest)
        except ValueError:  # too thin for either processor
            continue
        # Height by width there and here: x is divided by the resized image's height.
        frames.append(scaled(box, image_wh, (float(model_wh[1]), float(model_wh[0]))))
    return frames


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Mean IoU, shares of IoU >= t and hits of the box's centre, over queries with at most one object."""
    verdicts, counted = table.verdicts[NAME], table.objects <= 1
    return box_figures(verdicts.ious, counted, (0.5, 0.75, 0.9), verdicts.centres)


PROTOCOL = ScoringProtocol(
    name=NAME,
    title="lmms-eval, groundingme: best of four frames",
    view=View.NATIVE,
    metrics=metrics,
    source="EvolvingLMMs-Lab/lmms-eval lmms_eval/tasks/groundingme/utils.py at 220ad5d",
    quirks=(
        "The box is tried in four frames; the one nearest to the truth counts.",
        "An answer without any four numbers counts as a right rejection of an empty target.",
        "Of several boxes the last one counts.",
        "Width and height of the resized images are mixed up, so those frames are right for squares only.",
    ),
    judge=judge,
    reads_text=True,
    needs_masks=False,
)
