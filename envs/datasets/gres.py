"""GRES, the segmentation half of LISAt's data: LISA-style polygons of very small targets.

Train files hold three texts, val and test files one. The `*.txt` lists name many ids twice; each is
taken once. `small.txt` and `large.txt` are named in the set's description but absent, so the two
halves of the test split are told apart by area: small is under 500 pixels, as in the paper.
"""

from __future__ import annotations

from pathlib import Path

from envs.datasets.reading.layouts.lisa_style import lisa_sample, read_lisa_annotation
from envs.datasets.reading.pixels.images import image_wh
from envs.datasets.reading.records import RecordSource, blaming
from envs.datasets.reading.roots import find_root, need_existing
from envs.datasets.reading.text import read_text
from envs.sample import Sample
from prompter.errors import UserError

NAME = "gres"
SMALL_AREA = 500


def open_gres(
    split: str, *, root: Path | None = None, skip_bad: bool = False
) -> RecordSource[tuple[str, int]]:
    """Open one split; every text of a file is a sample.

    Args:
        split: train, val, test, test_small or test_large.
        root: the folder with `gres_annotations/` and `gres_images/` (also written with a hyphen).
        skip_bad: leave bad files out, told in `.skipped`, instead of raising.

    Raises:
        UserError: if the set is not there, or a file is bad.
    """
    part, _, wanted_size = split.partition("_")
    annotations_names = [f"gres_annotations/{part}", f"gres-annotations/{part}"]
    folder = find_root(NAME, root, annotations_names, nested=["GRES"])
    annotations = need_existing(NAME, folder, annotations_names)
    images = need_existing(NAME, folder, [f"gres_images/{part}", f"gres-images/{part}"])

    def size_of(name: str) -> str:
        width, height = image_wh(images / f"{name}.jpg")
        target, _ = read_lisa_annotation(annotations / f"{name}.json").draw((height, width))
        return "small" if int(target.sum()) < SMALL_AREA else "large"

    def build(record: tuple[str, int]) -> Sample:
        name, text = record
        tags = {"size": size_of(name), "multiplicity": "one"}
        image, annotation = images / f"{name}.jpg", annotations / f"{name}.json"
        return lisa_sample(NAME, split, image, annotation, text, tags)

    records: list[tuple[str, int]] = []
    skipped: list[UserError] = []
    for name in _names(annotations, part):
        try:
            texts = read_lisa_annotation(annotations / f"{name}.json").texts
            if not wanted_size or size_of(name) == wanted_size:
                records.extend((name, text) for text in range(len(texts)))
        except UserError as error:
            if not skip_bad:
                raise
            skipped.append(error)
    return RecordSource(NAME, split, records, build, skip_bad=skip_bad, skipped=skipped)


def _names(annotations: Path, part: str) -> list[str]:
    """The ids of a split, each once: those listed, or without a list all that have a file."""
    listed = annotations / f"{part}.txt"
    if listed.is_file():
        with blaming(f"list {listed}"):
            words = read_text(listed).split()
        return list(dict.fromkeys(Path(word).stem for word in words))
    return sorted(path.stem for path in annotations.glob("*.json"))
