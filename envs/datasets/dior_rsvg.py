"""DIOR-RSVG: 38,320 expressions on 800 x 800 images with one box each, no masks (Acc@0.5).

Each XML file describes the objects of one image; the split files hold numbers of objects, counted from 0
through all XML files in the order of their names, as the authors' loader counts since October 2025. Before,
it counted in the order in which the file system listed the folder. The copy as tables (a row for each image,
with its boxes, captions and categories) was made by that older loader: its splits may not be the official
ones, and its numbers of images and objects differ.

The authors' loader evaluates every box as it is written. Other loaders skip empty descriptions and boxes
that leave their image; whether the set holds any is not known.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from envs.datasets.reading.pixels.annotations import xyxy_box
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, need_existing, table_place
from envs.datasets.reading.tables.hub import HubTable, open_hub_table
from envs.datasets.reading.tables.table_samples import Answer, open_rows
from envs.datasets.reading.text import decode_text, read_text
from envs.sample import Sample
from prompter.errors import UserError
from prompter.types import Box

NAME = "dior-rsvg"
NESTED = ("DIOR_RSVG", "DIOR-RSVG")
Outside = Literal["keep", "clip", "leave_out"]
WITHOUT_DESCRIPTION = "objects without a description"
OUTSIDE = "objects whose box leaves its image (the option outside=keep takes them)"


@dataclass(frozen=True)
class _Object:
    number: int  # through all files
    file: str
    index: int  # within the file


def open_dior_rsvg(
    split: str,
    *,
    root: Path | None = None,
    outside: Outside = "keep",
    encoding: str | None = None,
    table_split: str | None = None,
    skip_bad: bool = False,
) -> RecordSource[Any]:
    """Open one split. Objects without a description are left out and counted: nothing can be asked.

    Args:
        split: train, val or test.
        root: the folder with `JPEGImages/`, `Annotations/` and `<split>.txt`, a folder of tables, or a hub
            id.
        outside: a box that leaves its image is kept as it is, as the authors evaluate it; cut to the image;
            or its object is left out and counted, as others do.
        encoding: of the XML files, where they do not say it and it is not UTF-8.
        table_split: the table's own name of the split, where it is to be another.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    names = [f"{split}.txt", f"ImageSets/Main/{split}.txt"]
    place = table_place(NAME, root, names, NESTED)
    if place is not None:
        table = open_hub_table(place, split, table_split)
        return _open_table(split, table, outside, skip_bad)
    folder = find_root(NAME, root, names, NESTED)
    images = need_existing(NAME, folder, ["JPEGImages", "images"])
    annotations = need_existing(NAME, folder, ["Annotations", "annotations"])
    listing = need_existing(NAME, folder, names)
    with blaming(str(listing)):
        wanted = {int(word) for word in read_text(listing).split()}
    records: list[_Object] = []
    skipped: list[UserError] = []
    left_out: Counter[str] = Counter()
    number = 0
    for path in sorted(annotations.glob("*.xml")):
        root_element = _parse(path, encoding)
        objects = root_element.findall("object")
        for index in (i for i in range(len(objects)) if number + i in wanted):
            try:
                reason = _left_out(path, root_element, index, images, outside)
            except UserError as error:
                if not skip_bad:
                    raise
                skipped.append(error)
                continue
            if reason is None:
                records.append(_Object(number + index, path.name, index))
            else:
                left_out[reason] += 1
        number += len(objects)
    missing = sorted(one for one in wanted if not 0 <= one < number)
    skipped += [
        UserError(f"{listing}: object {one} does not exist; the files hold {number}.") for one in missing
    ]
    if missing and not skip_bad:
        raise skipped[0]

    def build(record: _Object) -> Sample:
        path = annotations / record.file
        root_element = _parse(path, encoding)
        with blaming(f"{path}, object {record.index}"):
            element = root_element.findall("object")[record.index]
            image = images / _text(root_element, "filename")
            wh = image_wh(image)
            box, tags = _read_box(_sides(element), wh, outside)
            return Sample(
                sample_id=f"object-{record.number}",
                dataset=NAME,
                split=split,
                image_id=image.stem,
                image_wh=wh,
                load_image=ImageFile(str(image)),
                query=_text(element, "description"),
                target=None,
                boxes=(box,),
                tags={"category": _text(element, "name"), **tags},
            )

    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped, left_out=left_out)


def _left_out(
    path: Path, root: ElementTree.Element, index: int, images: Path, outside: Outside
) -> str | None:
    """Why an object is left out by rule; None when it is not. The image is opened only where it must be."""
    element = root.findall("object")[index]
    if not (element.findtext("description") or "").strip():
        return WITHOUT_DESCRIPTION
    if outside == "leave_out":
        with blaming(f"{path}, object {index}"):
            wh = image_wh(images / _text(root, "filename"))
            if _leaves(xyxy_box(_sides(element), wh), wh):
                return OUTSIDE
    return None


def _sides(element: ElementTree.Element) -> list[float]:
    return [float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]


def _leaves(box: Box, wh: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box
    return min(x1, y1) < 0 or x2 > wh[0] or y2 > wh[1]


def _read_box(sides: Sequence[float], wh: tuple[int, int], outside: Outside) -> tuple[Box, Mapping[str, str]]:
    """A box XYXY in pixels, half-open, and its tags; one without area after clipping is an error."""
    box = xyxy_box(sides, wh)
    if not _leaves(box, wh):
        return box, {}
    if outside == "clip":
        x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], wh[0]), min(box[3], wh[1])
        if x1 >= x2 or y1 >= y2:
            raise ValueError(f"its box {box} lies outside its image of {wh[0]} x {wh[1]} (width x height)")
        return (x1, y1, float(x2), float(y2)), {"box": "clipped"}
    return box, {"box": "leaves its image"}


def _parse(path: Path, encoding: str | None) -> ElementTree.Element:
    with blaming(str(path)):
        data = path.read_bytes()
        said = re.match(rb"(?:\xef\xbb\xbf)?\s*<\?xml[^>]*encoding=[\"']([\w.-]+)", data)
        name = encoding or (said[1].decode("ascii") if said else None)
        text = decode_text(data, None if name is None or name.lower() in ("utf-8", "utf-16") else name)
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))


def _text(element: ElementTree.Element, name: str) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"the element {name!r} is missing or empty")
    return text


def _open_table(split: str, table: HubTable, outside: Outside, skip_bad: bool) -> RecordSource[Any]:
    left_out: Counter[str] = Counter()
    image_column = table.column(["image"])
    reader = _ObjectRows(table, table.column(["objects"]), image_column, outside, left_out)
    return open_rows(NAME, split, table, image_column, reader, skip_bad=skip_bad, left_out=left_out)


@dataclass(frozen=True)
class _ObjectRows:
    """Rows `objects: {bbox: [XYXY, …], captions: […], categories: […]}`, one for each image."""

    table: HubTable
    column: str
    image_column: str
    outside: Outside
    left_out: Counter[str]
    seen: set[int] = field(default_factory=set)  # rows whose leave-outs are counted

    def _objects(self, row: int) -> list[tuple[Any, Any, Any]]:
        objects = self.table.value(row, self.column)
        with blaming(self.table.where(row, self.column)):
            parts = [list(objects[key]) for key in ("bbox", "captions", "categories")]
            if len({len(part) for part in parts}) > 1:
                counts = ", ".join(str(len(part)) for part in parts)
                raise ValueError(
                    f"bbox, captions and categories must be as many as each other, but are {counts}"
                )
            return list(zip(*parts, strict=True))

    def questions(self, row: int) -> Sequence[tuple[int, str]]:
        """As `reading.tables.table_samples.RowReader`."""
        kept: list[tuple[int, str]] = []
        left: Counter[str] = Counter()
        for number, (box, caption, _) in enumerate(self._objects(row)):
            if not isinstance(caption, str) or not caption.strip():
                left[WITHOUT_DESCRIPTION] += 1
            elif self.outside == "leave_out" and self._leaves(row, box):
                left[OUTSIDE] += 1
            else:
                kept.append((number, caption.strip()))
        if row not in self.seen:
            self.seen.add(row)
            self.left_out.update(left)
        return kept

    def _leaves(self, row: int, box: Any) -> bool:
        wh = self.table.image(row, self.image_column).wh()
        with blaming(self.table.where(row, self.column)):
            return _leaves(xyxy_box(box, wh), wh)

    def answer(self, row: int, number: int, wh: tuple[int, int]) -> Answer:
        """As `reading.tables.table_samples.RowReader`."""
        box, _, category = self._objects(row)[number]
        with blaming(self.table.where(row, self.column)):
            read, tags = _read_box(box, wh, self.outside)
        return Answer(None, (read,), {"category": str(category), **tags})
