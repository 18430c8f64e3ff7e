"""Sets whose questions are lines `<name> <phrase>` of a text file, with one label image per name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envs.datasets.reading.pixels.images import IMAGE_SUFFIXES, ImageFile, image_wh, read_mask
from envs.datasets.reading.pixels.labels import OwnRule
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.text import text_lines
from envs.masks import encode_rle
from envs.sample import Sample
from prompter.errors import UserError


@dataclass(frozen=True)
class _Line:
    number: int  # from 1
    name: str
    phrase: str


def open_phrases(
    name: str,
    split: str,
    phrases: Path,
    images: Path,
    masks: Path,
    suffix: str,
    own: OwnRule | str,
    skip_bad: bool,
    encoding: str | None = None,
) -> RecordSource[_Line]:
    """Open one split.

    Args:
        name, split: of the dataset.
        phrases: the text file. Between name and phrase there may be any white space.
        images, masks: folders of image and label files; a pair shares its name.
        suffix: ".tif" is added to names that have no suffix of an image; names that have one keep it.
        own: the set's rule of which label values are target, as `reading.pixels.images.read_mask` has it.
        skip_bad: leave bad lines out, told in `.skipped`, instead of raising.
        encoding: of the text file, where it is not UTF-8.

    Raises:
        UserError: naming file and line of the first line without a phrase.
    """
    lines: list[_Line] = []
    skipped: list[str] = []
    with blaming(f"phrases {phrases}"):
        texts = text_lines(phrases, encoding)
    for number, line in enumerate(texts, start=1):
        words = line.split(maxsplit=1)
        if not words:
            continue
        if len(words) == 2:
            has_suffix = Path(words[0]).suffix.lower() in IMAGE_SUFFIXES
            lines.append(_Line(number, words[0] if has_suffix else words[0] + suffix, words[1].strip()))
            continue
        problem = (
            f"{phrases}, line {number}: it must be a name, a space and a phrase, but is {line.strip()!r}."
        )
        if not skip_bad:
            raise UserError(problem)
        skipped.append(problem)

    def build(line: _Line) -> Sample:
        with blaming(f"{phrases}, line {line.number}"):
            wh = image_wh(images / line.name)
            target = read_mask(masks / line.name, wh, own)
        return Sample(
            sample_id=f"line-{line.number}",
            dataset=name,
            split=split,
            image_id=Path(line.name).with_suffix("").as_posix(),
            image_wh=wh,
            load_image=ImageFile(str(images / line.name)),
            query=line.phrase,
            target=encode_rle(target),
        )

    return RecordSource(name, split, lines, build, skip_bad=skip_bad, skipped=skipped)
