"""Which prediction is whose: ids of a file of predictions against those of a benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envs.datasets.reading.records import blaming
from envs.sample import SampleSource
from eval.submission.forms import Form
from prompter.errors import UserError

_SHOWN = 3


@dataclass(frozen=True)
class BenchmarkIds:
    """Ids of all samples of a benchmark.

    Args:
        samples: sample id -> position in the benchmark.
        images: image id -> the sample's id, for images with one sample; None for those with several.
    """

    samples: Mapping[str, int]
    images: Mapping[str, str | None] = field(repr=False)


def benchmark_ids(source: SampleSource) -> BenchmarkIds:
    """Read the ids of all samples of a benchmark.

    Raises:
        UserError: if two samples share an id, or a sample cannot be loaded.
    """
    samples: dict[str, int] = {}
    images: dict[str, str | None] = {}
    for position in range(len(source)):
        sample = source[position]
        if samples.setdefault(sample.sample_id, position) != position:
            raise UserError(f"{source.name}:{source.split} holds two samples {sample.sample_id!r}.")
        images[sample.image_id] = None if sample.image_id in images else sample.sample_id
    return BenchmarkIds(samples, images)


def read_id_map(path: Path) -> dict[str, str]:
    """Read a JSON object: id in the predictions -> the benchmark's sample id.

    Raises:
        UserError: if it is something else, or maps two ids to one sample.
    """
    with blaming(f"id map {path}"):
        table = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(table, dict) or not all(isinstance(value, str | int) for value in table.values()):
            raise ValueError("it must be a JSON object of ids: id in the predictions -> sample id")
        ids = {key: str(value) for key, value in table.items()}
        twice = [identity for identity, count in Counter(ids.values()).items() if count > 1]
        if twice:
            raise ValueError(f"two ids are mapped to sample {twice[0]!r}")
        return ids


@dataclass(frozen=True)
class Match:
    """Which records belong to which sample.

    Args:
        records: sample id -> positions of its records, in the order of the file.
        unknown: ids of records whose sample the benchmark does not hold, each once.
    """

    records: Mapping[str, Sequence[int]]
    unknown: Sequence[str]


def match(form: Form, ids: BenchmarkIds, id_map: Mapping[str, str] | None = None) -> Match:
    """Find the sample of every record.

    `sample_id` is a sample's id. `image_id` may be that or, where an image has one question, the image's.

    Raises:
        UserError: if a record names no sample, or an image with several questions, or a sample and another
            sample's image at once.
    """
    records: dict[str, list[int]] = {}
    unknown: dict[str, None] = {}
    for position, given, is_image in form.keys():
        identity = given
        if id_map is not None:
            if given not in id_map:
                unknown[given] = None
                continue
            identity = id_map[given]
        found = _resolve(identity, is_image, ids, form.where(position)) if id_map is None else identity
        if found not in ids.samples:
            unknown[given] = None
        else:
            records.setdefault(found, []).append(position)
    return Match(records, list(unknown))


def _resolve(identity: str, is_image: bool, ids: BenchmarkIds, where: str) -> str:
    if not is_image or identity not in ids.images:
        return identity
    of_image = ids.images[identity]
    if identity in ids.samples and of_image != identity:
        raise UserError(
            f"{where}: image_id {identity!r} is the id of a sample and of another sample's image; "
            f"name the sample by `sample_id`."
        )
    if of_image is None and identity not in ids.samples:
        raise UserError(f"{where}: image {identity!r} has several questions; name the sample by `sample_id`.")
    return identity if of_image is None else of_image


def some(ids: Sequence[str]) -> str:
    """The first few ids, and how many more there are."""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(map(repr, ids[:_SHOWN])) + more
