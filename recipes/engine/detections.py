"""Boxes that somebody else found: COCO's JSON, a table in CSV, or a line of JSON per image."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.datasets.reading.records import blaming
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from prompter.types import Box

COLUMNS = ("image_path", "xmin", "ymin", "xmax", "ymax", "label")
"""Of a table in CSV, as DeepForest and many detectors write it; others are not read."""


@dataclass(frozen=True)
class Detection:
    """A box with the category of what is in it.

    Args:
        box: XYXY, half-open, pixels of the image.
        label: category, as the file writes it.
    """

    box: Box
    label: str


Detections = Mapping[str, Sequence[Detection]]
"""An image's name, as the file writes it -> its boxes, in the order of the file."""


def read_detections(path: Path) -> Detections:
    """Read a file of detections.

    - `.json`: COCO (`images`, `annotations` with `bbox` [x, y, width, height], `categories`);
    - `.csv`: a table with the columns `COLUMNS`;
    - `.jsonl`: {"image": …, "boxes": [[x1, y1, x2, y2], …], "labels": […]} per line.

    Raises:
        UserError: naming file and record, if it cannot be read or a box is none.
    """
    readers = {".json": _coco, ".csv": _table, ".jsonl": _lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is none of {', '.join(readers)}; see docs/engine.md for their forms.")
    found: dict[str, list[Detection]] = {}
    for image, detection in reader(path):
        found.setdefault(image, []).append(detection)
    if not found:
        raise UserError(f"{path} holds no box.")
    return found


def of_image(detections: Detections, name: str) -> Sequence[Detection]:
    """The boxes of an image by its path below the folder of images, or else by its file name alone."""
    return detections.get(name) or detections.get(Path(name).name) or ()


def _coco(path: Path) -> Iterator[tuple[str, Detection]]:
    with blaming(str(path)):
        data = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in data["images"]}
        labels = {category["id"]: str(category["name"]) for category in data["categories"]}
        annotations = list(data["annotations"])
    for number, one in enumerate(annotations):
        with blaming(f"{path}, annotation {number}"):
            x, y, width, height = one["bbox"]
            name = names[one["image_id"]]
            detection = _detection((x, y, x + width, y + height), labels[one["category_id"]])
        yield name, detection


def _table(path: Path) -> Iterator[tuple[str, Detection]]:
    with blaming(str(path)):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    for number, row in enumerate(rows, start=2):
        with blaming(f"{path}, line {number}"):
            numbers = [float(row[name]) for name in COLUMNS[1:5]]
            detection = _detection(numbers, row["label"])
            name = row["image_path"]
        yield name, detection


def _lines(path: Path) -> Iterator[tuple[str, Detection]]:
    for number, record in enumerate(read_lines(path), start=1):
        with blaming(f"{path}, line {number}"):
            name, boxes, labels = str(record["image"]), record["boxes"], record["labels"]
            if len(boxes) != len(labels):
                raise ValueError(f"there are {len(boxes)} boxes, but {len(labels)} labels")
            found = [_detection(box, label) for box, label in zip(boxes, labels, strict=True)]
        yield from ((name, detection) for detection in found)


def _detection(box: Any, label: Any) -> Detection:
    x1, y1, x2, y2 = (float(value) for value in box)
    if not (all(map(math.isfinite, (x1, y1, x2, y2))) and x2 > x1 and y2 > y1):
        raise ValueError(f"a box must have x2 > x1 and y2 > y1, but is {list(box)}")
    if not str(label or "").strip():
        raise ValueError("a box needs a label that is not empty")
    return Detection((x1, y1, x2, y2), str(label).strip())
