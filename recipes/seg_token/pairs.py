"""Question-answer pairs without masks, from JSON: LISAT learns from a million of them first (PreGRES).

A file is a JSON array, or JSON lines, of records of either kind:

    {"image": "a.jpg", "question": "how many ships are there?", "answer": "two"}
    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nhow many …?"},
                                         {"from": "gpt", "value": "two"}, …]}

Each question and the answer after it is a pair of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.datasets.reading.json_index import JsonArray, index_lines, index_records
from envs.datasets.reading.pixels.images import ImageFile
from envs.datasets.reading.records import blaming
from prompter.chat import plain_question
from prompter.checkpoint import Checkpoint
from prompter.errors import UserError
from recipes.cold_start.data import ImageStream
from recipes.seg_token.data import SegExample

SPEAKERS = (("human", "user"), ("gpt", "assistant"))
"""What records of conversations call who asks and who answers."""


@dataclass(frozen=True)
class Pair:
    """One question about one image, with its answer.

    Args:
        image_id: the image's path as the file gives it.
        load_image: PIL RGB.
        question, answer: texts.
    """

    image_id: str
    load_image: ImageFile = field(repr=False)
    question: str
    answer: str


class Pairs:
    """The pairs of a file, read when they are asked for.

    Args:
        path: of the file.
        root: folder that its images' paths start from; None takes the file's own.

    Raises:
        UserError: naming file and record of the first that is no pair, or whose image is missing.
    """

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self.root = path.parent if root is None else root
        self._records: JsonArray = index_lines(path) if path.suffix == ".jsonl" else index_records(path)
        self._numbers, self._turns = array("Q"), array("Q")
        seen: set[str] = set()
        for number, record in enumerate(self._records):
            with blaming(self._records.where(number)):
                turns = turns_of(record)
                image = _text(record, "image")
                if image not in seen and not (self.root / image).is_file():
                    raise FileNotFoundError(2, "", str(self.root / image))
                seen.add(image)
            for turn in range(len(turns)):
                self._numbers.append(number)
                self._turns.append(turn)
        if not self._numbers:
            raise UserError(f"{path} holds no pair of a question and an answer.")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Pair:
        record = self._records[self._numbers[index]]
        question, answer = turns_of(record)[self._turns[index]]
        return Pair(record["image"], ImageFile(str(self.root / record["image"])), question, answer)


def turns_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The questions and answers of a record, in order.

    Raises:
        ValueError: if it is of neither kind.
    """
    if "conversations" not in record:
        return [(_text(record, "question"), _text(record, "answer"))]
    said = record["conversations"]
    if not isinstance(said, list) or not said or len(said) % 2:
        raise ValueError('"conversations" should be a list of questions, each followed by its answer')
    for number, one in enumerate(said):
        if not isinstance(one, Mapping) or one.get("from") not in SPEAKERS[number % 2]:
            raise ValueError(
                f'turn {number} of "conversations" should be from {" or ".join(SPEAKERS[number % 2])}'
            )
    return [
        (_text(asked, "value"), _text(told, "value"))
        for asked, told in zip(said[::2], said[1::2], strict=True)
    ]


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} should be a text that is not empty, but is {value!r}")
    return value


class PairStream(ImageStream):
    """An endless stream of examples without marks, in a seeded order."""

    def __init__(self, pairs: Pairs, policy: Checkpoint, *, seed: int, together: int, skip: int = 0) -> None:
        super().__init__(len(pairs) // together, seed=seed, skip=skip)
        self.pairs, self.policy, self.together = pairs, policy, together

    def about(self, image: int, epoch: int) -> Iterator[SegExample]:
        """See `ImageStream.about`; an "image" is as many pairs as belong together."""
        loaded: dict[str, Image.Image] = {}
        for index in range(image * self.together, (image + 1) * self.together):
            pair = self.pairs[index]
            if pair.image_id not in loaded:
                loaded[pair.image_id] = pair.load_image()
            shown = loaded[pair.image_id]
            # No text of the file is taken for a mark: it would stand for a mask that there is not.
            answer = plain_question(pair.answer, self.policy.special_tokens)
            yield SegExample(
                pair.image_id, self.policy.model_image(shown), np.asarray(shown), pair.question, answer, ()
            )
