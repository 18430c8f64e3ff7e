"""EarthReason: 5,434 images with about six reasoning questions each, all about one mask.

About 200 images have no target: their `answer` is []. Evaluations differ in the question they ask:
SegEarth-R1 asks the first, Think2Seg-RS one at random, hence the option `question`. They differ too where
an answer is [] and the label is not empty: SegEarth-R1 reads the label, Think2Seg-RS the answer, hence
`empty_answer`. Image, label and questions are paired by the stem of their file names.

Copies as tables are read as well. EarthReason-FS has its training part as three splits of 1, 5 and 10 shots
per category, which are splits here too: whether they contain each other is not known.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from envs.datasets.reading.faults import note
from envs.datasets.reading.pixels.images import IMAGE_SUFFIXES, ImageFile, image_wh, read_mask
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import files_by_stem, find_root, not_found, only_file, table_place
from envs.datasets.reading.tables.hub import no_pixel
from envs.datasets.reading.tables.table_samples import (
    WITHOUT_QUESTION,
    Answer,
    ColumnNames,
    asked,
    open_flat_table,
)
from envs.datasets.reading.text import read_text
from envs.masks import Mask, encode_rle
from envs.sample import Sample, SampleSource
from prompter.errors import UserError

NAME = "earthreason"
NESTED = ("rs_reason_seg/RSReasonSeg", "RSReasonSeg", "EarthReason")
COLUMNS = ColumnNames(
    image=("image", "images", "img"),
    text=("questions", "question", "query", "text", "problem"),
    mask=("mask", "masks", "label", "labels", "gt_mask"),
    answer=("answer", "answers"),
    image_id=("image_id", "image_name", "file_name"),
)
EmptyAnswer = Literal["no_target", "label", "refuse"]
"""What holds where the answer is [] and the label is not empty: there is no target, as Think2Seg-RS reads it;
the label is the target, as SegEarth-R1 reads it; or the record is bad."""


def open_earthreason(
    split: str,
    *,
    root: Path | None = None,
    question: str = "first",
    empty_answer: EmptyAnswer = "no_target",
    encoding: str | None = None,
    table_split: str | None = None,
    columns: dict[str, str] | None = None,
    skip_bad: bool = False,
) -> SampleSource:
    """Open one split.

    Args:
        split: train, val or test; of the few-shot copy also train_1shot, train_5shot and train_10shot.
        root: the folder with one folder per split (also nested in `rs_reason_seg/RSReasonSeg/`, or with
            each split's folder nested in itself), a folder of tables, or a hub id.
        question: which of an image's questions to ask: "first", "all", or "random:SEED", which draws
            one per image from the seed and the image's name.
        empty_answer: what holds where an answer is [] and its label is not empty: "no_target", "label" or
            "refuse". Such samples have the tag `answer` = `contradicts the label`.
        encoding: of the questions, where it is not UTF-8.
        table_split: the table's own name of the split, where it is to be another.
        columns: which columns of a table hold `image`, `text`, `mask`, `answer`, `image_id`, where their
            names are not known here.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad: an image without label or questions file.
    """
    rule = _QuestionRule.parse(question)
    place = table_place(NAME, root, _wanted(split), NESTED)
    if place is not None:
        return open_flat_table(
            NAME,
            split,
            place,
            COLUMNS,
            columns=columns,
            table_split=table_split,
            pick=rule.pick,
            own="nonzero",
            decide=lambda answer, mask: _decide(answer, mask, empty_answer),
            skip_bad=skip_bad,
        )
    return _open_folders(split, _Folders.find(split, root, encoding), rule, empty_answer, skip_bad)


def _open_folders(
    split: str, folders: _Folders, rule: _QuestionRule, empty_answer: EmptyAnswer, skip_bad: bool
) -> SampleSource:
    records: list[tuple[str, int]] = []
    skipped: list[UserError] = []
    empty = 0
    for stem in folders.stems():
        try:
            questions = folders.read(stem).questions
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)
            continue
        empty += not questions
        picked = rule.pick(stem, len(questions)) if questions else ()
        records.extend((stem, questions[number][0]) for number in picked)

    def build(record: tuple[str, int]) -> Sample:
        return folders.sample(split, *record, empty_answer)

    left_out = {WITHOUT_QUESTION: empty} if empty else {}
    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped, left_out=left_out)


def _wanted(split: str) -> list[str]:
    return [f"{split}/images", f"{split}/{split}/images"]


def _own_rule(label: Path) -> str:
    """Any value that is not zero is target, as in the authors' code; in a lossy file that would be noise."""
    return "two" if label.suffix.lower() in (".jpg", ".jpeg", ".webp") else "nonzero"


def _decide(answer: Any, label: Mask, empty_answer: EmptyAnswer) -> Answer:
    """What an answer ([] for no target; None where a table has none) and a label say together."""
    says_none = isinstance(answer, str | list) and not answer
    if not (says_none and label.any()):
        is_present = not says_none and (bool(answer) or bool(label.any()))
        return Answer(label, tags={"target": "present" if is_present else "none"})
    if empty_answer == "refuse":
        raise ValueError(
            "its answer is [], which says that there is no target, but its label is not empty; say which "
            "holds by the option 'empty_answer' (no_target or label)"
        )
    is_target = empty_answer == "label"
    note("contradiction", f"its answer is [], but its label is not empty; the {empty_answer} rule holds.")
    tags = {"target": "present" if is_target else "none", "answer": "contradicts the label"}
    return Answer(label if is_target else np.zeros_like(label), tags=tags)


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

    def pick(self, image: str, count: int) -> Iterable[int]:
        """The numbers of the questions to ask about one image that has `count`."""
        if self.kind == "all":
            return range(count)
        if self.kind == "first":
            return [0]
        return [random.Random(f"{self.seed}/{image}").randrange(count)]


@dataclass(frozen=True)
class _Record:
    """A questions file: (number, text) of the questions that are not blank, and the answers."""

    questions: list[tuple[int, str]]
    answer: Any


@dataclass(frozen=True)
class _Folders:
    """The files of one split: stem -> paths, for each of the three kinds."""

    images: dict[str, list[Path]]
    labels: dict[str, list[Path]]
    answers: dict[str, list[Path]]
    folder: Path
    encoding: str | None

    @classmethod
    def find(cls, split: str, root: Path | None, encoding: str | None) -> _Folders:
        base = find_root(NAME, root, _wanted(split), nested=NESTED)

        def files(kind: str, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
            folders = [base / split / split / kind, base / split / kind]
            if not any(folder.is_dir() for folder in folders):
                raise not_found(NAME, [f"{split}/{kind}"], [base])
            return files_by_stem(folders, suffixes)

        labels, answers = files("labels", IMAGE_SUFFIXES), files("QAs", (".json", ".txt"))
        return cls(files("images", IMAGE_SUFFIXES), labels, answers, base / split, encoding)

    def stems(self) -> list[str]:
        return sorted(self.images.keys() | self.labels.keys() | self.answers.keys())

    def read(self, stem: str) -> _Record:
        """The questions about one image and their answer; checks that the files pair up."""
        with blaming(str(self.folder)):
            only_file(self.images, stem, "image")
            path = only_file(self.answers, stem, "questions file")
        with blaming(str(path)):
            data = json.loads(read_text(path, self.encoding))
            questions, answer = asked(data["questions"]), data["answer"]
        with blaming(str(self.folder)):
            if stem in self.labels or answer:
                only_file(self.labels, stem, "label")
        return _Record(questions, answer)

    def sample(self, split: str, stem: str, number: int, empty_answer: EmptyAnswer) -> Sample:
        record = self.read(stem)
        path = only_file(self.images, stem, "image")
        wh = image_wh(path)
        label = no_pixel((wh[1], wh[0]))
        if stem in self.labels:
            label_path = only_file(self.labels, stem, "label")
            label = read_mask(label_path, wh, _own_rule(label_path))
        with blaming(str(only_file(self.answers, stem, "questions file"))):
            decided = _decide(record.answer, label, empty_answer)
        return Sample(
            sample_id=f"{stem}/{number}",
            dataset=NAME,
            split=split,
            image_id=stem,
            image_wh=wh,
            load_image=ImageFile(str(path)),
            query=dict(record.questions)[number],
            target=None if decided.target is None else encode_rle(decided.target),
            tags=decided.tags,
        )
