"""How far one answer made of several looks can be trusted, measured without a look at the target.

Four raw figures, each in [0, 1], higher for a surer answer:

- `agreement`: mean agreement (`Ballot.agreement`) of the answer with the other sampled looks. A look that was
  not read, or whose segmenter failed, agrees with nothing. A mask that is nobody's own (`vote`) is compared
  with all of them.
- `share`: share of the sampled looks that agree to at least `AGREE`, the answer's own among them.
- `predicted_iou`: the segmenter's own estimate, the mean of the answer's instances. None for "none".
- `stability`: stability of the mask as SAM defines it (`envs.executors.base.Segmentation`), the mean of the
  answer's instances. None for "none".
"""

from __future__ import annotations

import math

import numpy as np

from eval.looks.ballot import AGREE, Ballot
from eval.looks.rules import Choice

SOURCES = ("agreement", "share", "predicted_iou", "stability")
"""The raw figures by name."""

DEFAULT_SOURCE = "agreement"


def measure(ballot: Ballot, choice: Choice) -> dict[str, float | None]:
    """The raw figures of an answer, by the names in `SOURCES`; None where one has no value.

    With one sampled look that is the answer itself, there is nobody to agree: `agreement` is None.
    """
    own = choice.look in ballot.sampled and choice.mask is None
    count = len(ballot.sampled)
    if choice.mask is None:
        agreement = ballot.agreement[choice.look, 1:]
    else:
        agreement = ballot.with_mask(choice.mask)
    others = count - own
    itself = ballot.agreement[choice.look, choice.look] if own else 0.0
    look = ballot.looks[choice.look]
    stability = [value for value in look.stability if value is not None]
    return {
        "agreement": float(agreement.sum() - itself) / others if others else None,
        "share": float((agreement >= AGREE).mean()),
        "predicted_iou": _number(ballot.own_scores[choice.look]),
        "stability": float(np.mean(stability)) if stability else None,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
