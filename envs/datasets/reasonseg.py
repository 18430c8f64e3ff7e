"""ReasonSeg: LISA's 1,218 reasoning questions, as its own files or as a port on the hub.

LISA's files lie side by side: `<n>.jpg` and `<n>.json`. Evaluation asks `text[0]`; training draws
from all texts. Some files are cp1252. The ports (`Ricky06662/ReasonSeg_val`, `…_test`) have one row
per question and no ignored pixels, so numbers on them differ a little from those on the files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from envs.datasets.reading.layouts.lisa_style import lisa_sample, read_lisa_annotation
from envs.datasets.reading.pixels.images import IMAGE_SUFFIXES
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import files_by_stem, find_root, only_file, table_place
from envs.datasets.reading.tables.hub import open_hub_table
from envs.masks import encode_rle
from envs.sample import Sample, SampleSource
from prompter.errors import UserError

NAME = "reasonseg"
Texts = Literal["first", "all"]


def open_reasonseg(
    split: str,
    *,
    root: str | Path | None = None,
    texts: Texts = "first",
    table_split: str | None = None,
    encoding: str | None = None,
    skip_bad: bool = False,
) -> SampleSource:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with one folder per split (also nested in `ReasonSeg/`), a folder of parquet or
            arrow files, or the id of a port on the hub.
        texts: "first" asks `text[0]` of each image, as LISA's evaluation does; "all" asks every text.
        table_split: a port's own name of the split, when it is to be another.
        encoding: of the annotation files; without it UTF-8, and what is not UTF-8 is cp1252, as with LISA.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    nested = ["ReasonSeg", "reason_seg/ReasonSeg"]
    table = table_place(NAME, root, [split], nested)
    if table is not None:
        return _open_port(split, table, table_split, skip_bad)
    folder = find_root(NAME, root, [split], nested=nested)
    return open_lisa_folder(NAME, split, folder / split, texts, encoding, skip_bad)


def open_lisa_folder(
    name: str, split: str, folder: Path, texts: Texts, encoding: str | None, skip_bad: bool
) -> RecordSource[tuple[str, int]]:
    """Open a folder of LISA-style pairs: an image and a `.json` that share their stem.

    The two lie side by side, in `folder` or in subfolders of it, or are found in different subfolders by
    a stem that only they have.

    Raises:
        UserError: if a file is bad, an image has no annotation, or an annotation no image, or a stem
            names several.
    """
    pairs: dict[str, tuple[Path, Path]] = {}
    records: list[tuple[str, int]] = []
    skipped: list[UserError] = []
    for key, images, files in _candidates(folder):
        try:
            stem = (images or files)[0].stem
            if not files:
                raise UserError(f"image {images[0]} has no annotation {stem}.json below {folder}.")
            if not images:
                raise UserError(f"annotation {files[0]} has no image {stem}.* below {folder}.")
            image = only_file({stem: images}, stem, "image")
            annotation = only_file({stem: files}, stem, "annotation")
            found = read_lisa_annotation(annotation, encoding)
            pairs[key] = image, annotation
            count = 1 if texts == "first" else len(found.texts)
            records.extend((key, text) for text in range(count))
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)

    def build(record: tuple[str, int]) -> Sample:
        key, text = record
        return lisa_sample(name, split, *pairs[key], text, {}, name=key, encoding=encoding)

    return RecordSource(name, split, records, build, skip_bad=skip_bad, skipped=skipped)


def _candidates(folder: Path) -> list[tuple[str, list[Path], list[Path]]]:
    """(name, images, annotations) that may belong together, sorted by name; one file each in a whole set.

    Files of one stem in one folder belong together. What is alone in its folder is put to what is alone in
    another and has its stem. The name is the stem, or the path below `folder` where several have it.
    """
    beside: list[tuple[str, list[Path], list[Path]]] = []
    alone: dict[str, tuple[list[Path], list[Path]]] = {}
    for place in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
        images, files = files_by_stem([place], IMAGE_SUFFIXES), files_by_stem([place], (".json",))
        for stem in images.keys() | files.keys():
            pair = images.get(stem, []), files.get(stem, [])
            if all(pair):
                beside.append((stem, *pair))
            else:
                pool = alone.setdefault(stem, ([], []))
                pool[0].extend(pair[0])
                pool[1].extend(pair[1])
    found = [*beside, *((stem, *pool) for stem, pool in alone.items())]
    times = Counter(stem for stem, _, _ in found)

    def name(stem: str, first: Path) -> str:
        return stem if times[stem] == 1 else first.relative_to(folder).with_suffix("").as_posix()

    named = [(name(stem, (images or notes)[0]), images, notes) for stem, images, notes in found]
    return sorted(named, key=lambda one: one[0])


def _open_port(split: str, place: str, table_split: str | None, skip_bad: bool) -> RecordSource[int]:
    table = open_hub_table(place, split, table_split)
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
