"""EarthReason: 5,434 images with about six reasoning questions each, all about one mask.

About 200 images have no target: their `answer` is []. Evaluations differ in the question they ask:
SegEarth-R1 asks the first, Think2Seg-RS one at random, hence the option `question`. Image, label and
questions are paired by the stem of their file names.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.reading.hub import is_hub_id, open_hub_table
from envs.datasets.reading.images import IMAGE_SUFFIXES, ImageFile, image_wh, read_label
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import default_root, find_root, first_existing, not_found
from envs.masks import encode_rle
from envs.sample import Sample, SampleSource
from prompter.errors import UserError

NAME = "earthreason"


def open_earthreason(
    split: str, *, root: Path | None = None, question: str = "first", skip_bad: bool = False
) -> SampleSource:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with one folder per split (also nested in `rs_reason_seg/RSReasonSeg/`, or with
            each split's folder nested in itself), a folder of parquet files, or a hub id.
        question: which of an image's questions to ask: "first", "all", or "random:SEED", which draws
            one per image from the seed and the image's name.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad: an image without label or questions.
    """
    rule = _QuestionRule.parse(question)
    place = root if root is not None else default_root(NAME)
    if place is not None and (is_hub_id(place) or any(Path(place).rglob("*.parquet"))):
        return _open_table(split, str(place), rule, skip_bad)
    folders = _Folders.find(split, root)
    records: list[tuple[str, int]] = []
    skipped: list[str] = []
    for stem in folders.stems():
        try:
            questions = folders.questions(stem)[0]
            records.extend((stem, number) for number in rule.pick(stem, len(questions)))
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))

    def build(record: tuple[str, int]) -> Sample:
        return folders.sample(split, *record)

    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped)


@dataclass(frozen=True)
class _QuestionRule:
    kind: str
    seed: str = ""

    @classmethod
    def parse(cls, text: str) -> _QuestionRule:
        kind, _, seed = text.partition(":")
        if kind in ("first", "all") and not seed:
            return cls(kind)
        if kind == "random" and re.fullmatch(r"-?\d+", seed):
            return cls(kind, seed)
        raise UserError(
            f"option 'question' of dataset {NAME!r} must be first, all or random:SEED, but is {text!r}."
        )

    def pick(self, stem: str, count: int) -> Iterator[int]:
        """The numbers of the questions to ask about one image that has `count`."""
        if self.kind == "all":
            return iter(range(count))
        if self.kind == "first":
            return iter([0])
        return iter([random.Random(f"{self.seed}/{stem}").randrange(count)])


def _check_questions(value: Any) -> list[str]:
    questions = [value] if isinstance(value, str) else list(value)
    if not questions or not all(isinstance(text, str) and text.strip() for text in questions):
        raise ValueError("the key 'questions' must hold at least one question")
    return questions


@dataclass(frozen=True)
class _Folders:
    """The files of one split: stem -> path, for each of the three kinds."""

    images: dict[str, Path]
    labels: dict[str, Path]
    answers: dict[str, Path]
    folder: Path

    @classmethod
    def find(cls, split: str, root: Path | None) -> _Folders:
        wanted = [f"{split}/images", f"{split}/{split}/images"]
        base = find_root(NAME, root, wanted, nested=["rs_reason_seg/RSReasonSeg", "RSReasonSeg"])

        def files(kind: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
            folder = first_existing(base, [f"{split}/{split}/{kind}", f"{split}/{kind}"])
            if folder is None:
                raise not_found(NAME, [f"{split}/{kind}"], [base])
            return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in suffixes}

        labels, answers = files("labels", IMAGE_SUFFIXES), files("QAs", (".json", ".txt"))
        return cls(files("images", IMAGE_SUFFIXES), labels, answers, base / split)

    def stems(self) -> list[str]:
        return sorted(self.images.keys() | self.labels.keys() | self.answers.keys())

    def questions(self, stem: str) -> tuple[list[str], bool]:
        """The questions about one image, and whether it has a target; checks that the files pair up."""
        for kind, files in (("image", self.images), ("questions file", self.answers)):
            if stem not in files:
                raise UserError(f"{self.folder}: there is no {kind} for {stem!r}.")
        path = self.answers[stem]
        with blaming(str(path)):
            data = json.loads(path.read_text(encoding="utf-8-sig"))
            questions = _check_questions(data["questions"])
            has_target = bool(data["answer"])
        if has_target and stem not in self.labels:
            raise UserError(f"{self.folder}: there is no label for {stem!r}, which has a target.")
        return questions, has_target

    def sample(self, split: str, stem: str, number: int) -> Sample:
        questions, has_target = self.questions(stem)
        path = self.images[stem]
        width, height = image_wh(path)
        if has_target:
            target = np.asarray(read_label(self.labels[stem], (width, height)) != 0)
        else:
            target = np.zeros((height, width), dtype=np.bool_)
        return Sample(
            sample_id=f"{stem}/{number}",
            dataset=NAME,
            split=split,
            image_id=stem,
            image_wh=(width, height),
            load_image=ImageFile(str(path)),
            query=questions[number].strip(),
            target=encode_rle(target),
            tags={"target": "present" if has_target else "none"},
        )


def _open_table(split: str, place: str, rule: _QuestionRule, skip_bad: bool) -> RecordSource[tuple[int, int]]:
    """The set repacked as parquet. Column names were not seen, so the likely ones are all tried."""
    table = open_hub_table(place, split)
    image_column = table.column(["image", "img"])
    mask_column = table.column(["mask", "label", "labels"])
    text_column = table.column(["questions", "question", "query", "text", "problem"])
    records: list[tuple[int, int]] = []
    skipped: list[str] = []
    for row in range(len(table)):
        try:
            with blaming(f"{place}, row {row}, column {text_column!r}"):
                count = len(_check_questions(table.value(row, text_column)))
            records.extend((row, number) for number in rule.pick(f"row-{row}", count))
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))

    def build(record: tuple[int, int]) -> Sample:
        row, number = record
        image = table.image(row, image_column)
        wh = image.wh()
        mask = table.mask(row, mask_column, wh)
        with blaming(f"{place}, row {row}, column {text_column!r}"):
            query = _check_questions(table.value(row, text_column))[number].strip()
        return Sample(
            sample_id=f"row-{row}/{number}",
            dataset=NAME,
            split=split,
            image_id=f"row-{row}",
            image_wh=wh,
            load_image=image,
            query=query,
            target=encode_rle(mask),
            tags={"target": "present" if mask.any() else "none"},
        )

    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped)
