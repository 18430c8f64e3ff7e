"""Sets whose records are images with `questions` and, beside each, in `answers`, the objects it asks for.

MUSE and MMR are written so, on COCO's images; `CocoImages` finds those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.datasets.reading.json_index import JsonArray
from envs.datasets.reading.pixels.annotations import annotation_to_mask
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import not_found
from envs.datasets.reading.tables.table_samples import WITHOUT_QUESTION
from envs.masks import encode_rle, union
from envs.sample import Sample
from prompter.errors import UserError

WITHOUT_OBJECT = "questions whose answer names no object"
"""What may be left out; a key of `left_out`."""


class CocoImages:
    """COCO's images, whose years may lie in several folders.

    Args:
        name: the dataset, for the error.
        folders: those in which folders of a year (`train2014`, `train2017`, `val2017`) are looked for.

    Raises:
        UserError: if there is no folder of any year.
    """

    YEARS = ("train2014", "train2017", "val2017")

    def __init__(self, name: str, folders: Iterable[Path]) -> None:
        looked = list(dict.fromkeys(folders))
        self._places: dict[str, list[Path]] = {
            year: [folder / year for folder in looked if (folder / year).is_dir()] for year in self.YEARS
        }
        if not any(self._places.values()):
            raise not_found(name, [f"folder of COCO images ({', '.join(self.YEARS)})"], looked)

    def path(self, year: str, name: str) -> Path:
        """The file of an image: in the first folder of its year that holds it.

        Raises:
            FileNotFoundError: if none does. ValueError: if there is no folder of that year.
        """
        places = self._places.get(year)
        if not places:
            raise ValueError(f"its image {name} is of COCO's {year}, but there is no folder of that name")
        return next((place / name for place in places if (place / name).exists()), places[0] / name)


def open_answer_lists(
    name: str,
    split: str,
    file: JsonArray,
    image_path: Callable[[Mapping[str, Any]], Path],
    *,
    tags: Mapping[str, str] | None = None,
    answer_keys: Sequence[str] = ("answers",),
    leave_out_empty: bool = False,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open a file of records; every question is a sample, and the objects of its answer are its targets.

    Args:
        name, split: of the dataset.
        file: the records; an object of an answer has its mask under `segmentation`.
        image_path: record -> its image.
        tags: added to each sample's.
        answer_keys: the keys that the answers may have; the first that is there counts.
        leave_out_empty: leave out, and count, questions whose answer holds no object; else they have
            no target.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if a record is bad.
    """
    records: list[tuple[int, int]] = []
    skipped: list[UserError] = []
    left_out: Counter[str] = Counter()
    for number in range(len(file)):
        try:
            with blaming(file.where(number)):
                answers = _answers(file[number], answer_keys)
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)
            continue
        if not answers:
            left_out[WITHOUT_QUESTION] += 1
        asked = [question for question, answer in enumerate(answers) if answer or not leave_out_empty]
        records.extend((number, question) for question in asked)
        if len(asked) < len(answers):
            left_out[WITHOUT_OBJECT] += len(answers) - len(asked)

    def build(where: tuple[int, int]) -> Sample:
        number, question = where
        record = file[number]
        with blaming(f"{file.where(number)}, question {question}"):
            path = image_path(record)
            query = str(record["questions"][question]).strip()
            if not query:
                raise ValueError("it is empty")
            width, height = image_wh(path)
            answer = _answers(record, answer_keys)[question]
            masks = [annotation_to_mask(one["segmentation"], (height, width)) for one in answer]
        return Sample(
            sample_id=f"{number}/{question}",
            dataset=name,
            split=split,
            image_id=path.stem,
            image_wh=(width, height),
            load_image=ImageFile(str(path)),
            query=query,
            target=encode_rle(union(masks, (height, width))),
            instances=tuple(encode_rle(mask) for mask in masks),
            tags={"multiplicity": ("none", "one", "several")[min(len(masks), 2)], **(tags or {})},
        )

    return RecordSource(name, split, records, build, skip_bad=skip_bad, skipped=skipped, left_out=left_out)


def _answers(record: Mapping[str, Any], keys: Sequence[str]) -> list[list[Mapping[str, Any]]]:
    """The objects of each question's answer; ValueError where questions and answers do not match."""
    answers = record[next((key for key in keys if key in record), keys[0])]
    if not isinstance(answers, list) or not all(isinstance(answer, list) for answer in answers):
        raise ValueError("its answers must be lists of objects")
    count = len(record["questions"])
    if len(answers) != count:
        raise ValueError(f"it has {count} questions, but {len(answers)} answers")
    return answers
