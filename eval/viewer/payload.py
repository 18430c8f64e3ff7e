"""What the viewer's script reads: an index with a few numbers per rollout, and the rest in pieces.

The index is read when the page opens, a piece when one of its groups is looked at. Both are JSON, packed by
gzip and written as base64, so that no text of a model or a dataset ever stands in the page: base64 knows
no `<`. Frames are the images' own: pixels, x to the right, y down; masks are COCO's run-lengths as text.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.rollout import Rollout
from envs.rollouts import image_key
from eval.query_table import Outcome, outcome_of
from eval.viewer.groups import Group, LoadImage, Member, Shown
from eval.viewer.images import MOST_BYTES, page_images
from prompter.types import FailureKind, ParseFailure
from rewards.mask import mask_iou

PER_PIECE = 32
"""Groups whose texts and masks are packed together."""

_FAILURES = tuple(FailureKind)
_OTHERS: tuple[Outcome, ...] = tuple(one for one in Outcome if one is not Outcome.PARSE_FAILED)
"""Outcomes of a rollout in the index's order: these, then the kinds of failure."""


@dataclass(frozen=True)
class Payload:
    """The data of a viewer, ready to stand in a page.

    Args:
        index: base64 of the packed index.
        pieces: base64 of the packed pieces, `PER_PIECE` groups each.
        images: base64 of a JPEG each; "" where there is none.
        groups, rollouts: how many there are.
        notes: what a reader should know, a sentence each.
    """

    index: str = field(repr=False)
    pieces: Sequence[str] = field(repr=False)
    images: Sequence[str] = field(repr=False)
    groups: int
    rollouts: int
    notes: Sequence[str]


def make_payload(shown: Shown, most_image_bytes: int = MOST_BYTES) -> Payload:
    """Read the groups of a viewer once, one at a time, and pack them.

    Args:
        shown: what to show.
        most_image_bytes: what the images may take (`eval.viewer.images.page_images`).
    """
    builder = _Builder()
    for group in shown.groups:
        builder.add(group)
    pictures = page_images(builder.loaders, most_image_bytes)
    return Payload(
        index=packed(builder.index([bool(text) for text in pictures.texts])),
        pieces=builder.pieces(),
        images=pictures.texts,
        groups=builder.groups,
        rollouts=builder.rollouts,
        notes=[note for note in (shown.note, pictures.note) if note],
    )


def packed(value: Any) -> str:
    """JSON, gzipped, as base64; the same value gives the same text."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("ascii"), 6, mtime=0)).decode("ascii")


class _Numbers:
    """Distinct values in order of appearance, and each one's number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Any, int] = {}

    def __call__(self, key: Any, value: Any = None) -> int:
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(key if value is None else value)
        return self._places[key]


class _Builder:
    """Collects groups: columns of the index, and packed pieces."""

    def __init__(self) -> None:
        self.loaders: list[LoadImage | None] = []
        self.groups = self.rollouts = 0
        self._texts = {name: _Numbers() for name in ("parts", "queries", "labels")}
        self._tags, self._images = _Numbers(), _Numbers()
        self._of_group: dict[str, list[Any]] = {
            name: []
            for name in (
                "query",
                "sample",
                "part",
                "step",
                "image",
                "tags",
                "size",
                "target",
                "width",
                "height",
            )
        }
        self._of_rollout: dict[str, list[Any]] = {
            name: [] for name in ("label", "reward", "advantage", "iou", "outcome", "named", "tokens")
        }
        self._earned = False
        self._waiting: list[Any] = []
        self._pieces: list[str] = []

    def add(self, group: Group) -> None:
        """Add one group."""
        first = group.members[0].rollout
        image = self._images(image_key(first))
        if image == len(self.loaders):
            self.loaders.append(group.load_image)
        tags = dict(sorted(first.tags.items()))
        values = {
            "query": self._texts["queries"](first.query),
            "sample": first.sample_id,
            "part": self._texts["parts"](group.part),
            "step": first.step,
            "image": image,
            "tags": self._tags(tuple(tags.items()), tags),
            "size": len(group.members),
            "target": int(first.has_target),
            "width": first.image_wh[0],
            "height": first.image_wh[1],
        }
        for name, value in values.items():
            self._of_group[name].append(value)
        for member in group.members:
            for name, value in self._row(member).items():
                self._of_rollout[name].append(value)
        self.groups += 1
        self.rollouts += len(group.members)
        self._waiting.append(_details(group))
        if len(self._waiting) == PER_PIECE:
            self._pack()

    def _row(self, member: Member) -> dict[str, Any]:
        rollout = member.rollout
        iou = None if rollout.target is None else mask_iou(rollout)
        earned = rollout.rewards.get("total")
        self._earned |= "total" in rollout.rewards
        return {
            "label": self._texts["labels"](member.label),
            "reward": _short(earned if "total" in rollout.rewards else iou),
            "advantage": _short(member.advantage),
            "iou": _short(iou),
            "outcome": _outcome_code(rollout),
            "named": 0 if isinstance(rollout.reading, ParseFailure) else len(rollout.reading),
            "tokens": rollout.completion_tokens,
        }

    def _pack(self) -> None:
        if self._waiting:
            self._pieces.append(packed(self._waiting))
            self._waiting = []

    def pieces(self) -> list[str]:
        """All pieces; nothing can be added afterwards."""
        self._pack()
        return self._pieces

    def index(self, has_image: Sequence[bool]) -> dict[str, Any]:
        """The index, JSON-ready; `has_image` says which images the page holds."""
        return {
            "perPiece": PER_PIECE,
            "earned": self._earned,
            "outcomes": [outcome.name.lower() for outcome in _OTHERS] + [str(kind) for kind in _FAILURES],
            "firstFailure": len(_OTHERS),
            **{name: numbers.values for name, numbers in self._texts.items()},
            "tagSets": self._tags.values,
            "hasImage": [int(one) for one in has_image],
            "groups": self._of_group,
            "rollouts": self._of_rollout,
        }


def _outcome_code(rollout: Rollout) -> int:
    """Position in the index's `outcomes`: what was answered, or the kind of failure."""
    if isinstance(rollout.reading, ParseFailure):
        return len(_OTHERS) + _FAILURES.index(rollout.reading.kind)
    return _OTHERS.index(outcome_of(rollout))


def _details(group: Group) -> dict[str, Any]:
    """What of a group is needed only when it is looked at."""
    first = group.members[0].rollout
    return {
        "target": None if first.target is None else first.target["counts"],
        "ignore": None if first.ignore is None else first.ignore["counts"],
        "boxes": [list(box) for box in first.boxes],
        "members": [_answer(member.rollout) for member in group.members],
    }


def _answer(rollout: Rollout) -> dict[str, Any]:
    reading = rollout.reading
    failed = isinstance(reading, ParseFailure)
    told: Mapping[str, Any] = {
        "text": rollout.completion,
        "prompts": [] if isinstance(reading, ParseFailure) else reading.to_json(),
        "failure": reading.message if isinstance(reading, ParseFailure) else None,
        "error": rollout.executor_error,
        "mask": None if rollout.prediction is None or failed else rollout.prediction["counts"],
        "executor": rollout.executor,
        "rewards": {name: _short(value) for name, value in rollout.rewards.items()},
        "confidence": {name: _short(value) for name, value in rollout.confidence.items()},
        "scores": [_short(value) for value in rollout.predicted_ious],
    }
    return {name: value for name, value in told.items() if value not in (None, [], {}, "")}


def _short(value: float | None) -> float | None:
    """Four decimals; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)
