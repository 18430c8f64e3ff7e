"""What every dataset shares: a source of samples over an index, and errors that say where the data is bad."""

from __future__ import annotations

import operator
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from PIL import Image

from envs.datasets.reading.faults import KINDS, NOTES, BadRecord, NothingUsable, at, hearing, kind_of
from envs.datasets.reading.pixels.labels import ignoring
from envs.datasets.reading.rules import applied, in_force
from envs.masks import decode_rle, encode_rle, union
from envs.sample import Sample, SampleSource
from prompter.errors import UserError

Record = TypeVar("Record")
Record_co = TypeVar("Record_co", covariant=True)


class Records(Protocol[Record_co]):
    """An index of records: sized and indexable, so that it need not be in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record_co: ...


class RecordSource(Generic[Record]):
    """A `SampleSource` that holds an index of small records and builds a sample when it is asked for.

    Samples are built by the rules of reading that were in force when the source was made. `faults` holds
    what was left out, (kind, sentence) each, and `noted` what was read past so far, kind -> sentences; the
    kinds are those of `envs.datasets.reading.faults`.

    Args:
        name, split: of the dataset.
        records: the index.
        build: turns a record into a sample; raises UserError naming file and record when it cannot.
        skip_bad: walk all records now and leave out those that do not build or whose image does not
            load; each is told in `skipped`. Without it the error is raised when the record is asked for.
        skipped: what was already left out while the index was made, an error or a sentence each.
        left_out: what is left out by the set's own rule, because its authors' code leaves it out as well:
            what it is -> how many. No fault; `data check` and `eval` tell it.

    Raises:
        NothingUsable: if there is no usable record.
    """

    def __init__(
        self,
        name: str,
        split: str,
        records: Records[Record],
        build: Callable[[Record], Sample],
        *,
        skip_bad: bool = False,
        skipped: Iterable[str | UserError] = (),
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.faults: list[tuple[str, str]] = [(kind_of(one), str(one)) for one in skipped]
        self.noted: dict[str, set[str]] = {}
        self._rules = in_force()
        self.left_out: dict[str, int] = dict(left_out or {})
        self._records = records
        self._build = build
        self._kept: Sequence[int] = self._good_records() if skip_bad else range(len(records))
        if not len(self._kept):
            reason = f" ({_counted(self.faults)}); the first: {self.faults[0][1]}" if self.faults else "."
            raise NothingUsable(
                f"split {split!r} of dataset {name!r} holds no usable record{reason}", self.faults
            )

    @property
    def skipped(self) -> list[str]:
        """The sentences of `faults`."""
        return [sentence for _, sentence in self.faults]

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._built(self._kept[operator.index(index)])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _built(self, number: int) -> Sample:
        with applied(self._rules), hearing(self._note), ignoring() as ignored:
            sample = self._build(self._records[number])
        _check_text(sample)
        if not ignored:
            return sample
        if sample.ignore is not None:
            ignored.append(decode_rle(sample.ignore, sample.mask_hw))
        return replace(sample, ignore=encode_rle(union(ignored, sample.mask_hw)))

    def _note(self, kind: str, sentence: str) -> None:
        self.noted.setdefault(kind, set()).add(sentence)

    def _good_records(self) -> list[int]:
        good: list[int] = []
        images: dict[str, UserError | None] = {}  # image id -> why it does not load
        problem: UserError | None
        for number in range(len(self._records)):
            try:
                sample = self._built(number)
                if sample.image_id not in images:
                    images[sample.image_id] = _image_problem(sample)
                problem = images[sample.image_id]
            except UserError as error:
                problem = error
            if problem is None:
                good.append(number)
            else:
                self.faults.append((kind_of(problem), str(problem)))
        return good


def _check_text(sample: Sample) -> None:
    """Refuse a question that no file and no tokenizer takes: JSON can write halves of characters."""
    try:
        sample.query.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(sample.query[error.start]):04X}"
        raise BadRecord(
            f"sample {sample.sample_id!r} asks {sample.query!r}, in which {half} is half a character."
        ) from None


def _image_problem(sample: Sample) -> UserError | None:
    """Load a sample's image; None when it is whole and of the size the sample says."""
    try:
        wh = sample.load_image().size
    except UserError as error:
        return error
    if wh != sample.image_wh:
        return BadRecord(f"sample {sample.sample_id!r} says its image is {sample.image_wh}, but it is {wh}.")
    return None


def told(source: SampleSource) -> list[str]:
    """What a source left out and read past so far, a line each, for the end of a command; kinds are counted.

    A source of the user's own need not have `faults`, `left_out` or `noted`.
    """
    lines = []
    faults = getattr(source, "faults", ())
    if faults:
        lines.append(f"{len(faults):,} records left out ({_counted(faults)}); the first: {faults[0][1]}")
    for what, count in getattr(source, "left_out", {}).items():
        lines.append(f"left out by the set's rule: {count:,} {what}")
    for kind, sentences in getattr(source, "noted", {}).items():
        lines.append(f"{len(sentences):,} {(KINDS | NOTES)[kind]}; the first: {min(sentences)}")
    return lines


def _counted(faults: Sequence[tuple[str, str]]) -> str:
    kinds = Counter(kind for kind, _ in faults)
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turn what bad foreign data raises into a `BadRecord` "{where}: {reason}", which keeps its kind.

    To be wrapped around the reading of one record only, so that `where` can name file and record.
    Nested, the outer place comes first. What is noted within is told with the same place.
    """
    try:
        with at(where):
            yield
    except UserError as error:
        raise BadRecord(f"{where}: {error}", kind_of(error)) from error
    except FileNotFoundError as error:
        raise BadRecord(f"{where}: there is no file {str(error.filename)!r}.") from error
    except KeyError as error:
        raise BadRecord(f"{where}: the key {error} is missing.") from error
    except RecursionError as error:
        raise BadRecord(f"{where}: it is nested too deeply.") from error
    except Image.DecompressionBombError as error:
        raise BadRecord(f"{where}: {_sentence(error)}", "huge") from error
    except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError, OSError, EOFError) as error:
        raise BadRecord(f"{where}: {_sentence(error)}", kind_of(error)) from error
    except (struct.error, SyntaxError, MemoryError) as error:  # what Pillow raises on broken files
        raise BadRecord(f"{where}: it cannot be read ({_sentence(error)}).") from error


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "?")) else f"{text}."
