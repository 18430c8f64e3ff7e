"""`lmms-eval-multihop`: the rule of lmms-eval's task `multihopspatial`, a mean over what can be read."""

from __future__ import annotations

import re

from eval.bootstrap import Ratio
from eval.box_cases import NOTHING, BoxCase, BoxVerdict, centre_in, iou_with, scaled
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol, box_accuracy
from eval.query_table import QueryTable

NAME = "lmms-eval-multihop"

_LIST = r"\[\s*" + r"\s*,\s*".join([r"(\d+(?:\.\d+)?|\.\d+)"] * 4) + r"\s*\]"
_FORMS = (
    re.compile(r'"bbox_2d"\s*:\s*' + _LIST),
    re.compile(r"Bounding Box:\s*" + _LIST, re.IGNORECASE),
    re.compile(_LIST),
)
"""Where a box is looked for; the first form that the text has anywhere counts."""


def judge(case: BoxCase) -> BoxVerdict:
    """Take the first box of the text, as shares of the image, or as thousandths if a number exceeds 1."""
    for form in _FORMS:
        match = form.search(case.text)
        if match is not None:
            break
    else:
        return BoxVerdict(0.0, False, False)
    numbers = [float(number) for number in match.groups()]
    shares = [number / 1000 for number in numbers] if max(numbers) > 1 else numbers
    if max(shares) > 1 or shares[2] <= shares[0] or shares[3] <= shares[1]:
        return BoxVerdict(0.0, False, False)
    box = scaled(shares, case.image_wh, 1.0)
    return BoxVerdict(iou_with(box, case.target), centre_in(box, case.target or NOTHING), True)


def metrics(table: QueryTable) -> dict[str, Ratio]:
    """Mean IoU over the queries whose answer has a usable box; box-acc@0.5 over all of one object."""
    verdicts, single = table.verdicts[NAME], table.objects == 1
    readable = verdicts.read & single
    return {
        "box-IoU": Ratio.of(verdicts.ious * readable, readable, undefined=0.0),
        **box_accuracy(verdicts.ious, single, (0.5,)),
    }


PROTOCOL = ScoringProtocol(
    name=NAME,
    title="lmms-eval, multihopspatial: a mean over readable boxes",
    view=View.NATIVE,
    metrics=metrics,
    source="EvolvingLMMs-Lab/lmms-eval lmms_eval/tasks/multihopspatial/utils.py at 3dd17ca",
    quirks=(
        "Answers without a usable box are left out of the mean IoU, so failing to answer raises it.",
        "Of several boxes the first one counts.",
        "The task's multiple choice, which gates the IoU there, is taken as answered rightly.",
    ),
    judge=judge,
    reads_text=True,
    needs_masks=False,
)
