"""Many image files, asked and answered into a folder: what is asked, and what is written of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from envs.datasets.reading.pixels.images import IMAGE_SUFFIXES, ImageFile, image_wh
from envs.datasets.reading.records import RecordSource
from envs.rollout import Rollout
from envs.sample import Sample
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import to_line
from recipes.api.files import write_json, write_mask, write_picture
from recipes.api.pictures import DATASET, Picture, refuse_map
from recipes.api.result import Result
from recipes.api.shapes import coco_dataset

WRITTEN = ("masks", "overlays", "geojson", "coco")
"""What can be left out of a folder of answers; `results.jsonl` is always there."""

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Question:
    """A question about a file.

    Args:
        path: of the image.
        image: its path below the folder that all images share.
        query: the question.
        sample_id: names the answer's files: `image` without its ending, where that is enough.
    """

    path: Path
    image: str
    query: str
    sample_id: str


def find_images(inputs: Sequence[Path], leave_out: Path | None = None) -> list[Path]:
    """Image files as they are given, and all in and below folders that are given, sorted; each once.

    Args:
        inputs: files, of any name, and folders, of which files that end in `IMAGE_SUFFIXES` count, but for
            hidden ones.
        leave_out: a folder whose files are not looked at: that of the answers.

    Raises:
        UserError: if a path is not there, or there is no image.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        if given.is_dir():
            found.update(dict.fromkeys(_images_below(given, leave_out)))
        elif given.is_file():
            found[_absolute(given)] = None
        else:
            raise UserError(f"There is no file or folder {given}; check the path.")
    if not found:
        raise UserError(
            f"There is no image in {', '.join(map(str, inputs))}: no file that ends in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    return list(found)


def _images_below(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    left_out = None if leave_out is None else _absolute(leave_out)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and left_out not in _absolute(path).parents:
            yield _absolute(path)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # without `..`, which would lead out of the folder of answers


def shared_folder(images: Sequence[Path]) -> Path:
    """The deepest folder that all images lie in or below."""
    return Path(os.path.commonpath([path.parent for path in images]))


def questions_about(images: Sequence[Path], queries: Sequence[str]) -> list[Question]:
    """Every query about every image, all about one image together.

    Raises:
        UserError: if two answers would have one name.
    """
    folder = shared_folder(images)
    names = {path: path.relative_to(folder).as_posix() for path in images}
    stems = Counter(PurePosixPath(name).with_suffix("").as_posix() for name in names.values())
    questions: dict[str, Question] = {}
    for path, name in names.items():
        stem = PurePosixPath(name).with_suffix("").as_posix()
        stem = stem if stems[stem] == 1 else name
        for number, query in enumerate(queries, start=1):
            sample_id = stem if len(queries) == 1 else f"{stem}.q{number}"
            if sample_id in questions:
                raise UserError(
                    f"The answers about {path} and {questions[sample_id].path} would both be called "
                    f"{sample_id!r}; rename one of the two."
                )
            questions[sample_id] = Question(path, name, query, sample_id)
    return list(questions.values())


def digest_of(questions: Iterable[Question]) -> str:
    """Hex digest of which files are asked about, by name and size in bytes; what makes a run that run."""
    digest = hashlib.blake2b(digest_size=16)
    for name, path in {one.image: one.path for one in questions}.items():
        digest.update(json.dumps([name, path.stat().st_size]).encode())
    return digest.hexdigest()


def open_questions(questions: Sequence[Question], *, skip_bad: bool) -> RecordSource[Question]:
    """The questions as samples without a target, by the rules of reading in force.

    Every header is read now, so that a file that cannot be read is told before a model is loaded.

    Args:
        questions: what to ask.
        skip_bad: leave out images that cannot be read, told in `.skipped`, instead of raising.

    Raises:
        UserError: naming the first image that cannot be read, or that is a map (`refuse_map`).
    """
    source = RecordSource(DATASET, "", questions, _sample, skip_bad=skip_bad)
    for number in range(0 if skip_bad else len(source)):
        source[number]
    return source


def _sample(question: Question) -> Sample:
    refuse_map(question.path)
    wh = image_wh(question.path)
    return Picture(question.image, ImageFile(str(question.path)), wh).sample(
        question.query, question.sample_id
    )


@dataclass
class Tally:
    """What came of the questions: how many answers, objects in them, and answers of each other kind."""

    answers: int = 0
    objects: int = 0
    refused: int = 0
    unreadable: int = 0
    failed: int = 0

    def add(self, result: Result) -> None:
        """Count one answer."""
        self.answers += 1
        self.objects += len(result.rollout.predicted_instances)
        self.refused += result.refused
        self.unreadable += result.failure is not None
        self.failed += result.error is not None


def write_answers(results: Callable[[], Iterator[Result]], out: Path, parts: Sequence[str]) -> Tally:
    """Write the files of answers below a folder; those that are there already stay as they are.

    `masks/ID.png` (the union, 0 and 255), `overlays/ID.jpg`, `geojson/ID.geojson` (objects, in pixels),
    `coco.json` (all of them) and `results.jsonl` (one line an answer, `Result.to_json`).

    Args:
        results: gives them from the first on, each time it is called; their `sample_id` is the ID.
        out: the folder. Each file in it is whole or absent at any time.
        parts: of `WRITTEN`.
    """
    tally = Tally()
    with atomic_write(out / RESULTS) as lines:
        for result in results():
            tally.add(result)
            lines.write(to_line(result.to_json()))
            _write_one(result, out, parts)
    if "coco" in parts:
        write_json(out / "coco.json", coco_dataset(_rollouts(results())))
    return tally


def _write_one(result: Result, out: Path, parts: Sequence[str]) -> None:
    name = result.rollout.sample_id
    for part, suffix, write in (
        ("masks", "png", lambda path: write_mask(path, result.union)),
        ("overlays", "jpg", lambda path: write_picture(path, result.plot())),
        ("geojson", "geojson", lambda path: write_json(path, result.to_geojson())),
    ):
        path = out / part / f"{name}.{suffix}"
        if part in parts and not path.exists():
            write(path)


def _rollouts(results: Iterable[Result]) -> Iterator[Rollout]:
    return (result.rollout for result in results)
