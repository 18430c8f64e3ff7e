"""Published numbers: `published.csv`, one number per line, with where it was read.

Columns: `system` (one checkpoint or configuration), `benchmark` and `split` (a dataset's names where
it is one of ours), `metric`, `value` (per cent), `protocol` (a profile of `eval.protocols`, or
"unstated"), `training` ("trained-on" the benchmark's training set, "zero-shot", or "unstated"),
`source`, and `status`: "verified" if the number was read in the document named, "second-hand" if it
was quoted from elsewhere.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib import resources
from typing import Literal

from prompter.errors import UserError, did_you_mean

UNSTATED = "unstated"


@dataclass(frozen=True, slots=True)
class PublishedNumber:
    """One line of `published.csv`; `value` in per cent."""

    system: str
    benchmark: str
    split: str
    metric: str
    value: float
    protocol: str
    training: Literal["trained-on", "zero-shot", "unstated"]
    source: str
    status: Literal["verified", "second-hand"]


def load_published() -> list[PublishedNumber]:
    """Read the table that ships with the package, in its order."""
    text = resources.files("eval.report").joinpath("published.csv").read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    names = [field.name for field in fields(PublishedNumber)]
    if reader.fieldnames != names:
        raise ValueError(f"published.csv should have the columns {names}, but has {reader.fieldnames}")
    return [PublishedNumber(**{**row, "value": float(row["value"])}) for row in reader]  # type: ignore[arg-type]


def benchmarks(numbers: Iterable[PublishedNumber]) -> list[str]:
    """Names of the benchmarks, in order of first appearance."""
    return list(dict.fromkeys(number.benchmark for number in numbers))


def of_benchmark(numbers: Iterable[PublishedNumber], benchmark: str) -> list[PublishedNumber]:
    """The numbers of one benchmark.

    Raises:
        UserError: if nothing is published about it here.
    """
    known = list(numbers)
    chosen = [number for number in known if number.benchmark == benchmark]
    if not chosen:
        suggestion = did_you_mean(benchmark, benchmarks(known))
        raise UserError(f"published.csv holds no numbers of benchmark {benchmark!r}.{suggestion}")
    return chosen
