"""Records of predictions: what one says, how those of one sample become a `Prediction`, and back.

A record is a JSON object in the manner of COCO's results: one object found for one sample.

    {"sample_id": "7/0", "segmentation": {"size": [512, 512], "counts": "…"}, "score": 0.9}
    {"sample_id": "7/0", "segmentation": [[10, 10, 60, 10, 60, 50]], "bbox": [10, 10, 50, 40]}
    {"sample_id": "8/0", "segmentation": []}                          nothing of the kind is there
    {"sample_id": "9/0", "failure": "no answer could be read"}        the program's answer was none
    {"sample_id": "9/1", "error": "out of memory"}                    never answered: left out, and told
    {"sample_id": "9/2", "instances": [{"segmentation": …}, …]}       all of a sample's objects at once

`segmentation` is a run-length encoding (compressed or not), polygons, or the path of a PNG beside the file.
`bbox` is COCO's [x, y, width, height] in pixels. `prompts` is ours: what the segmenter was told, as
`prompter.types.Instance.to_json` writes it; an object where the record is the mask of these prompts alone,
a list where it is the union of the masks of several. Of the sample as a whole are `text`, the model's answer
as it gave it, `tokens`, its length, and `mended`, what reading it mended (`prompter.types.PromptSet`).
Keys that say nothing to us are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.reading.faults import hearing
from envs.datasets.reading.pixels.annotations import annotation_to_mask
from envs.datasets.reading.records import blaming
from envs.datasets.reading.rules import ReadingRules, applied
from envs.masks import RLE, Mask, encode_rle, mask_to_box
from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet, Reading, reading_to_json

ANSWER_KEYS = ("segmentation", "instances", "failure", "error")
"""Each record has one of these."""


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one sample.

    Args:
        reading: one instance per predicted object, in the image frame; empty for "nothing there"; a
            `ParseFailure` where the program gave no answer.
        masks: RLE in the image frame: one per instance, or one for all of them together.
        scores: the predictor's own score per mask or per instance; empty if it gave none.
        error: why there is nothing to score, or None. Such a sample is left out of every metric and told.
        tokens: sampled tokens, or 0 if unknown.
        text: the completion, or "".
    """

    reading: Reading
    masks: tuple[RLE, ...] = ()
    scores: tuple[float, ...] = ()
    error: str | None = None
    tokens: int = 0
    text: str = ""
    has_instances: bool = True
    """Whether there is one mask per instance of the reading."""


@dataclass(frozen=True)
class RecordRules:
    """How records are read.

    Args:
        resize: take masks of another size than the image, resized to it (nearest pixel); otherwise they are
            an error.
        min_score: leave out objects with a lower score; None keeps all.
        mask_values: which values of a PNG are the object (`envs.datasets.reading.rules.ReadingRules`).
    """

    resize: bool = False
    min_score: float | None = None
    mask_values: str | None = None


@dataclass
class Notes:
    """What was done to predictions while they were read: number of times each."""

    resized: int = 0
    below_score: int = 0
    empty_beside_others: int = 0
    parts: int = 0
    nothing_drawn: int = 0

    def add(self, told: Iterable[tuple[str, str]]) -> None:
        """Count what the reading of one mask told (`envs.datasets.reading.faults.note`), (kind, sentence)."""
        kinds = [kind for kind, _ in set(told)]  # the same sentence twice is the same finding
        self.resized += kinds.count("resized")
        self.parts += kinds.count("part")
        self.nothing_drawn += kinds.count("nothing_drawn")

    def lines(self) -> list[str]:
        """One sentence for each kind that happened."""
        said = {
            "masks had another size than their image and were resized": self.resized,
            "objects had a lower score than asked for and were left out": self.below_score,
            "empty masks beside other objects of their sample were left out": self.empty_beside_others,
            "parts of polygons have no area and were left out": self.parts,
            "objects have polygons that draw no pixel": self.nothing_drawn,
        }
        return [f"{count} {what}" for what, count in said.items() if count]


@dataclass(frozen=True)
class _Found:
    """One record read: its mask, and the prompts, box and scores it gives."""

    mask: Mask
    prompts: tuple[Instance, ...] | None  # None where the record gives none
    is_union: bool  # of several instances' masks
    box: tuple[float, float, float, float] | None
    scores: tuple[float, ...]


def read_prediction(
    records: Sequence[tuple[str, Mapping[str, Any]]],
    hw: tuple[int, int],
    folder: Path | None,
    rules: RecordRules = RecordRules(),
    notes: Notes | None = None,
) -> Prediction:
    """Read all records of one sample.

    Args:
        records: (where it stands, record), at least one.
        hw: (height, width) of the sample's image.
        folder: what the paths of PNG files are relative to; None allows none.
        rules: how to read.
        notes: counts what was done.

    Raises:
        UserError: naming the record, if it cannot be read, has a mask of another size, stands twice, or
            contradicts another one of the sample.
    """
    notes = Notes() if notes is None else notes
    first_where, first = records[0]
    for where, record in records:
        if sum(key in record for key in ANSWER_KEYS if key != "segmentation") > 1:
            raise UserError(f"{where}: it has more than one of the keys {', '.join(ANSWER_KEYS[1:])}.")
        alone = any(record.get(key) is not None for key in ANSWER_KEYS[1:])
        if alone and len(records) > 1:
            raise UserError(f"{where}: its sample has other records too ({first_where}); keep one of them.")
    tokens = max(_whole(record.get("tokens", 0), "tokens", where) for where, record in records)
    text = next((str(record["text"]) for _, record in records if record.get("text") is not None), "")
    if first.get("error") is not None:
        return Prediction(PromptSet(), error=str(first["error"]), tokens=tokens, text=text)
    if first.get("failure") is not None:
        with blaming(first_where):
            return Prediction(_failure(first["failure"], text), tokens=tokens, text=text)
    if first.get("instances") is not None:
        if not isinstance(first["instances"], list):
            raise UserError(f"{first_where}: `instances` must be a list.")
        records = [(f"{first_where}, instance {n}", one) for n, one in enumerate(first["instances"])]
    found = []
    for where, record in records:
        with blaming(where):
            one = _read(record, hw, folder, rules, notes)
        if one is not None:
            found.append((where, one))
    prediction = replace(_prediction(found, notes), tokens=tokens, text=text)
    mended = next((record["mended"] for _, record in records if record.get("mended")), None)
    if mended is None or not isinstance(prediction.reading, PromptSet):
        return prediction
    with blaming(first_where):
        return replace(prediction, reading=PromptSet(prediction.reading.instances, **mended))


def _read(
    record: Mapping[str, Any], hw: tuple[int, int], folder: Path | None, rules: RecordRules, notes: Notes
) -> _Found | None:
    """Read one record; None if its score is too low."""
    if not isinstance(record, Mapping):
        raise ValueError(f"it must be a JSON object, but is a {type(record).__name__}")
    given = record.get("scores") or [record.get("score")]
    scores = tuple(_score(score) for score in given if score is not None)
    mask = _mask(record["segmentation"], hw, folder, rules, notes)
    if rules.min_score is not None and mask.any():
        if not scores:
            raise ValueError("it has no `score`, but only objects with a certain score are to be taken")
        if max(scores) < rules.min_score:
            notes.below_score += 1
            return None
    prompts = record.get("prompts")
    several = isinstance(prompts, list)
    given = None if prompts is None else tuple(map(Instance.from_json, prompts if several else [prompts]))
    return _Found(
        mask=mask,
        prompts=given,
        is_union=several,
        box=_xyxy(record.get("bbox")),
        scores=scores,
    )


def _prediction(found: Sequence[tuple[str, _Found]], notes: Notes) -> Prediction:
    """Put the records of one sample together, without its tokens and text."""
    for where, one in found:
        if one.is_union and len(found) > 1:
            raise UserError(f"{where}: it is the union of a sample that has other records too; keep one.")
    if len(found) == 1 and found[0][1].is_union:
        where, union = found[0]
        if not union.prompts and union.mask.any():
            raise UserError(f"{where}: `prompts` is empty, but the mask is not.")
        return Prediction(
            PromptSet(union.prompts or ()),
            (encode_rle(union.mask),) if union.prompts else (),
            union.scores,
            has_instances=not union.prompts,
        )
    named = [(where, one) for where, one in found if one.mask.any() or one.prompts or one.box]
    if named:
        notes.empty_beside_others += len(found) - len(named)
    instances: list[Instance] = []
    masks: list[RLE] = []
    scores: list[float] = []
    seen: dict[str, str] = {}
    for where, one in named:
        rle = encode_rle(one.mask)
        if one.mask.any() and one.prompts is None and seen.setdefault(rle["counts"], where) != where:
            raise UserError(
                f"{where}: the same mask of the same sample stands at {seen[rle['counts']]} already."
            )
        instances.append(one.prompts[0] if one.prompts else Instance(one.box or mask_to_box(one.mask)))
        masks.append(rle)
        scores += one.scores
    return Prediction(PromptSet(tuple(instances)), tuple(masks), tuple(scores))


def _score(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"a `score` must be a number, but is {value!r:.80}") from None


def _mask(value: Any, hw: tuple[int, int], folder: Path | None, rules: RecordRules, notes: Notes) -> Mask:
    """Read a segmentation as a bool mask [height, width], by the rules that files of masks are read by."""
    if isinstance(value, str) and (Path(value).is_absolute() or ".." in Path(value).parts):
        raise ValueError(f"the path {value!r} must lead to a file beside the predictions")
    if isinstance(value, list) and value and not isinstance(value[0], Mapping):
        _check_polygons(value, hw)
    files = ReadingRules(
        mask_size="resize" if rules.resize else "refuse",
        mask_values=rules.mask_values,
        empty_object="keep",
        units="pixels",
    )
    told: list[tuple[str, str]] = []
    with applied(files), hearing(lambda kind, sentence: told.append((kind, sentence))):
        mask = annotation_to_mask(value, hw, folder)
    notes.add(told)
    return mask


def _check_polygons(polygons: Sequence[Any], hw: tuple[int, int]) -> None:
    """Refuse polygons whose numbers are not pixels of this image: those would be misread silently."""
    if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in polygons):
        return  # said better by `annotation_to_mask`
    points = np.asarray([float(value) for polygon in polygons for value in polygon]).reshape(-1, 2)
    if not points.size:
        return
    # Whole numbers may outline the first pixel of an image, which our own polygons do.
    if max(hw) > 2 and (abs(points) <= 1).all() and (points % 1 != 0).any():
        raise ValueError(
            "its polygons lie within one pixel; are the numbers shares of the image? Write pixels"
        )
    low, high = points.min(axis=0), points.max(axis=0)
    if (high - (hw[1], hw[0])).max() > 1 or (-low).max() > 1:
        raise ValueError(
            f"its polygons reach from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}), "
            f"but its image is {hw[1]} x {hw[0]} (width x height)"
        )


def _xyxy(bbox: Any) -> tuple[float, float, float, float] | None:
    """COCO's [x, y, width, height] as XYXY half-open; None where there is none, or it has no area."""
    if bbox is None:
        return None
    x, y, width, height = (float(value) for value in bbox)
    if width <= 0 or height <= 0:
        return None
    return Instance(box=(x, y, x + width, y + height)).box


def _failure(value: Any, text: str) -> ParseFailure:
    """An answer that could not be read: a sentence, or what `ParseFailure.to_json` writes; and its text."""
    if isinstance(value, Mapping):
        return ParseFailure(FailureKind(value["kind"]), str(value["message"]), text)
    return ParseFailure(FailureKind.NO_ANSWER, str(value), text)


def _whole(value: Any, key: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: `{key}` must be a whole number, but is {value!r}.")
    return value


def rollout_prediction(rollout: Rollout) -> Prediction:
    """The prediction that one of our rollouts holds; its target is not looked at."""
    if rollout.executor_error is not None:
        return Prediction(
            PromptSet(),
            error=rollout.executor_error,
            tokens=rollout.completion_tokens,
            text=rollout.completion,
        )
    if isinstance(rollout.reading, ParseFailure):
        return Prediction(rollout.reading, tokens=rollout.completion_tokens, text=rollout.completion)
    kept = len(rollout.predicted_instances) == len(rollout.reading)
    whole = () if rollout.prediction is None or rollout.reading.is_empty else (rollout.prediction,)
    return Prediction(
        rollout.reading,
        rollout.predicted_instances if kept else whole,
        rollout.predicted_ious,
        tokens=rollout.completion_tokens,
        text=rollout.completion,
        has_instances=kept,
    )


def prediction_records(prediction: Prediction) -> list[dict[str, Any]]:
    """Records that `read_prediction` reads as this prediction, `sample_id` left out.

    Segmentations are run-length encodings. A score of several instances together is their mean, for COCO's
    tools; `scores` has them one by one.
    """
    base: dict[str, Any] = {"tokens": prediction.tokens} if prediction.tokens else {}
    base |= {"text": prediction.text} if prediction.text else {}
    if prediction.error is not None:
        return [{"error": prediction.error, **base}]
    if isinstance(prediction.reading, ParseFailure):
        return [{"failure": prediction.reading.to_json(), **base}]
    instances = prediction.reading.instances
    mended = reading_to_json(prediction.reading).get("mended")
    base |= {"mended": mended} if mended else {}
    if not instances:
        return [{"segmentation": [], "prompts": [], **base}]
    if not prediction.has_instances:
        record = {"segmentation": prediction.masks[0], "prompts": prediction.reading.to_json(), **base}
        if prediction.scores:
            record |= {"score": float(np.mean(prediction.scores)), "scores": list(prediction.scores)}
        return [record]
    records = []
    one_each = len(prediction.scores) == len(instances)
    for number, (instance, mask) in enumerate(zip(instances, prediction.masks, strict=True)):
        record = {"segmentation": mask, "prompts": instance.to_json(), **(base if number == 0 else {})}
        if instance.box is not None:
            x1, y1, x2, y2 = instance.box
            record["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if one_each:
            record["score"] = prediction.scores[number]
        records.append(record)
    return records
