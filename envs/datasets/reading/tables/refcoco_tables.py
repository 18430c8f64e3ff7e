"""RefCOCO, RefCOCO+ and RefCOCOg as tables: the two copies whose columns are public.

`jxu124/refcoco-benchmark` has a row for each image: `image`, and `ref_list`, of which each entry holds COCO's
annotation (`ann_info`, with polygons) and the reference (`ref_info`, with its sentences). One table holds
all three sets; a split's name says set, splitting and split, as in `refcoco_unc_val`. `lmms-lab/RefCOCO`,
`…plus` and `…g` have a row for each reference: `image`, the sentences in `answer` (the column `question` is
the same prompt everywhere), and one flat polygon in `segmentation`. By its counts, the val split of RefCOCO
there is that of `unc` and that of `google` in one (3,811 + 5,000 references).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from envs.datasets.reading.pixels.annotations import annotation_to_mask
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.tables.hub import HubTable, open_hub_table
from envs.datasets.reading.tables.table_samples import Answer, asked, open_rows

IN_TABLES = {"refcoco": "refcoco", "refcoco+": "refcoco_plus", "refcocog": "refcocog"}
"""Our name -> the one in `jxu124/refcoco-benchmark`."""


def open_refcoco_table(
    name: str,
    split: str,
    place: str,
    split_by: str,
    text: Literal["raw", "sent"],
    *,
    table_split: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open one split of one of the three sets.

    Args:
        name, split: of the dataset: refcoco, refcoco+ or refcocog.
        place: as `open_hub_table` takes it.
        split_by: whose split, as in `refcoco_<split_by>_val`.
        text: the wording as written or as normalised, where the table holds both.
        table_split: the table's own name of the split, where it is to be another.
        skip_bad: leave bad rows out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if it cannot be loaded, has no such split or other columns, or a row is bad.
    """
    joint = f"{IN_TABLES[name]}_{split_by}_{split}"
    table = open_hub_table(place, split, table_split, also=joint)
    image = table.column(["image"])
    column = table.column(["ref_list", "answer"])
    if column == "ref_list":
        reader: _ByImage | _ByReference = _ByImage(table, text)
    else:
        reader = _ByReference(table, column, table.column(["segmentation"]))
    return open_rows(name, split, table, image, reader, skip_bad=skip_bad)


@dataclass(frozen=True)
class _ByImage:
    """Rows `ref_list: [{ann_info: {segmentation: [[x, y, …], …]}, ref_info: {sentences: [{raw, sent}]}}]`.

    Questions are numbered through all sentences of the row.
    """

    table: HubTable
    text: Literal["raw", "sent"]

    def _sentences(self, row: int) -> list[tuple[Any, Any]]:
        """(annotation, sentence) for each sentence of the row."""
        value = self.table.value(row, "ref_list")
        with blaming(self.table.where(row, "ref_list")):
            return [
                (entry["ann_info"], sentence[self.text])
                for entry in value
                for sentence in entry["ref_info"]["sentences"]
            ]

    def questions(self, row: int) -> Sequence[tuple[int, str]]:
        """As `reading.tables.table_samples.RowReader`."""
        with blaming(self.table.where(row, "ref_list")):
            return asked([text for _, text in self._sentences(row)])

    def answer(self, row: int, number: int, wh: tuple[int, int]) -> Answer:
        """As `reading.tables.table_samples.RowReader`."""
        annotation, _ = self._sentences(row)[number]
        with blaming(self.table.where(row, "ref_list")):
            segmentation = annotation["segmentation"]
            if not segmentation:
                raise ValueError("it has no segmentation")
            return Answer(annotation_to_mask(segmentation, (wh[1], wh[0])), tags={"multiplicity": "one"})


@dataclass(frozen=True)
class _ByReference:
    """Rows `answer: [sentence, …], segmentation: [x, y, …]`."""

    table: HubTable
    text_column: str
    mask_column: str

    def questions(self, row: int) -> Sequence[tuple[int, str]]:
        """As `reading.tables.table_samples.RowReader`."""
        with blaming(self.table.where(row, self.text_column)):
            return asked(self.table.value(row, self.text_column))

    def answer(self, row: int, number: int, wh: tuple[int, int]) -> Answer:
        """As `reading.tables.table_samples.RowReader`."""
        polygon = self.table.value(row, self.mask_column)
        with blaming(self.table.where(row, self.mask_column)):
            if not polygon:
                raise ValueError("it has no segmentation")
            polygons = polygon if isinstance(polygon[0], list) else [polygon]
            return Answer(annotation_to_mask(polygons, (wh[1], wh[0])), tags={"multiplicity": "one"})
