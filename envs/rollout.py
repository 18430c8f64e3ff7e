"""A rollout: everything needed to score one completion again and to draw it, as one JSON line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from envs.masks import RLE, Mask, decode_rle
from prompter.types import Reading, reading_from_json, reading_to_json

_LEFT_OUT_EMPTY = ("stability", "confidence", "offset_xy")

EXPECTED_IOU, EXPECTED_HIT = "iou", "hit"
"""Names of the calibrated figures in `Rollout.confidence`: the expected IoU (the reward `mask_iou`), and the
probability that it reaches 0.5."""


@dataclass(frozen=True)
class Rollout:
    """One completion and what became of it. All masks are RLE in the image frame.

    Args:
        sample_id, dataset, split, image_id, image_wh, query, target, instances, ignore, boxes,
            tags: as in `envs.sample.Sample`; image_wh is (width, height).
        completion: the sampled text.
        reading: what was read in it: a `PromptSet`, or why there is none.
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
        stability: the mask's stability per instance (`envs.executors.base.Segmentation`), where it was asked
            for; else empty.
        confidence: how far the answer can be trusted, by name, as `eval.looks.confidence` measures and
            calibrates it; None where a figure has no value. Empty in all but evaluations of several looks.
        offset_xy: as in `prompter.types.Answer`.

    The last three are left out of the JSON where they are empty, as in all runs of before.
    """

    sample_id: str
    dataset: str
    split: str
    image_id: str
    image_wh: tuple[int, int]
    query: str
    target: RLE | None
    completion: str
    reading: Reading
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
    stability: tuple[float, ...] = ()
    confidence: Mapping[str, float | None] = field(default_factory=dict)
    offset_xy: tuple[int, int] | None = None

    @property
    def mask_hw(self) -> tuple[int, int]:
        """(height, width) of every mask."""
        return (self.image_wh[1], self.image_wh[0])

    # Decoded when first asked for and kept, so that several rewards decode a mask once; a copy made by
    # `dataclasses.replace` starts without them. Nobody may write into these arrays: they are shared.

    @cached_property
    def target_mask(self) -> Mask | None:
        """Target, bool [height, width]; None for sets that give boxes only."""
        return self._decoded(self.target)

    @cached_property
    def prediction_mask(self) -> Mask | None:
        """The executor's union mask, bool [height, width]; None when parsing or the executor failed."""
        return self._decoded(self.prediction)

    @property
    def has_target(self) -> bool:
        """Whether there is something to find: a pixel of the target, or, in box-only sets, a box."""
        return bool(self.boxes) if self.target_mask is None else bool(self.target_mask.any())

    @cached_property
    def ignore_mask(self) -> Mask | None:
        """Pixels that no metric counts, bool [height, width]; or None."""
        return self._decoded(self.ignore)

    @cached_property
    def instance_masks(self) -> tuple[Mask, ...]:
        """Target objects, each bool [height, width]; empty if not told apart."""
        return tuple(decode_rle(rle, self.mask_hw) for rle in self.instances)

    @cached_property
    def predicted_instance_masks(self) -> tuple[Mask, ...]:
        """One mask per instance of the reading, each bool [height, width]; empty if they were not kept."""
        return tuple(decode_rle(rle, self.mask_hw) for rle in self.predicted_instances)

    def keep_decoded(self, **masks: Any) -> None:
        """Take masks that are at hand, under the names of the properties above, instead of decoding them."""
        self.__dict__.update(masks)

    def _decoded(self, rle: RLE | None) -> Mask | None:
        return None if rle is None else decode_rle(rle, self.mask_hw)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict; `reading` becomes `prompts` or `failure`."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["tags"], data["rewards"] = dict(self.tags), dict(self.rewards)
        data["confidence"] = dict(self.confidence)
        for name in _LEFT_OUT_EMPTY:
            if not data[name]:
                del data[name]
        reading = data.pop("reading")
        return data | reading_to_json(reading)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rollout:
        """Inverse of `to_json`."""
        fields = dict(data)
        if "image_size" in fields:  # what the key was called before
            fields["image_wh"] = fields.pop("image_size")
        read = {name: fields.pop(name) for name in ("prompts", "failure")}
        read["mended"] = fields.pop("mended", None)
        reading = reading_from_json(read, fields["completion"])
        fields.setdefault("stability", ())
        for name in ("image_wh", "instances", "predicted_ious", "predicted_instances", "stability"):
            fields[name] = tuple(fields[name])
        if fields.get("offset_xy") is not None:
            fields["offset_xy"] = tuple(fields["offset_xy"])
        fields["boxes"] = tuple(tuple(box) for box in fields["boxes"])
        return cls(reading=reading, **fields)
