"""Walking a whole split and telling everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from envs.datasets.catalog import DatasetInfo
from envs.datasets.reading.faults import KINDS, NOTES, NothingUsable, hearing, kind_of
from envs.datasets.registry import dataset_info, open_dataset, opener_options
from envs.sample import Sample, SampleSource, content_hash
from prompter.coords import MAX_ASPECT
from prompter.errors import UserError


@dataclass
class CheckReport:
    """What a walk over one split found.

    Args:
        name, split: of the dataset.
        samples, images: how many were read; images are told apart by `image_id`.
        no_target: samples whose target is empty.
        expected: published size in the catalog's `count_unit`, or None.
        problems: kind (a key of `faults.KINDS`) -> sentences.
        notes: kind (a key of `faults.NOTES`) -> sentences; told, and no problem.
        left_out: what the set's own rule leaves out -> how many; told, and no problem.
    """

    name: str
    split: str
    samples: int = 0
    images: int = 0
    no_target: int = 0
    expected: int | None = None
    problems: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    notes: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in NOTES})
    left_out: dict[str, int] = field(default_factory=dict)
    _heard: set[str] = field(default_factory=set, repr=False)

    @property
    def is_clean(self) -> bool:
        """True when there is no problem of any kind."""
        return not any(self.problems.values())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name[0] != "_"}

    def hear(self, kind: str, sentence: str) -> None:
        """Take down a finding, once."""
        if sentence not in self._heard:
            self._heard.add(sentence)
            (self.problems if kind in self.problems else self.notes)[kind].append(sentence)


def check_split(name: str, split: str, options: dict[str, Any], progress: Any = iter) -> CheckReport:
    """Open a split and read every sample of it, image and masks included.

    Args:
        name, split: of the dataset.
        options: for its opener.
        progress: wraps the sequence of sample numbers, for example with `tqdm`.

    Raises:
        UserError: if the set cannot be opened at all. One whose records are all bad is told like others.
    """
    info = dataset_info(name)
    report = CheckReport(name, split, expected=info.counts.get(split))
    try:
        source = _open(name, split, options)
    except NothingUsable as error:
        if not error.faults:
            raise
        for kind, sentence in error.faults:
            report.problems[kind].append(sentence)
        return report
    for kind, sentence in getattr(source, "faults", ()):
        report.problems[kind].append(sentence)
    report.left_out.update(getattr(source, "left_out", {}))
    walk = _Walk(report, info.copies_images)
    with hearing(report.hear):
        for index in progress(range(len(source))):
            try:
                walk.visit(source[index])
            except UserError as error:
                report.problems[kind_of(error)].append(str(error))
    for kind, sentences in getattr(source, "noted", {}).items():  # told while it was opened
        for sentence in sorted(sentences):
            report.hear(kind, sentence)
    _compare_counts(report, info)
    return report


def _open(name: str, split: str, options: dict[str, Any]) -> SampleSource:
    """Open strictly, so that the walk comes only once; leniently where the index itself has bad records."""
    try:
        return open_dataset(name, split, **options)
    except UserError:
        if "skip_bad" not in opener_options(name) or "skip_bad" in options:
            raise
        return open_dataset(name, split, **options, skip_bad=True)


class _Walk:
    """Keeps what is needed to notice repetitions: hashes, not samples."""

    def __init__(self, report: CheckReport, copies_images: bool) -> None:
        self._report = report
        self._kind_of_copy = "copied_image" if copies_images else "duplicate_image"
        self._questions: set[int] = set()
        self._images: set[str] = set()
        self._pixels: dict[str, str] = {}

    def visit(self, sample: Sample) -> None:
        problems = self._report.problems
        self._report.samples += 1
        question = hash((sample.image_id, " ".join(sample.query.lower().split())))
        if question in self._questions:
            problems["duplicate_question"].append(
                f"sample {sample.sample_id!r} asks {sample.query!r} about {sample.image_id!r} again."
            )
        self._questions.add(question)
        problems["empty_mask"].extend(self._empty_masks(sample))
        problems["box"].extend(_bad_boxes(sample))
        if sample.image_id not in self._images:
            self._images.add(sample.image_id)
            self._report.images += 1
            self._look_at_image(sample)
            if max(sample.image_wh) > MAX_ASPECT * min(sample.image_wh):
                width, height = sample.image_wh
                problems["thin"].append(f"image {sample.image_id!r} is {width} x {height} (width x height).")

    def _look_at_image(self, sample: Sample) -> None:
        pixels = sample.image_array()
        width, height = sample.image_wh
        if pixels.shape != (height, width, 3):
            self._report.problems["unreadable"].append(
                f"image {sample.image_id!r} is {pixels.shape[1]} x {pixels.shape[0]} (width x height), "
                f"but its sample says {width} x {height}."
            )
        key = content_hash(pixels)
        if key in self._pixels:
            self._report.hear(
                self._kind_of_copy,
                f"images {self._pixels[key]!r} and {sample.image_id!r} have the same pixels.",
            )
        self._pixels.setdefault(key, sample.image_id)

    def _empty_masks(self, sample: Sample) -> Iterable[str]:
        if sample.target is None:
            self._report.no_target += not sample.boxes
            return
        says_none = "none" in (sample.tags.get("multiplicity"), sample.tags.get("target"))
        target = sample.target_mask()
        if target.all():
            self._report.hear("full_mask", f"the mask of sample {sample.sample_id!r} covers its whole image.")
        if not target.any():
            self._report.no_target += 1
            if not says_none:
                yield f"sample {sample.sample_id!r} has an empty mask."
            if sample.boxes or any(mask.any() for mask in sample.instance_masks()):
                self._report.problems["contradiction"].append(
                    f"sample {sample.sample_id!r} has an empty mask, but objects or boxes."
                )
        for number, mask in enumerate(sample.instance_masks()):
            if not mask.any():
                yield f"object {number} of sample {sample.sample_id!r} has an empty mask."


def _bad_boxes(sample: Sample) -> Iterable[str]:
    width, height = sample.image_wh
    for x1, y1, x2, y2 in sample.boxes:
        if x1 >= x2 or y1 >= y2:
            yield f"sample {sample.sample_id!r} has a box without area."
        elif x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            yield f"sample {sample.sample_id!r} has a box that leaves its {width} x {height} image."


def _compare_counts(report: CheckReport, info: DatasetInfo) -> None:
    found = report.images if info.count_unit == "images" else report.samples
    if report.expected is not None and found != report.expected:
        report.problems["count"].append(
            f"split {report.split!r} of {report.name} has {found} {info.count_unit}; "
            f"{report.expected} are published."
        )
