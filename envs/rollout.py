"""A rollout: everything needed to score one completion again and to draw it, as one JSON line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envs.masks import RLE
from prompter.types import FailureKind, ParseFailure, PromptSet


@dataclass(frozen=True)
class Rollout:
    """One completion and what became of it. All masks are RLE in the image frame.

    Args:
        sample_id, dataset, split, image_id, image_wh, query, target, instances, ignore, boxes,
            tags: as in `envs.sample.Sample`; image_wh is (width, height).
        completion: the sampled text.
        answer: what the parser read: a `PromptSet`, or why there is none.
        prediction: the executor's union mask; None when parsing or the executor failed.
        predicted_ious: the executor's own estimate per instance.
        predicted_instances: one predicted mask per instance of the answer, when it was asked for
            (`envs.rollouts.make_rollouts(keep_instances=True)`); else empty.
        executor_error: one sentence when the executor failed, else None. Such a rollout scores
            None (left out of its group), never 0.
        executor: name of the segmenter.
        completion_tokens: number of sampled tokens, or 0 if unknown.
        step: optimiser step at which it was sampled; -1 outside training.
        rewards: weighted total and parts, filled in by `rewards`.
    """

    sample_id: str
    dataset: str
    split: str
    image_id: str
    image_wh: tuple[int, int]
    query: str
    target: RLE | None
    completion: str
    answer: PromptSet | ParseFailure
    prediction: RLE | None
    instances: tuple[RLE, ...] = ()
    ignore: RLE | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    predicted_ious: tuple[float, ...] = ()
    predicted_instances: tuple[RLE, ...] = ()
    executor_error: str | None = None
    executor: str = ""
    completion_tokens: int = 0
    step: int = -1
    rewards: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; `answer` becomes `prompts` or `failure`."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        answer = data.pop("answer")
        data["tags"], data["rewards"] = dict(self.tags), dict(self.rewards)
        data["prompts"] = answer.to_json() if isinstance(answer, PromptSet) else None
        data["failure"] = answer.to_json() if isinstance(answer, ParseFailure) else None
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rollout:
        """Inverse of `to_json`."""
        fields = dict(data)
        if "image_size" in fields:  # what the key was called before
            fields["image_wh"] = fields.pop("image_size")
        prompts, failure = fields.pop("prompts"), fields.pop("failure")
        answer: PromptSet | ParseFailure
        if failure is None:
            answer = PromptSet.from_json(prompts)
        else:
            answer = ParseFailure(FailureKind(failure["kind"]), failure["message"], fields["completion"])
        for name in ("image_wh", "instances", "predicted_ious", "predicted_instances"):
            fields[name] = tuple(fields[name])
        fields["boxes"] = tuple(tuple(box) for box in fields["boxes"])
        return cls(answer=answer, **fields)
