"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO: expressions on COCO's train2014 images, REFER format.

The images of all four are COCO's; `file_name` in a reference carries an annotation number, so the
name is taken from the COCO file. gRefCOCO asks for several objects (`ann_id` is a list) or for
none (`[-1]`), and publishes references without any sentence, which its authors skip; they are counted.
Its paper's own loader (ReLA's) also leaves annotations of crowds out of the target.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from envs.datasets.reading.layouts.refer import ReferReader, read_references
from envs.datasets.reading.records import RecordSource
from envs.datasets.reading.roots import find_root, need_existing, not_found, table_place
from envs.datasets.reading.tables.refcoco_tables import IN_TABLES, open_refcoco_table

IMAGE_FOLDERS = (
    "images/mscoco/images/train2014",
    "images/train2014",
    "images/mscoco/train2014",
    "train2014",
    "coco/train2014",
)
SplitBy = Literal["unc", "umd", "google"]


def open_refcoco(
    split: str,
    *,
    root: Path | None = None,
    images: Path | None = None,
    split_by: SplitBy = "unc",
    text: Literal["raw", "sent"] = "sent",
    encoding: str | None = None,
    table_split: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open a split of RefCOCO.

    Args:
        split: train, val, testA or testB (`unc`; `google` has train, val and test).
        root: the folder with `refcoco/` and the images, or the former itself; a folder of tables, or a hub id
            (see `reading.refcoco_tables`).
        images: COCO's train2014 folder, when it is elsewhere.
        split_by: whose split.
        text: the wording as written or as normalised (which LISA and most others evaluate).
        encoding: of the text, where it is not UTF-8.
        table_split: a table's own name of the split, where it is to be another.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    return _open("refcoco", split, root, images, split_by, text, encoding, skip_bad, table_split=table_split)


def open_refcoco_plus(
    split: str,
    *,
    root: Path | None = None,
    images: Path | None = None,
    split_by: SplitBy = "unc",
    text: Literal["raw", "sent"] = "sent",
    encoding: str | None = None,
    table_split: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open a split of RefCOCO+ (folder `refcoco+/`); arguments as for `open_refcoco`."""
    return _open("refcoco+", split, root, images, split_by, text, encoding, skip_bad, table_split=table_split)


def open_refcocog(
    split: str,
    *,
    root: Path | None = None,
    images: Path | None = None,
    split_by: SplitBy = "umd",
    text: Literal["raw", "sent"] = "sent",
    encoding: str | None = None,
    table_split: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open a split of RefCOCOg (train, val, test by `umd`); arguments as for `open_refcoco`."""
    return _open("refcocog", split, root, images, split_by, text, encoding, skip_bad, table_split=table_split)


def open_grefcoco(
    split: str,
    *,
    root: Path | None = None,
    images: Path | None = None,
    text: Literal["raw", "sent"] = "sent",
    targets: Literal["all", "rela"] = "all",
    encoding: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[tuple[int, int]]:
    """Open a split of gRefCOCO (train, val, testA, testB); arguments as for `open_refcoco`.

    Args:
        targets: "all" takes every annotation that a reference names; "rela" leaves out those of crowds and
            polygons under three points, as ReLA does. The sample stays, and has a target by its tag even
            if nothing of it is left.
    """
    return _open("grefcoco", split, root, images, "unc", text, encoding, skip_bad, targets == "rela")


def _open(
    name: str,
    split: str,
    root: Path | None,
    images: Path | None,
    split_by: SplitBy,
    text: Literal["raw", "sent"],
    encoding: str | None,
    skip_bad: bool,
    as_rela: bool = False,
    table_split: str | None = None,
) -> RecordSource[tuple[int, int]]:
    stem = "grefs" if name == "grefcoco" else "refs"
    names = [f"{stem}({split_by}).p", f"{stem}({split_by}).json"]
    nested = [name, f"refer_seg/{name}"]
    place = table_place(name, root, names, nested) if name in IN_TABLES else None
    if place is not None:
        return open_refcoco_table(
            name, split, place, split_by, text, table_split=table_split, skip_bad=skip_bad
        )
    folder = find_root(name, root, names, nested)
    image_folder = images or _image_folder(name, folder)
    skipped: list[str] | None = [] if skip_bad else None
    left_out: Counter[str] = Counter()
    path = need_existing(name, folder, names)
    references = read_references(path, split, text, skipped, left_out, encoding=encoding)
    reader = ReferReader(
        name,
        split,
        references,
        need_existing(name, folder, ["instances.json"]),
        image_folder,
        as_rela=as_rela,
        skipped=skipped,
        left_out=left_out,
    )
    return reader.source(skip_bad, skipped or ())


def _image_folder(name: str, folder: Path) -> Path:
    places = [place / inner for place in (folder, folder.parent) for inner in IMAGE_FOLDERS]
    for place in places:
        if place.is_dir():
            return place
    raise not_found(name, ["folder of COCO's train2014 images"], places)
