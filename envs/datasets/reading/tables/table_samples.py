"""From the rows of a table to samples: which columns hold what, and how a row is asked about.

`open_flat_table` is for tables with an image, a question (or several) and a mask in each row. Tables of
another shape bring a `RowReader` of their own to `open_rows`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from envs.datasets.reading.pixels.labels import OwnRule
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.tables.hub import HubTable, open_hub_table
from envs.masks import Mask, encode_rle
from envs.sample import Sample
from prompter.errors import UserError, did_you_mean
from prompter.types import Box

WITHOUT_QUESTION = "records without a question"
"""Left out by every table; a key of `left_out`."""

ROLES = ("image", "text", "mask", "answer", "image_id")
_REMEDY = " Say which column it is by the option 'columns', as in columns.{role}=NAME."


@dataclass(frozen=True)
class ColumnNames:
    """The names a column may have, the likeliest first, by what it holds.

    Args:
        image: the image.
        text: the question, or a list of questions.
        mask: the mask.
        answer: an answer in words, where the set has them; may be missing from a table.
        image_id: what names the image; may be missing. Without it, images of equal bytes are one image.
    """

    image: Sequence[str] = ("image", "images", "img")
    text: Sequence[str] = ("text", "question", "problem")
    mask: Sequence[str] = ("mask", "masks", "label", "labels")
    answer: Sequence[str] = ()
    image_id: Sequence[str] = ()

    def chosen(self, columns: Mapping[str, str] | None) -> ColumnNames:
        """With the user's choice for some of them; UserError for a role that does not exist."""
        for role in columns or {}:
            if role not in ROLES:
                raise UserError(f"option 'columns' has no part {role!r}.{did_you_mean(role, ROLES)}")
        given = {role: (name,) for role, name in (columns or {}).items()}
        return ColumnNames(**{role: given.get(role, getattr(self, role)) for role in ROLES})


@dataclass(frozen=True)
class Answer:
    """What is asked for: a target [height, width], or boxes (XYXY, pixels) where there is no mask."""

    target: Mask | None
    boxes: tuple[Box, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


class RowReader(Protocol):
    """Reads the rows of one table."""

    def questions(self, row: int) -> Sequence[tuple[int, str]]:
        """(number, text) of what the row asks; the number is what `answer` is asked for."""
        ...

    def answer(self, row: int, number: int, wh: tuple[int, int]) -> Answer:
        """The answer to one question, for an image of `wh` (width, height)."""
        ...


Pick = Callable[[str, int], Iterable[int]]
"""(name of an image, how many questions it has) -> the numbers of those to ask."""


def open_rows(
    name: str,
    split: str,
    table: HubTable,
    image_column: str,
    reader: RowReader,
    *,
    pick: Pick | None = None,
    image_key: Callable[[int], Any] | None = None,
    skip_bad: bool = False,
    left_out: Mapping[str, int] | None = None,
) -> RecordSource[tuple[int, int]]:
    """Make a source of a table's rows.

    Args:
        name, split: of the dataset.
        table: the rows.
        image_column: the column of the images.
        reader: reads questions and answers.
        pick: which of an image's questions to ask; None asks all.
        image_key: row -> what tells its image from others; rows of one key are about one image. None
            makes each row an image of its own.
        skip_bad: leave bad rows out, told in `.skipped`, instead of raising.
        left_out: what the reader leaves out, counted; filled while its questions are read. Without it,
            rows that ask nothing are counted here.

    Raises:
        UserError: if a row is bad.
    """
    images: dict[Any, list[tuple[int, int]]] = {}
    skipped: list[UserError] = []
    empty = 0
    for row in range(len(table)):
        try:
            questions = reader.questions(row)
            key = row if image_key is None else image_key(row)
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)
            continue
        empty += not questions and left_out is None
        if questions:
            images.setdefault(key, []).extend((row, number) for number, _ in questions)
    first_rows: dict[int, int] = {}
    records: list[tuple[int, int]] = []
    for questions_of_image in images.values():
        first = questions_of_image[0][0]
        count = len(questions_of_image)
        wanted = range(count) if pick is None else pick(f"row-{first}", count)
        records.extend(questions_of_image[number] for number in wanted)
        first_rows.update((row, first) for row, _ in questions_of_image)

    def build(record: tuple[int, int]) -> Sample:
        row, number = record
        image = table.image(row, image_column)
        wh = image.wh()
        answer = reader.answer(row, number, wh)
        return Sample(
            sample_id=f"row-{row}/{number}",
            dataset=name,
            split=split,
            image_id=f"row-{first_rows[row]}",
            image_wh=wh,
            load_image=image,
            query=dict(reader.questions(row))[number],
            target=None if answer.target is None else encode_rle(answer.target),
            boxes=answer.boxes,
            tags=answer.tags,
        )

    counted = {**(left_out or {}), **({WITHOUT_QUESTION: empty} if empty else {})}
    return RecordSource(name, split, records, build, skip_bad=skip_bad, skipped=skipped, left_out=counted)


Decide = Callable[[Any, Mask], Answer]
"""(the value of the column `answer`, or None without one; the stored mask) -> the answer."""


@dataclass(frozen=True)
class FlatReader:
    """Rows of a question (or several about the same mask) and a mask."""

    table: HubTable
    text_column: str
    mask_column: str
    answer_column: str | None = None
    own: OwnRule | str = "two"
    decide: Decide = lambda _, mask: Answer(mask)

    def questions(self, row: int) -> Sequence[tuple[int, str]]:
        """As `RowReader`."""
        with blaming(self.table.where(row, self.text_column)):
            return asked(self.table.value(row, self.text_column))

    def answer(self, row: int, number: int, wh: tuple[int, int]) -> Answer:
        """As `RowReader`."""
        said = None if self.answer_column is None else self.table.value(row, self.answer_column)
        mask = self.table.mask(row, self.mask_column, wh, self.own)
        with blaming(self.table.where(row, self.answer_column or self.mask_column)):
            return self.decide(said, mask)


def open_flat_table(
    name: str,
    split: str,
    place: str,
    names: ColumnNames,
    *,
    columns: Mapping[str, str] | None = None,
    table_split: str | None = None,
    pick: Pick | None = None,
    own: OwnRule | str = "two",
    decide: Decide = lambda _, mask: Answer(mask),
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open a table with an image, a question (or several) and a mask in each row.

    Args:
        name, split: of the dataset.
        place: as `reading.tables.hub.open_hub_table` takes it; `table_split` as well.
        names: what the set's copies call their columns.
        columns: the user's choice, role -> column.
        pick: which of an image's questions to ask; then rows of one image are found, by `image_id` or by
            the bytes of the image, because some copies have a row for each question.
        own: the set's rule of which values of a label image are target, as `pixels.images.read_mask` has it.
        decide: what answer and mask say together.
        skip_bad: leave bad rows out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if it cannot be loaded, lacks a column, or a row is bad.
    """
    table = open_hub_table(place, split, table_split)
    chosen = names.chosen(columns)
    found = {role: table.column(getattr(chosen, role), _REMEDY.format(role=role)) for role in ROLES[:3]}
    answer, image_id = (_optional(table, getattr(chosen, role), columns, role) for role in ROLES[3:])
    reader = FlatReader(table, found["text"], found["mask"], answer, own, decide)

    def image_key(row: int) -> Any:
        if image_id is not None:
            return table.value(row, image_id)
        source = table.image(row, found["image"]).stored()
        return source if isinstance(source, Path) else hashlib.blake2b(source, digest_size=16).digest()

    has_rows_of_lists = len(table) > 0 and not isinstance(table.value(0, found["text"]), str)
    return open_rows(
        name,
        split,
        table,
        found["image"],
        reader,
        pick=pick,
        image_key=None if pick is None or (has_rows_of_lists and image_id is None) else image_key,
        skip_bad=skip_bad,
    )


def _optional(
    table: HubTable, names: Sequence[str], columns: Mapping[str, str] | None, role: str
) -> str | None:
    if role in (columns or {}):
        return table.column(names)  # one that the user names must be there
    return next((name for name in names if name in table.columns), None)


def asked(value: Any) -> list[tuple[int, str]]:
    """The questions of a text or a list of texts, with their numbers from 0; blank ones are left out.

    Raises:
        ValueError: if it is neither.
    """
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"it must be a question or a list of questions, but is {type(value).__name__}")
    return [(number, text.strip()) for number, text in enumerate(texts) if text.strip()]
