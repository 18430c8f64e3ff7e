"""What every dataset shares: a source of samples over an index, and errors that say where the data is bad."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from envs.sample import Sample
from prompter.errors import UserError

Record = TypeVar("Record")
Record_co = TypeVar("Record_co", covariant=True)


class Records(Protocol[Record_co]):
    """An index of records: sized and indexable, so that it need not be in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record_co: ...


class RecordSource(Generic[Record]):
    """A `SampleSource` that holds an index of small records and builds a sample when it is asked for.

    Args:
        name, split: of the dataset.
        records: the index.
        build: turns a record into a sample; raises UserError naming file and record when it cannot.
        skip_bad: walk all records now and leave out those that do not build or whose image does not
            load; each is told in `skipped`. Without it the error is raised when the record is asked for.
        skipped: what was already left out while the index was made, one sentence each.
        left_out: what is left out by the set's own rule, because its authors' code leaves it out as well:
            what it is -> how many. No fault; `data check` and `eval` tell it.

    Raises:
        UserError: if there is no usable record.
    """

    def __init__(
        self,
        name: str,
        split: str,
        records: Records[Record],
        build: Callable[[Record], Sample],
        *,
        skip_bad: bool = False,
        skipped: Iterable[str] = (),
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.skipped: list[str] = list(skipped)
        self.left_out: dict[str, int] = dict(left_out or {})
        self._records = records
        self._build = build
        self._kept: Sequence[int] = self._good_records() if skip_bad else range(len(records))
        if not len(self._kept):
            reason = f"; the first problem: {self.skipped[0]}" if self.skipped else "."
            raise UserError(f"split {split!r} of dataset {name!r} holds no usable record{reason}")

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._build(self._records[self._kept[operator.index(index)]])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _good_records(self) -> list[int]:
        good: list[int] = []
        images: dict[str, str | None] = {}  # image id -> why it does not load
        for number in range(len(self._records)):
            try:
                sample = self._build(self._records[number])
                if sample.image_id not in images:
                    images[sample.image_id] = _image_problem(sample)
                problem = images[sample.image_id]
            except UserError as error:
                problem = str(error)
            if problem is None:
                good.append(number)
            else:
                self.skipped.append(problem)
        return good


def _image_problem(sample: Sample) -> str | None:
    """Load a sample's image; None when it is whole and of the size the sample says."""
    try:
        wh = sample.load_image().size
    except UserError as error:
        return str(error)
    if wh != sample.image_wh:
        return f"sample {sample.sample_id!r} says its image is {sample.image_wh}, but it is {wh}."
    return None


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turn what bad foreign data raises into a UserError "{where}: {reason}".

    To be wrapped around the reading of one record only, so that `where` can name file and record.
    Nested, the outer place comes first.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no file {str(error.filename)!r}.") from error
    except KeyError as error:
        raise UserError(f"{where}: the key {error} is missing.") from error
    except RecursionError as error:
        raise UserError(f"{where}: it is nested too deeply.") from error
    except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError, OSError, EOFError) as error:
        raise UserError(f"{where}: {_sentence(error)}") from error
    except (struct.error, SyntaxError, MemoryError) as error:  # what Pillow raises on broken files
        raise UserError(f"{where}: it cannot be read ({_sentence(error)}).") from error


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "?")) else f"{text}."
