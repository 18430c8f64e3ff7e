"""Asking a policy the probe's questions, and saying what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.answerers.base import Answerer
from eval.probe.pictures import questions
from eval.probe.places import FRAMES
from eval.probe.verdict import Asked, Verdict, judge, verdict_json
from prompter.checkpoint import SETTINGS_FILE, Checkpoint
from prompter.dialects import DIALECTS
from prompter.errors import UserError
from prompter.families import POLICY_FAMILIES
from prompter.policy import Policy
from prompter.runs.tables import text_table

PROBE_FILE = "probe.json"
"""Where an evaluation keeps what the probe found."""

WORDINGS = ("the {colour} square", "the building")
"""How the squares are asked for; the second only if the answers to the first tell too little. Seen from
above a square is a building, and a policy that was trained on overhead scenes may know no other word."""


@dataclass(frozen=True)
class ProbeReport:
    """What the probe asked and found.

    Args:
        policy: how the policy was asked and read.
        asked: every question with its answer, in order.
        verdict: what the answers say.
        wordings: how the squares were asked for.
    """

    policy: Policy
    asked: tuple[Asked, ...]
    verdict: Verdict
    wordings: tuple[str, ...]

    @property
    def contradictions(self) -> list[str]:
        """See `Verdict.contradictions`."""
        return self.verdict.contradictions(self.policy)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: the verdict, what it was compared with, and all answers."""
        return {
            **verdict_json(self.verdict),
            "told": self.verdict.told,
            "verdict": verdict_sentence(self),
            "contradictions": self.contradictions,
            "set": {"frame": self.policy.frame_kind, "reads": self.policy.settings.reads},
            "answers": [
                {
                    "question": one.question.sample.query,
                    "image_wh": list(one.question.sample.image_wh),
                    "model_wh": list(one.model_wh),
                    "square": list(one.question.box),
                    "answer": one.answer.text,
                }
                for one in self.asked
            ],
        }


def probe(answerer: Answerer) -> ProbeReport:
    """Ask a policy for drawn squares, six or twelve questions, and judge its answers.

    Raises:
        UserError: if what answers is no policy of ours or behind an endpoint: a baseline speaks no
            coordinates, and what speaks through code of one's own is not known here.
    """
    policy = policy_of(answerer)
    if policy is None:
        raise UserError(
            f"a {type(answerer).__name__} has no frame and no dialect to probe; give a checkpoint, "
            "shipped:NAME or openai:URL#MODEL."
        )
    rounds = [_ask(answerer, policy, WORDINGS[0])]
    verdict = judge(rounds[0], policy)
    if not verdict.told:
        rounds.append(_ask(answerer, policy, WORDINGS[1]))
        verdict = _better(rounds, policy, verdict)
    asked = tuple(one for answers in rounds for one in answers)
    return ProbeReport(policy, asked, verdict, WORDINGS[: len(rounds)])


def _better(rounds: Sequence[Sequence[Asked]], policy: Policy, first: Verdict) -> Verdict:
    """The verdict that tells most: of the second wording, of both together, or `first`."""
    second = judge(rounds[1], policy)
    both = judge([one for answers in rounds for one in answers], policy)
    if first.frame is not None and second.frame is not None and first.frame != second.frame:
        why = f"the answers to {WORDINGS[0]!r} fit {first.frame}, those to {WORDINGS[1]!r} {second.frame}"
        return replace(both, frame=None, same_frames=(), reasons=(*both.reasons, why))
    return max(
        (second, both, first),
        key=lambda one: (one.told, one.frame is not None, one.dialect is not None),
    )


def _ask(answerer: Answerer, policy: Policy, wording: str) -> list[Asked]:
    asked = questions(wording)
    answers = answerer.answer([one.sample for one in asked])
    return [
        Asked(question, answer, policy.frame(question.sample.image_wh).model_wh)
        for question, answer in zip(asked, answers, strict=True)
    ]


def policy_of(answerer: Answerer) -> Policy | None:
    """The policy that answers, if it is one that this project asks and reads."""
    policy = getattr(answerer, "policy", None)
    return policy if isinstance(policy, Policy) else None


def is_known(policy: Policy, options: Mapping[str, Any]) -> bool:
    """Whether a policy's frame and dialect are stated: saved beside its weights, or by user and family.

    Args:
        policy: the policy.
        options: what the user gave, as in `--policy-option`.
    """
    family = None
    if isinstance(policy, Checkpoint):
        family = policy.family
        if (Path(policy.source) / SETTINGS_FILE).is_file():
            return True
    frame_known = (
        options.get("frame") is not None
        or family in POLICY_FAMILIES
        or DIALECTS.resolve(policy.settings.reads).frame is not None
    )
    return frame_known and "reads" in options


def verdict_sentence(report: ProbeReport) -> str:
    """The verdict in a sentence or two, for a terminal or a page."""
    verdict = report.verdict
    frame = "frame: cannot tell"
    if verdict.frame is not None:
        frame = f"frame: {verdict.frame} ({FRAMES[verdict.frame]})"
        if verdict.same_frames:
            frame += f", alike at these sizes: {', '.join(verdict.same_frames)}"
    dialect = "dialect: cannot tell"
    if verdict.dialect is not None:
        dialect = f"dialect: {verdict.dialect}"
        if verdict.same_dialects:
            dialect += f", which {', '.join(verdict.same_dialects)} would read alike"
    why = f". Why not: {'; '.join(verdict.reasons)}" if verdict.reasons and not verdict.told else ""
    return f"{frame}; {dialect}{why}."


def report_text(report: ProbeReport) -> str:
    """The whole report for a terminal: what was asked, how well all fits, the verdict, what to change."""
    verdict = report.verdict
    frames = [["frame", "read", "distance", "IoU", ""]]
    for fit in verdict.frames:
        iou = "-" if fit.iou is None else f"{fit.iou:.2f}"
        frames.append([fit.name, str(fit.read), f"{fit.distance:.3f}", iou, FRAMES[fit.name]])
    dialects = [["dialect", "read", "prompts", ""]]
    for one in verdict.dialects:
        described = DIALECTS.entries[one.name].description if one.name in DIALECTS else "your own"
        dialects.append([one.name, str(one.read), str(one.prompts), described])
    wordings = ", ".join(repr(wording) for wording in report.wordings)
    lines = [
        f"{len(report.asked)} questions about drawn squares ({wordings}), judged by {verdict.asked} answers. "
        f"As it is set (frame {report.policy.frame_kind}, reads {report.policy.settings.reads}) "
        f"{verdict.read_as_set} of these are read.",
        "",
        *text_table(frames),
        "",
        *text_table(dialects),
        "",
        verdict_sentence(report),
        *(f"But {sentence}." for sentence in report.contradictions),
    ]
    return "\n".join(lines)
