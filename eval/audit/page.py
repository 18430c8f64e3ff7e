"""The page to go through a queue: the most suspicious labels one by one, decided by keyboard.

It opens from the file system and asks for nothing: pictures, outlines and script are in it, and its own
policy (`default-src 'none'`) forbids the browser to fetch. Decisions are kept in the browser and exported as
a file for `prompter audit --apply`. Here is what it says; `templates/audit.html.j2`, `audit.js` and
`audit.css` of `eval.report` are how it looks and works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from envs.masks import RLE, decode_rle
from envs.sample import Sample
from eval.audit.kinds import KINDS
from eval.audit.queue import Entry, Queue
from eval.figures import percent
from eval.report.html import from_template
from eval.report.overlays import PREDICTED, TRUE, data_url

LONG_SIDE = 720
"""Longer side of the pictures in pixels; larger images are made smaller."""

VERDICT_KEYS = {
    "keep": ("k", "Keep the label"),
    "consensus": ("c", "Take the predictions"),
    "redrawn": ("s", "Take the segmenter's"),
    "drop": ("d", "Drop the query"),
    "unsure": ("u", "Unsure"),
}
"""Verdict of `eval.audit.decisions` -> its key and the text of its button."""

_REDRAWN = (70, 150, 255)

_LAYERS: tuple[dict[str, str], ...] = (
    {"name": "label", "key": "1", "text": "label", "colour": f"rgb{TRUE}", "fill": "0.14", "dash": ""},
    {
        "name": "consensus",
        "key": "2",
        "text": "what the predictions agree on",
        "colour": f"rgb{PREDICTED}",
        "fill": "0.14",
        "dash": "",
    },
    {
        "name": "redrawn",
        "key": "3",
        "text": "segmenter, from the label's boxes",
        "colour": f"rgb{_REDRAWN}",
        "fill": "0",
        "dash": "7 5",
    },
)

_BECAUSE = {"predictions": "the predictions disagree with it", "segmenter": "its boxes hold something else"}

_GUIDE = (
    "Green is the label, orange what the largest group of agreeing predictions says, dashed blue what a "
    "segmenter draws from the label's own boxes. No outline means “no target”.",
    "Predictions can be wrong together. Look at the image first, then decide who is right.",
    "Every key is on its button; ← and → move, 1 to 3 show and hide outlines, n writes a note, Enter leaves "
    "it, x takes a decision back, e exports.",
    "Decisions stay in this browser, so the page can be closed and opened again. Export them for "
    "“prompter audit --apply decisions.json”; import them to go on in another browser.",
)


def render_page(queue: Queue, shown: Sequence[Entry], samples: Mapping[str, Sample]) -> str:
    """Make the page.

    Args:
        queue: the audit.
        shown: the entries to go through, in order.
        samples: where their images come from, by sample id; grey stands for what is missing.
    """
    facts = queue.facts
    images: dict[str, str] = {}
    for entry in shown:
        if entry.image_id not in images:
            images[entry.image_id] = data_url(_picture(entry, samples.get(entry.sample_id)))
    has_redrawn = any(entry.redrawn is not None for entry in shown)
    layers = [layer for layer in _LAYERS if has_redrawn or layer["name"] != "redrawn"]
    verdicts = [
        (name, key, text) for name, (key, text) in VERDICT_KEYS.items() if has_redrawn or name != "redrawn"
    ]
    data = {
        "audit": queue.key,
        "benchmark": facts["benchmark"],
        "queries": facts["queries"],
        "images": images,
        "layers": layers,
        "verdicts": {name: key for name, key, _ in verdicts},
        "entries": [_shown(entry, facts) for entry in shown],
    }
    return from_template(
        "audit.html",
        title=f"Label audit of {facts['benchmark']}",
        note=_note(facts, len(shown)),
        layers=[(layer["name"], layer["key"], layer["text"], layer["colour"]) for layer in layers],
        verdicts=verdicts,
        guide=_GUIDE,
        predictors=[
            {
                "name": one["name"],
                "policy": facts["policies"][one["policy"]],
                "gIoU": percent(one["gIoU"]),
            }
            for one in facts["predictors"]
        ],
        data=data,
    )


def _note(facts: Mapping[str, Any], shown: int) -> str:
    return (
        f"{facts['queries']} queries, {len(facts['predictors'])} predictors of {len(facts['policies'])} "
        f"policies; the {shown} most suspicious labels are here, in order."
    )


def _picture(entry: Entry, sample: Sample | None) -> Image.Image:
    """The image, no longer than `LONG_SIDE`; grey where there is no sample."""
    if sample is None:
        return Image.new("RGB", entry.image_wh, (120, 126, 134))
    image = sample.load_image().convert("RGB")
    wh = _shown_wh(entry.image_wh)
    return image if image.size == wh else image.resize(wh, Image.Resampling.LANCZOS)


def _shown_wh(wh: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, LONG_SIDE / max(wh))
    return max(1, round(wh[0] * scale)), max(1, round(wh[1] * scale))


def _shown(entry: Entry, facts: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as the page's script takes it."""
    masks = {"label": entry.label, "consensus": entry.consensus, "redrawn": entry.redrawn}
    offers = [
        "keep",
        "drop",
        "unsure",
        *(name for name in ("consensus", "redrawn") if masks[name] is not None),
    ]
    return {
        "sample_id": entry.sample_id,
        "rank": entry.rank,
        "query": entry.query,
        "image": entry.image_id,
        "wh": _shown_wh(entry.image_wh),
        "kind": KINDS[entry.kind],
        "because": _BECAUSE[entry.because],
        "offers": offers,
        "paths": {name: "" if rle is None else outline(rle, entry.image_wh) for name, rle in masks.items()},
        "facts": _facts(entry, facts),
    }


def _facts(entry: Entry, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The rows of evidence: (what, figure)."""
    policies = len(facts["policies"])
    known = [value for value in entry.ious if value is not None]
    rows = [
        ("suspicion", f"{entry.suspicion:.2f}"),
        ("policies that agree", f"{entry.policies} of {policies}"),
        ("predictions that agree", f"{sum(entry.members)} of {len(entry.members)}"),
        ("mean IoU of pairs of predictions", percent(entry.agreement)),
        ("their IoU with the label", f"{percent(entry.consensus_iou)}, usual {percent(entry.expected_iou)}"),
        ("highest IoU of one of them", percent(max(known, default=None))),
    ]
    if entry.redrawn_iou is not None:
        usual = percent(entry.expected_redrawn_iou)
        rows.append(("segmenter's IoU with the label", f"{percent(entry.redrawn_iou)}, usual {usual}"))
    sides = (("the label", entry.label), ("the predictions", entry.consensus))
    said = [name for name, rle in sides if _empty(rle)]
    if said:
        rows.append(("“no target” is said by", " and ".join(said)))
    return rows


def _empty(rle: RLE | None) -> bool:
    return rle is not None and not decode_rle(rle).any()


def outline(rle: RLE, wh: tuple[int, int]) -> str:
    """The outlines of a mask as the text of an SVG path, in pixels of the picture shown; "" if it is empty.

    Args:
        rle: the mask, of an image of `wh` (width, height) pixels.
    """
    mask = decode_rle(rle).astype(np.uint8)
    shown = cv2.resize(mask, _shown_wh(wh), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(shown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for contour in contours:
        points = contour[:, 0, :] + 0.5  # centres of the border's pixels
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(parts)
