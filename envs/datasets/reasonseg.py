"""ReasonSeg: LISA's 1,218 reasoning questions, as its own files or as a port on the hub.

LISA's files lie side by side: `<n>.jpg` and `<n>.json`. Evaluation asks `text[0]`; training draws
from all texts. Some files are cp1252. The ports (`Ricky06662/ReasonSeg_val`, `…_test`) have one row
per question and no ignored pixels, so numbers on them differ a little from those on the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from envs.datasets.reading.hub import is_hub_id, open_hub_table
from envs.datasets.reading.images import IMAGE_SUFFIXES
from envs.datasets.reading.lisa_style import lisa_sample, read_lisa_annotation
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import default_root, find_root
from envs.masks import encode_rle
from envs.sample import Sample, SampleSource
from prompter.errors import UserError

NAME = "reasonseg"
Texts = Literal["first", "all"]


def open_reasonseg(
    split: str, *, root: Path | None = None, texts: Texts = "first", skip_bad: bool = False
) -> SampleSource:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with one folder per split (also nested in `ReasonSeg/`), a folder of parquet
            files, or the id of a port on the hub.
        texts: "first" asks `text[0]` of each image, as LISA's evaluation does; "all" asks every text.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    place = root if root is not None else default_root(NAME)
    if place is not None and (is_hub_id(place) or any(Path(place).rglob("*.parquet"))):
        return _open_port(split, str(place), skip_bad)
    folder = find_root(NAME, root, [split], nested=["ReasonSeg", "reason_seg/ReasonSeg"])
    return open_lisa_folder(NAME, split, folder / split, texts, skip_bad)


def open_lisa_folder(
    name: str, split: str, folder: Path, texts: Texts, skip_bad: bool
) -> RecordSource[tuple[str, int]]:
    """Open a folder of LISA-style pairs: an image and a `.json` that share their stem.

    The two may lie side by side or in subfolders of `folder`.

    Raises:
        UserError: if a file is bad, an image has no annotation, or an annotation no image.
    """
    images = {p.stem: p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    annotations = {p.stem: p for p in sorted(folder.rglob("*.json"))}
    records: list[tuple[str, int]] = []
    skipped: list[str] = []
    for stem in sorted(images.keys() | annotations.keys()):
        try:
            if stem not in annotations:
                raise UserError(f"image {images[stem]} has no annotation {stem}.json below {folder}.")
            if stem not in images:
                raise UserError(f"annotation {annotations[stem]} has no image {stem}.* below {folder}.")
            found = read_lisa_annotation(annotations[stem])
            count = 1 if texts == "first" else len(found.texts)
            records.extend((stem, text) for text in range(count))
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))

    def build(record: tuple[str, int]) -> Sample:
        stem, text = record
        return lisa_sample(name, split, images[stem], annotations[stem], text, {})

    return RecordSource(name, split, records, build, skip_bad=skip_bad, skipped=skipped)


def _open_port(split: str, place: str, skip_bad: bool) -> RecordSource[int]:
    table = open_hub_table(place, split)
    image_column = table.column(["image"])
    text_column = table.column(["text", "question"])
    mask_column = table.column(["mask"])

    def build(row: int) -> Sample:
        image = table.image(row, image_column)
        wh = image.wh()
        return Sample(
            sample_id=f"row-{row}",
            dataset=NAME,
            split=split,
            image_id=f"row-{row}",
            image_wh=wh,
            load_image=image,
            query=table.text(row, text_column),
            target=encode_rle(table.mask(row, mask_column, wh)),
        )

    return RecordSource(NAME, split, range(len(table)), build, skip_bad=skip_bad)
