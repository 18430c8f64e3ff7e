"""Polygon files as LISA writes them: one JSON beside each image, with `text`, `is_sentence`, `shapes`.

The drawing rule is that of LISA's own loader, because the published numbers rest on it (for the shapes see
`envs.datasets.reading.pixels.labelme`): larger shapes are drawn
first, so that a small "ignore" inside a large target survives; label `flag` is skipped; a label
holding "ignore" marks pixels that no metric counts; any other label is target.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.datasets.reading.faults import Fault, note
from envs.datasets.reading.pixels.images import ImageFile, image_wh
from envs.datasets.reading.pixels.labelme import Shape, read_shape
from envs.datasets.reading.pixels.labels import fitted
from envs.datasets.reading.records import blaming
from envs.datasets.reading.rules import in_force
from envs.datasets.reading.text import decode_text, truth
from envs.masks import Mask, encode_rle
from envs.sample import Sample


@dataclass(frozen=True)
class LisaAnnotation:
    """What one file holds.

    Args:
        place: names the file in errors.
        texts, is_sentence: what is asked.
        shapes: all but those labelled "flag".
        drawn_hw: (height, width) of the image that the shapes were drawn on, where the file says it.
    """

    place: str
    texts: tuple[str, ...]
    is_sentence: bool
    shapes: tuple[Shape, ...]
    drawn_hw: tuple[int, int] | None = None

    def draw(self, hw: tuple[int, int]) -> tuple[Mask, Mask]:
        """Return (target, ignore), each [height, width] for `hw` (height, width).

        Raises:
            UserError: if the shapes of the target draw nothing, their numbers look normalized, or they were
                drawn on an image that is turned against this one.
        """
        with blaming(self.place):
            if self.drawn_hw is not None and hw[0] != hw[1] and self.drawn_hw == hw[::-1]:
                raise Fault(
                    "mask_size",
                    f"it was drawn on an image of {hw[0]} x {hw[1]} (width x height), but its image is "
                    f"{hw[1]} x {hw[0]}; one of them is turned, see the option orientation",
                )
            frame = self._frame(hw)
            drawn = [(shape.label, fitted(shape.draw(frame), hw)) for shape in self.shapes]
            of_target = [mask for label, mask in drawn if "ignore" not in label]
            if of_target and not any(mask.any() for mask in of_target):
                reason = (
                    f"none of its shapes draws anything inside the {hw[1]} x {hw[0]} image (width x height)"
                )
                if in_force().empty_object == "refuse":
                    raise Fault("nothing_drawn", f"{reason}; the option empty_object=keep reads no target")
                note("nothing_drawn", f"{reason}.")
        drawn = sorted(drawn, key=lambda shape: int(shape[1].sum()))[::-1]  # of equals, the last first
        target = np.zeros(hw, dtype=np.bool_)
        ignore = np.zeros(hw, dtype=np.bool_)
        for label, mask in drawn:
            is_ignore = "ignore" in label
            target[mask], ignore[mask] = not is_ignore, is_ignore
        return target, ignore

    def _frame(self, hw: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what the shapes are drawn on: the image, or that of which the file speaks."""
        drawn = self.drawn_hw
        if drawn is None or drawn == hw or in_force().units not in (None, "pixels"):
            return hw
        if in_force().mask_size == "resize":
            return drawn
        note(
            "mask_size",
            f"it was drawn on an image of {drawn[1]} x {drawn[0]} (width x height), but its image is "
            f"{hw[1]} x {hw[0]}; its numbers are taken for pixels of its image, and the option "
            f"mask_size=resize scales them.",
        )
        return hw


def read_lisa_annotation(path: Path, encoding: str | None = None) -> LisaAnnotation:
    """Read one annotation file.

    Args:
        path: the file.
        encoding: of its text. Without it that is UTF-8, or cp1252 where that fails, as in LISA's own
            loader; but what looks like another script is refused, because cp1252 would read nonsense.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    with blaming(f"annotation {path}"):
        data = _load(path, encoding)
        texts = data["text"]
        if isinstance(texts, str):
            texts = [texts]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError("the key 'text' must hold at least one question")
        written = data["shapes"]
        if not isinstance(written, list) or not all(isinstance(shape, Mapping) for shape in written):
            raise ValueError("the key 'shapes' must be a list of objects")
        shapes = [
            read_shape(number, shape)
            for number, shape in enumerate(written)
            if str(shape["label"]).lower() != "flag"
        ]
        is_sentence = truth(data.get("is_sentence", True))
        if is_sentence is None:
            raise ValueError(f"the key 'is_sentence' must be true or false, but is {data['is_sentence']!r}")
        return LisaAnnotation(f"annotation {path}", tuple(texts), is_sentence, tuple(shapes), _drawn_hw(data))


def _drawn_hw(data: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = data.get("imageHeight"), data.get("imageWidth")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        return None
    return (height, width) if height * width <= in_force().max_pixels else None


def lisa_sample(
    dataset: str,
    split: str,
    image: Path,
    annotation: Path,
    text_index: int,
    tags: dict[str, str],
    *,
    name: str | None = None,
    encoding: str | None = None,
) -> Sample:
    """Build the sample for one text of one annotated image.

    Args:
        dataset, split: it belongs to.
        image, annotation: the files.
        text_index: which of the texts is asked, from 0.
        tags: added to those found here.
        name: of the image within the split; None is the files' stems.
        encoding: as for `read_lisa_annotation`.
    """
    found = read_lisa_annotation(annotation, encoding)
    width, height = image_wh(image)
    target, ignore = found.draw((height, width))
    with blaming(f"annotation {annotation}"):
        query = found.texts[text_index]
    return Sample(
        sample_id=f"{name or annotation.stem}/{text_index}",
        dataset=dataset,
        split=split,
        image_id=name or image.stem,
        image_wh=(width, height),
        load_image=ImageFile(str(image)),
        query=query,
        target=encode_rle(target),
        ignore=encode_rle(ignore) if ignore.any() else None,
        tags={"length": "long" if found.is_sentence else "short", **tags},
    )


def _load(path: Path, encoding: str | None) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        text = decode_text(raw, encoding)
    except ValueError:
        if encoding is not None or _is_no_latin(raw):
            raise
        text = raw.decode("cp1252")
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it must be a JSON object")
    return data


_NO_LATIN = re.compile(
    rb"[\xa1-\xff]{4}|(?:[\x81-\xfe][\x40-\x7e\x80-\xfe]){4}|(?:\x82[\x9f-\xf1]|\x83[\x40-\x96]){2}"
    rb"|[\x81\x8d\x8f\x90\x9d]"
)
"""What Latin text in cp1252 does not hold: four letters with accents in a row, as two frequent characters of
GBK, Big5 or EUC-KR, or a word of Cyrillic or Greek, are; four characters of two bytes; kana of Shift-JIS;
bytes that mean nothing."""


def _is_no_latin(raw: bytes) -> bool:
    """Whether bytes that are not UTF-8 are not cp1252 either, as far as can be told."""
    return _NO_LATIN.search(raw) is not None
