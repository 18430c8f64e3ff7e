"""From answers to a verdict: which frame they fit, which dialect they are in, or why that cannot be told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from eval.probe.pictures import Question
from eval.probe.places import (
    FRAMES,
    SETTABLE,
    Pointed,
    dialects_of,
    read_anyhow,
    read_in,
    supposed_frames,
)
from prompter.coords import Frame
from prompter.policy import Policy
from prompter.types import Answer, ParseFailure, PromptSet

LEAST_READ = 4
"""From fewer answers nothing is told."""

NEAR = 0.10
"""Answers point at the squares if their median distance is no more than this share of the diagonal. No
answer that is always the same comes so near, as the squares lie apart."""

WINS = 0.75
"""The right frame is nearer than another in this share of the answers at least."""

ALIKE = 0.10
"""Frames whose sides differ by less than this share cannot be told apart."""


@dataclass(frozen=True)
class Asked:
    """A question of the probe with its answer.

    Args:
        question: the picture and where its square is.
        answer: what came, read as the policy is set.
        model_wh: (width, height) in pixels at which the model saw the picture.
    """

    question: Question
    answer: Answer
    model_wh: tuple[int, int]

    @property
    def frames(self) -> dict[str, Frame]:
        """The frames that are supposed for this picture."""
        return supposed_frames(self.question.sample.image_wh, self.model_wh)

    def distance(self, pointed: Pointed | None) -> float:
        """Distance from the square, see `Pointed.distance`; 1 for what cannot be read."""
        if pointed is None:
            return 1.0
        return pointed.distance(self.question.box, self.question.sample.image_wh)


@dataclass(frozen=True)
class FrameFit:
    """How well the answers fit one frame.

    Args:
        name: of `FRAMES`.
        read: answers that can be read in it.
        distance: median distance from the squares over the answers that are read in any frame.
        iou: median IoU of the boxes with the squares; None if no answer has a box.
        distances: of each answer, in order.
    """

    name: str
    read: int
    distance: float
    iou: float | None
    distances: tuple[float, ...]


@dataclass(frozen=True)
class DialectFit:
    """How many of the answers one dialect reads, in the frame that fits.

    Args:
        name: as in `reads`.
        read: answers it reads.
        prompts: boxes and points it reads from them, all together.
        tells: answers that bear a sign of this dialect (see `Dialect.tell`).
    """

    name: str
    read: int
    prompts: int
    tells: int


@dataclass(frozen=True)
class Verdict:
    """What the answers say.

    Args:
        frame: the one of `FRAMES` that they fit, or None.
        same_frames: frames that cannot be told from it at these sizes.
        dialect: the dialect they are in, or None.
        same_dialects: dialects that read as much in these answers.
        reasons: why something cannot be told; sentences.
        asked: answers that were judged.
        read_as_set: answers that are read with the policy's own settings.
        failures: kind -> how many are not, and why.
        frames, dialects: all that were supposed, the best first.
    """

    frame: str | None
    same_frames: tuple[str, ...]
    dialect: str | None
    same_dialects: tuple[str, ...]
    reasons: tuple[str, ...]
    asked: int
    read_as_set: int
    failures: dict[str, int]
    frames: tuple[FrameFit, ...]
    dialects: tuple[DialectFit, ...]

    @property
    def told(self) -> bool:
        """Whether both the frame and the dialect are known."""
        return self.frame is not None and self.dialect is not None

    def contradictions(self, policy: Policy) -> list[str]:
        """What in a policy's settings the answers contradict, each with what to set instead; sentences."""
        found = []
        if self.frame is not None and policy.frame_kind not in (self.frame, *self.same_frames):
            found.append(
                f"its answers fit the frame {self.frame} ({FRAMES[self.frame]}), but are read as "
                f"{policy.frame_kind}: " + _frame_advice(self.frame)
            )
        best = self.dialects[0] if self.dialects else None
        if self.dialect is None or best is None:
            return found
        reads = policy.settings.reads
        if reads not in (self.dialect, *self.same_dialects):
            found.append(
                f"its answers are in the dialect {self.dialect}, but are read as {reads}: "
                f"give --policy-option reads={self.dialect}"
            )
        elif self.frame is not None and not found and self.read_as_set < WINS * best.read:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.failures.items())
            found.append(
                f"{best.name} reads {best.read} of its answers, but with these settings {self.read_as_set} "
                f"are read ({kinds}): look at action_space, or give --policy-option reads={self.dialect}"
            )
        return found


def _frame_advice(frame: str) -> str:
    if frame in SETTABLE:
        return f"give --policy-option frame={frame}"
    if frame == "original":
        return "show it images of their own size (image.min_pixels, image.max_pixels)"
    return "such coordinates cannot be read yet, and its scores would mean nothing"


def judge(asked: Sequence[Asked], policy: Policy) -> Verdict:
    """Compare all answers with all frames and dialects.

    Args:
        asked: questions with their answers, at least one.
        policy: whose they are.
    """
    pointed = {
        name: [read_anyhow(one.answer.text, policy, one.frames[name]) for one in asked] for name in FRAMES
    }
    told = [number for number in range(len(asked)) if any(rows[number] for rows in pointed.values())]
    fits = sorted(
        (
            _frame_fit(name, [(asked[number], rows[number]) for number in told])
            for name, rows in pointed.items()
        ),
        key=lambda fit: fit.distance,
    )
    frame, same, reasons = _choose_frame(fits, asked, len(told))
    dialects = _dialect_fits(asked, fits[0].name, policy)
    dialect, same_dialects, more = _choose_dialect(dialects, policy.settings.reads, len(asked))
    failures = Counter(
        one.answer.reading.kind.value for one in asked if isinstance(one.answer.reading, ParseFailure)
    )
    empty = sum(isinstance(one.answer.reading, PromptSet) and one.answer.reading.is_empty for one in asked)
    if empty:
        failures["empty"] = empty
    return Verdict(
        frame,
        same,
        dialect,
        same_dialects,
        tuple(reasons + more),
        len(asked),
        len(asked) - sum(failures.values()),
        dict(failures.most_common()),
        tuple(fits),
        tuple(dialects),
    )


def _frame_fit(name: str, rows: Sequence[tuple[Asked, Pointed | None]]) -> FrameFit:
    distances = tuple(one.distance(pointed) for one, pointed in rows)
    overlaps = [
        overlap
        for one, pointed in rows
        if pointed is not None and (overlap := pointed.overlap(one.question.box)) is not None
    ]
    return FrameFit(
        name,
        sum(pointed is not None for _, pointed in rows),
        median(distances) if distances else 1.0,
        median(overlaps) if overlaps else None,
        distances,
    )


def _choose_frame(
    fits: Sequence[FrameFit], asked: Sequence[Asked], told: int
) -> tuple[str | None, tuple[str, ...], list[str]]:
    best = fits[0]
    if told < LEAST_READ:
        return None, (), [f"only {told} of {len(asked)} answers name a place, in any frame or dialect"]
    if best.distance > NEAR:
        return (
            None,
            (),
            [
                f"the answers do not point at the squares in any frame: in the nearest, {best.name}, they "
                f"are {best.distance:.0%} of the diagonal away (median)"
            ],
        )
    same = []
    for other in fits[1:]:
        wins = sum(mine < theirs for mine, theirs in zip(best.distances, other.distances, strict=True))
        if _alike(best.name, other.name, asked):
            same.append(other.name)
        elif wins < WINS * told:
            return None, (), [f"the answers fit {best.name} and {other.name} about as well"]
    same.sort(key=lambda name: name not in SETTABLE)
    if best.name not in SETTABLE and same and same[0] in SETTABLE:
        return same[0], (best.name, *same[1:]), []
    return best.name, tuple(same), []


def _alike(first: str, second: str, asked: Sequence[Asked]) -> bool:
    """Whether two frames are nearly the same for most of the pictures, along both sides."""
    near = [
        all(
            abs(a - b) < ALIKE * max(a, b)
            for a, b in zip(one.frames[first].extent, one.frames[second].extent, strict=True)
        )
        for one in asked
    ]
    return sum(near) > len(near) / 2


def _dialect_fits(asked: Sequence[Asked], frame: str, policy: Policy) -> list[DialectFit]:
    """Every dialect, the one that reads most first."""
    fits = []
    for name, dialect in dialects_of(policy).items():
        read = [
            pointed
            for one in asked
            if (
                pointed := read_in(
                    one.answer.text, dialect, one.frames[frame], thought_opened=policy.thought_opened
                )
            )
        ]
        tells = sum(bool(dialect.tell and re.search(dialect.tell, one.answer.text)) for one in asked)
        fits.append(DialectFit(name, len(read), sum(map(len, read)), tells if read else 0))
    return sorted(fits, key=lambda fit: (-fit.read, -fit.prompts, -fit.tells))


def _choose_dialect(
    fits: Sequence[DialectFit], reads: str, asked: int
) -> tuple[str | None, tuple[str, ...], list[str]]:
    best = fits[0]
    if best.read < LEAST_READ or best.read < asked / 2:
        return None, (), [f"no dialect reads more than {best.read} of {asked} answers"]
    same = [fit for fit in fits if (fit.read, fit.prompts) == (best.read, best.prompts)]
    chosen = next((fit for fit in same if fit.name == reads and fit.tells == best.tells), best)
    return chosen.name, tuple(fit.name for fit in same if fit is not chosen), []


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON-ready values."""
    return {
        "frame": verdict.frame,
        "same_frames": list(verdict.same_frames),
        "dialect": verdict.dialect,
        "same_dialects": list(verdict.same_dialects),
        "reasons": list(verdict.reasons),
        "judged": verdict.asked,
        "read_as_set": verdict.read_as_set,
        "failures": verdict.failures,
        "frames": [
            {
                "name": fit.name,
                "read": fit.read,
                "distance": round(fit.distance, 4),
                "iou": None if fit.iou is None else round(fit.iou, 4),
            }
            for fit in verdict.frames
        ],
        "dialects": [
            {"name": fit.name, "read": fit.read, "prompts": fit.prompts, "tells": fit.tells}
            for fit in verdict.dialects
        ],
    }
