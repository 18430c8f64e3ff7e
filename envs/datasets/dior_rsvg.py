"""DIOR-RSVG: 38,320 expressions on 800 x 800 images with one box each, no masks (Acc@0.5).

Each XML file describes the objects of one image; the split files hold numbers of objects, counted from 0
through all XML files. The original loader counts in the order in which the file system lists the
folder; here it is the order of the file names.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from envs.datasets.reading.annotations import xyxy_box
from envs.datasets.reading.images import ImageFile, image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, need_existing
from envs.sample import Sample
from prompter.errors import UserError

NAME = "dior-rsvg"


@dataclass(frozen=True)
class _Object:
    number: int  # through all files
    file: str
    index: int  # within the file


def open_dior_rsvg(split: str, *, root: Path | None = None, skip_bad: bool = False) -> RecordSource[_Object]:
    """Open one split.

    Args:
        split: train, val or test.
        root: the folder with `JPEGImages/`, `Annotations/` and `<split>.txt`.
        skip_bad: leave bad records out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a record is bad.
    """
    names = [f"{split}.txt", f"ImageSets/Main/{split}.txt"]
    folder = find_root(NAME, root, names, nested=["DIOR_RSVG", "DIOR-RSVG"])
    images = need_existing(NAME, folder, ["JPEGImages", "images"])
    annotations = need_existing(NAME, folder, ["Annotations", "annotations"])
    listing = need_existing(NAME, folder, names)
    with blaming(str(listing)):
        wanted = {int(word) for word in listing.read_text(encoding="utf-8").split()}
    records: list[_Object] = []
    number = 0
    for path in sorted(annotations.glob("*.xml")):
        count = len(_objects(path))
        records.extend(_Object(number + i, path.name, i) for i in range(count) if number + i in wanted)
        number += count
    missing = sorted(wanted - {record.number for record in records})
    skipped = [f"{listing}: object {one} does not exist; the files hold {number}." for one in missing]
    if skipped and not skip_bad:
        raise UserError(skipped[0])

    def build(record: _Object) -> Sample:
        path = annotations / record.file
        found = _objects(path)
        with blaming(f"{path}, object {record.index}"):
            element = found[record.index]
            image = images / _text(_parse(path), "filename")
            wh = image_wh(image)
            sides = [float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
            return Sample(
                sample_id=f"object-{record.number}",
                dataset=NAME,
                split=split,
                image_id=image.stem,
                image_wh=wh,
                load_image=ImageFile(str(image)),
                query=_text(element, "description"),
                target=None,
                boxes=(xyxy_box(sides, wh),),
                tags={"category": _text(element, "name")},
            )

    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped)


def _parse(path: Path) -> ElementTree.Element:
    with blaming(str(path)):
        return ElementTree.parse(path).getroot()


def _objects(path: Path) -> list[ElementTree.Element]:
    return _parse(path).findall("object")


def _text(element: ElementTree.Element, name: str) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"the element {name!r} is missing or empty")
    return text
