"""`vlmevalkit-refcoco`: the rule of VLMEvalKit's RefCOCO, which guesses the frame from the numbers."""

from __future__ import annotations

import re

from eval.bootstrap import Ratio
from eval.box_cases import NOTHING, BoxCase, BoxVerdict, centre_in, iou_with, scaled
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, box_figures
from eval.query_table import QueryTable
from prompter.types import Box

NAME = "vlmevalkit-refcoco"

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_LIST = re.compile(r"\[\s*" + r"(?:\s*,\s*|\s+)".join([f"({_NUMBER})"] * 4) + r"\s*\]")
_ANY = re.compile(_NUMBER)


def judge(case: BoxCase) -> BoxVerdict:
    """Take the first list of four numbers, else the first four numbers anywhere, in a guessed frame."""
    box = box_in(case.text, case.image_wh)
    if box is None:
        return BoxVerdict(0.0, centre_in(NOTHING, case.target), False)
    return BoxVerdict(iou_with(box, case.target), centre_in(box, case.target), True)


def box_in(text: str, image_wh: tuple[int, int]) -> Box | None:
    """The box of a text in pixels, clipped to the image, its corners in order; None if there is none.

    Numbers up to 1.5 are shares of the image, else up to 1000 thousandths, else pixels.
    """
    match = _LIST.search(text)
    found = list(match.groups()) if match else _ANY.findall(text)[:4]
    if len(found) < 4:
        return None
    numbers = [float(number) for number in found]
    largest = max(map(abs, numbers))
    extent = 1.0 if largest <= 1.5 else 1000.0
    x1, y1, x2, y2 = scaled(numbers, image_wh, extent) if largest <= 1000 else numbers
    width, height = image_wh
    x1, x2 = sorted((min(max(x1, 0.0), width), min(max(x2, 0.0), width)))
    y1, y2 = sorted((min(max(y1, 0.0), height), min(max(y2, 0.0), height)))
    return (x1, y1, x2, y2)


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Mean IoU ("Average IoU") and box-acc@0.5 ("Precision@1") over queries with one object."""
    verdicts, single = table.verdicts[NAME], table.objects == 1
    return box_figures(verdicts.ious, single, (0.5,))


PROTOCOL = ScoringProtocol(
    name=NAME,
    title="VLMEvalKit, RefCOCO: the frame is guessed",
    view=View.NATIVE,
    metrics=metrics,
    source="open-compass/VLMEvalKit vlmeval/dataset/refcoco.py at 4071697",
    quirks=(
        "Numbers up to 1000 are taken for thousandths, so pixels of a smaller image are misread.",
        "Any four numbers of an answer that does not parse are a box; swapped corners are put right.",
        "Of several boxes the first one counts.",
    ),
    judge=judge,
    reads_text=True,
    needs_masks=False,
)
